// What a newcomer meets: our page, and recognition, language model and voice in the server's own process. Runs where
// LLMRTC_MODEL_DIR names their folder, which the test command sees to.

import assert from "node:assert/strict";

async function the_playground_talks_with_models_in_the_server({ playgroundWith, proxy }) {
  const page = await (await playgroundWith("patient")).newPage();
  await page.goto(`${proxy.origin}/`);
  const models = await (await fetch(`${proxy.origin}/info`)).json();
  assert.deepEqual(models.providers, { llm: "embedded", stt: "embedded", tts: "embedded" });
  await page.getByRole("button", { name: "Start talking" }).click();
  const log = page.getByRole("log");
  // Understood: real speech by real recognition.
  const heard = log.getByText(/^You: .*best of times/i).first();
  await heard.waitFor({ timeout: 40_000 });
  const answer = log.getByText(/^Assistant: \w/).first();
  await answer.waitFor({ timeout: 40_000 });
  // The latency of the voice appears when the browser hears it.
  const voice = page.locator("#latency-voice").filter({ hasText: /\d ms/ });
  await voice.waitFor({ timeout: 40_000 });
  const total = await page.locator("#latency-total").textContent();
  await page.getByRole("button", { name: "Hang up" }).click();
  return `answered after ${total}`;
}

export const cases = [the_playground_talks_with_models_in_the_server];
