// Our own page, as the server delivers it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

/** Opens the page and watches it: what it asks for, and what its security policy refuses. */
async function open(context, origin, prepare) {
  const page = await context.newPage();
  await prepare?.(page);
  const watch = { requests: [], violations: [], failures: [] };
  page.on("request", (request) => watch.requests.push(request.url()));
  page.on("console", (line) => {
    if (/Content Security Policy/i.test(line.text())) watch.violations.push(line.text());
  });
  page.on("pageerror", (error) => watch.failures.push(error.message));
  await page.goto(`${origin}/`);
  return { page, watch };
}

function assertClean({ requests, violations, failures }, origin) {
  const elsewhere = requests.filter((url) => new URL(url).host !== new URL(origin).host);
  assert.deepEqual(elsewhere, [], "the page asks nobody else");
  assert.deepEqual(violations, [], "the security policy refused nothing");
  assert.deepEqual(failures, [], "no script failed");
}

const status = (page) => page.getByRole("status");
const problem = (page) => page.getByRole("alert");
const button = (page, name) => page.getByRole("button", { name });

/** The element's text once it matches. */
async function settles(locator, pattern) {
  await locator.filter({ hasText: pattern }).waitFor({ timeout: 40_000 });
  return locator.textContent();
}

async function the_playground_holds_a_conversation({ playgroundWith, proxy }) {
  const { page, watch } = await open(await playgroundWith("patient"), proxy.origin);
  // By keyboard alone: the first stop is the button that starts.
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Start talking");
  await page.keyboard.press("Enter");
  await settles(status(page), "Say something");

  const log = page.getByRole("log");
  await log.getByText(/^You: /).first().waitFor({ timeout: 40_000 });
  await log.getByText(/^Assistant: /).first().waitFor({ timeout: 40_000 });
  await settles(page.locator("#floor"), "The assistant is speaking");
  await settles(page.locator("#latency-voice"), /\d ms/);
  const [total, ...stages] = await Promise.all(
    ["total", "end", "transcript", "text", "voice"].map(async (id) =>
      Number((await page.locator(`#latency-${id}`).textContent()).replace(" ms", "")),
    ),
  );
  const sum = stages.reduce((a, b) => a + b, 0);
  assert.equal(sum, total, `the stages ${stages.join(" + ")} add up`);

  assert.equal(await button(page, "Interrupt").isEnabled(), true);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#voice").evaluate((audio) => audio.muted), true, "Escape silences the answer");
  await settles(status(page), "Interrupted");

  await assertAccessible(page, "during a call");
  await button(page, "Mute").click();
  assert.equal(await button(page, "Mute").getAttribute("aria-pressed"), "true");
  await button(page, "Hang up").click();
  await settles(status(page), "The call is over");
  assertClean(watch, proxy.origin);
  return `latency ${stages.join(" + ")} = ${total} ms`;
}

async function the_playground_shows_words_while_they_are_spoken({ playgroundWith, proxy }) {
  // The echo recogniser says nothing before the end, so two messages are added to what the real server says.
  const { page, watch } = await open(await playgroundWith("patient"), proxy.origin, (page) =>
    page.routeWebSocket(/.*/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((data) => {
        socket.send(data);
        if (JSON.parse(data).type !== "ready") return;
        for (const text of ["book a", "book a table"]) {
          socket.send(JSON.stringify({ type: "transcript", text, isFinal: false }));
        }
      });
    }),
  );
  await button(page, "Start talking").click();
  await settles(page.locator("#draft-user"), "book a table");
  assert.equal(await page.locator("#draft-user").getAttribute("aria-live"), "off", "only final text is announced");
  await page.getByRole("log").getByText(/^You: /).first().waitFor({ timeout: 40_000 });
  assert.equal(await page.locator("#draft-user").isVisible(), false, "the final text takes its place");
  assert.equal(await page.getByRole("log").getByText("book a").count(), 0);
  assertClean(watch, proxy.origin);
}

async function the_stages_of_the_playground_always_add_up({ playgroundWith, proxy }) {
  const { page, watch } = await open(await playgroundWith("patient"), proxy.origin);
  const wrong = await page.evaluate(async () => {
    const { Latency, STAGES } = await import("/latency.js");
    const wrong = [];
    for (let n = 0; n < 5_000; n += 1) {
      const latency = new Latency();
      const at = () => Math.random() * 3_000;
      // In any order, and with gaps: messages and sounds take different ways.
      latency.begin(at(), Math.random() < 0.5 ? at() : undefined);
      for (const mark of ["transcript", "text", "voice"]) if (Math.random() < 0.8) latency.mark(mark, 3_000 + at());
      const stages = latency.stages;
      const parts = STAGES.map((stage) => stages[stage]).filter((part) => part !== undefined);
      const sum = parts.reduce((a, b) => a + b, 0);
      const whole = parts.every((part) => Number.isInteger(part) && part >= 0);
      if (!whole || (parts.length > 0 && sum !== stages.total)) wrong.push(stages);
    }
    return wrong;
  });
  assert.deepEqual(wrong.slice(0, 3), []);
  assertClean(watch, proxy.origin);
}

