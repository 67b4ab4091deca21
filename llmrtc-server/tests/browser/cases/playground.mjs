// Our own page, as the server delivers it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

/** Opens the page and watches it: what it asks for, and what its security policy refuses. */
async function open(context, origin) {
  const page = await context.newPage();
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
    ["total", "transcript", "text", "voice"].map(async (id) =>
      Number((await page.locator(`#latency-${id}`).textContent()).replace(" ms", "")),
    ),
  );
  const sum = stages.reduce((a, b) => a + b, 0);
  assert.equal(sum, total, `the stages ${stages.join(" + ")} add up`);

  assert.equal(await button(page, "Interrupt").isEnabled(), true);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator("#voice").evaluate((audio) => audio.muted), true, "Escape silences the answer");
  await settles(status(page), "Interrupted");

  await button(page, "Mute").click();
  assert.equal(await button(page, "Mute").getAttribute("aria-pressed"), "true");
  await button(page, "Hang up").click();
  await settles(status(page), "The call is over");
  assertClean(watch, proxy.origin);
  return `latency ${stages.join(" + ")} = ${total} ms`;
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

  const denied = await open(await playgroundWith("denied"), proxy.origin);
  await button(denied.page, "Start talking").click();
  await settles(problem(denied.page), "not allowed to use the microphone");
  await button(denied.page, "Try the microphone again").waitFor();
  assertClean(denied.watch, proxy.origin);
}

async function the_playground_is_accessible({ playgroundWith, proxy }) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  const context = await playgroundWith("patient");
  for (const colorScheme of ["light", "dark"]) {
    const { page, watch } = await open(context, proxy.origin);
    await page.emulateMedia({ colorScheme });
    // A phone from ten years ago.
    await page.setViewportSize({ width: 320, height: 568 });
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `${overflow} pixels too wide for a phone`);
    assertClean(watch, proxy.origin);

    // Through the debugger, so that the page's own policy stays as strict as it is.
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target).join(", ")}`);
    assert.deepEqual(found, [], `${colorScheme} scheme`);

    await page.keyboard.press("Tab");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.notEqual(outline, "none", "the focus can be seen");
    await page.close();
  }
}

export const cases = [
  the_playground_holds_a_conversation,
  the_playground_reconnects_and_says_so,
  the_playground_is_honest_about_errors,
  the_playground_is_accessible,
];
