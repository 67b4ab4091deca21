// Runs the cases one after the other: a real-time conversation does not share two cores well.

import { mkdtemp, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

import { cases as clientCases } from "./cases/client.mjs";
import { cases as guardedCases } from "./cases/guarded.mjs";
import { cases as localCases } from "./cases/local.mjs";
import { cases as playgroundCases } from "./cases/playground.mjs";
import { launch } from "./lib/browser.mjs";
import { Caller } from "./lib/caller.mjs";
import { Proxy, Server, servePages } from "./lib/server.mjs";
import { readWav, writeWav } from "./lib/wav.mjs";

const CASE_MS = 120_000;

const here = path.dirname(fileURLToPath(import.meta.url));
const speech = path.join(here, "../../../llmrtc-media/tests/fixtures/speech.wav");

function required(variable) {
  const value = process.env[variable];
  if (!value) {
    console.error(`${variable} is not set; \`cargo xtask test --group browser\` sets it`);
    process.exit(2);
  }
  return value;
}

const executablePath = required("LLMRTC_CHROMIUM");
const binary = required("LLMRTC_BIN");
const models = process.env.LLMRTC_MODEL_DIR;
const wanted = process.argv.slice(2);
// The npm client's cases run twice: against an open server, and as applications use a guarded one.
const cases = [
  ...clientCases.map((run) => ({ name: run.name, run })),
  ...[...clientCases, ...guardedCases].map((run) => ({ name: `${run.name} with a ticket`, run, guarded: true })),
  ...playgroundCases.map((run) => ({ name: run.name, run })),
  ...(models ? localCases : []).map((run) => ({ name: run.name, run, models })),
].filter(({ name }) => wanted.every((word) => name.includes(word)));

const scratch = await mkdtemp(path.join(os.tmpdir(), "llmrtc-browser-"));
const recording = await readWav(speech);
const microphone = (name) => path.join(scratch, `${name}.wav`);
// Long enough between two utterances for an answer to end, and short enough to cut it off.
await writeWav(microphone("patient"), recording, { secondsBefore: 0.5, secondsAfter: 10 });
await writeWav(microphone("impatient"), recording, { secondsBefore: 0.5, secondsAfter: 2.5 });

const pages = await servePages(here, { "/speech.wav": speech });
const browsers = {};
let passed = 0;
let failed = 0;

/** Each kind of browser starts when it is first needed. */
function browser(kind) {
  browsers[kind] ??= launch(
    kind === "denied"
      ? { executablePath, microphone: microphone("patient"), permitted: false }
      : { executablePath, microphone: microphone(kind) },
  );
  return browsers[kind];
}

/** Every case has its own server, so that a failure stays where it happened. */
async function runCase({ name, run, guarded, models }) {
  const opened = [];
  let server;
  let proxy;
  let callers = [];
  const begun = Date.now();
  const seconds = () => `${((Date.now() - begun) / 1000).toFixed(1)} s`;
  let timer;
  try {
    server = await Server.start(binary, scratch, { page: guarded && pages.origin, models });
    proxy = await Proxy.start(server.port);
    const context = {
      proxy,
      server,
      callWith: async (kind) => {
        const caller = await Caller.open(await browser(kind), pages);
        callers.push(caller);
        if (guarded) {
          // The application fetches a ticket once and gives the client one URL; its reconnects keep that URL.
          const start = caller.start.bind(caller);
          caller.start = async (url) => start(`${url}?ticket=${await server.ticket(pages.origin)}`);
        }
        return caller;
      },
      browser: () => browser("patient"),
      pages,
      servePages: () => servePages(here, {}),
      playgroundWith: async (kind) => {
        const made = await (await browser(kind)).newContext();
        if (kind === "denied") await made.grantPermissions([]);
        opened.push(made);
        return made;
      },
    };
    const overdue = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`not done after ${CASE_MS / 1000} s`)), CASE_MS);
    });
    const note = await Promise.race([run(context), overdue]);
    if (!server.running) throw new Error("the server died");
    for (const caller of callers) await caller.close();
    for (const made of opened) await made.close();
    const exit = await server.stop();
    if (exit !== 0) throw new Error(`the server exited with ${exit} when it was asked to stop`);
    passed += 1;
    console.log(`ok    ${name} (${seconds()}${note ? `, ${note}` : ""})`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL  ${name} (${seconds()})\n${indent(error.stack ?? String(error))}`);
    for (const caller of callers) {
      const events = await caller.events().catch(() => []);
      const line = ({ name, detail, at }) => `${Math.round(at)} ${name} ${JSON.stringify(detail) ?? ""}`;
      console.log(indent(`events:\n${events.map(line).join("\n")}\nconsole:\n${caller.console.slice(-30).join("\n")}`));
    }
    console.log(indent(`server:\n${server?.log ?? "not started"}`));
  } finally {
    clearTimeout(timer);
    for (const caller of callers) await caller.close().catch(() => {});
    for (const made of opened) await made.close().catch(() => {});
    proxy?.stop();
    await server?.stop();
  }
}

function indent(text) {
  return text.replace(/^/gm, "      ");
}

if (!models) console.log("skipped: cases with models in the server; LLMRTC_MODEL_DIR is not set");
try {
  for (const run of cases) await runCase(run);
} finally {
  for (const started of Object.values(browsers)) await started.then((open) => open.close()).catch(() => {});
  pages.stop();
  await rm(scratch, { recursive: true, force: true });
}
console.log(`browser: ${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