async function the_playground_can_be_written_to({ playgroundWith, proxy }) {
  const sent = [];
  const { page, watch } = await open(await playgroundWith("denied"), proxy.origin, async (page) => {
    // The echo providers have no models to name.
    await page.route("**/info", async (route) => {
      const info = await (await route.fetch()).json();
      await route.fulfill({ json: { ...info, models: { llm: "a-model" } } });
    });
    page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => sent.push(JSON.parse(payload))));
  });
  await settles(page.locator("#models"), "a-model");
  // Nobody is asked for a microphone, and the answer could still be heard.
  await page.getByLabel("Write instead of speaking").fill("What is the capital of France?");
  await page.keyboard.press("Enter");
  const log = page.getByRole("log");
  await settles(log, "You: What is the capital of France?");
  await settles(log, "Assistant: You said: What is the capital of France?");
  assert.deepEqual(sent.at(-1), { type: "text", text: "What is the capital of France?" });
  assert.equal(await problem(page).textContent(), "");
  await settles(page.locator("#latency-voice"), /\d ms/);
  await page.waitForFunction(() => document.getElementById("voice").srcObject?.getAudioTracks().length === 1);
  assert.equal(await page.getByLabel("Write instead of speaking").inputValue(), "");
  assertClean(watch, proxy.origin);
  await assertAccessible(page, "while writing");
}

async function the_playground_reconnects_and_says_so({ playgroundWith, proxy }) {
  const { page, watch } = await open(await playgroundWith("patient"), proxy.origin);
  await button(page, "Start talking").click();
  await page.getByRole("log").getByText(/^Assistant: /).first().waitFor({ timeout: 40_000 });
  proxy.cut({ refuse: true });
  await settles(status(page), "Trying again, attempt 2 of 5");
  proxy.accept();
  await settles(page.getByRole("log"), "Reconnected; the conversation continues.");
  await settles(status(page), "Connected");
  assertClean(watch, proxy.origin);
}

async function the_playground_is_honest_about_errors({ playgroundWith, proxy }) {
  const unreachable = await open(await playgroundWith("patient"), proxy.origin);
  proxy.cut({ refuse: true });
  await button(unreachable.page, "Start talking").click();
  await settles(problem(unreachable.page), "does not answer");
  await settles(status(unreachable.page), "The call is over");
  proxy.accept();
  // The same button starts again, and the old complaint goes away.
  await button(unreachable.page, "Start talking").click();
  await settles(status(unreachable.page), "Connected");
  assert.equal(await problem(unreachable.page).textContent(), "");
  assert.deepEqual(unreachable.watch.failures, []);

  const loading = await open(await playgroundWith("patient"), proxy.origin, (page) =>
    page.route("**/ready", (route) => route.fulfill({ status: 503, json: { ready: false, reason: "loading" } })),
  );
  await settles(problem(loading.page), "still loading its models");
  await loading.page.unroute("**/ready");
  await problem(loading.page).filter({ hasText: /^$/ }).waitFor({ state: "attached" });

  const denied = await open(await playgroundWith("denied"), proxy.origin);
  await button(denied.page, "Start talking").click();
  await settles(problem(denied.page), "not allowed to use the microphone");
  await button(denied.page, "Try the microphone again").waitFor();
  assertClean(denied.watch, proxy.origin);
}

async function assertAccessible(page, when) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  // Through the debugger, so that the page's own policy stays as strict as it is.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target).join(", ")}`);
  assert.deepEqual(found, [], when);
}

async function the_playground_is_accessible({ playgroundWith, proxy }) {
  const context = await playgroundWith("patient");
  for (const colorScheme of ["light", "dark"]) {
    const { page, watch } = await open(context, proxy.origin);
    await page.emulateMedia({ colorScheme });
    // A phone from ten years ago.
    await page.setViewportSize({ width: 320, height: 568 });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide for a phone`);
    assertClean(watch, proxy.origin);

    await assertAccessible(page, `${colorScheme} scheme`);

    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", "the focus can be seen");
    await page.close();
  }
}

export const cases = [
  the_playground_holds_a_conversation,
  the_playground_shows_words_while_they_are_spoken,
  the_stages_of_the_playground_always_add_up,
  the_playground_can_be_written_to,
  the_playground_reconnects_and_says_so,
  the_playground_is_honest_about_errors,
  the_playground_is_accessible,
];
