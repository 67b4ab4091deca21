// What a guarded server refuses to the unmodified client, and what a stored conversation survives.

import assert from "node:assert/strict";

import { Caller } from "../lib/caller.mjs";
import { goesOn } from "./client.mjs";

/** Long enough for a connection that would come about. */
const GIVE_UP_MS = 8_000;
/** Longer than it takes to write a turn down. */
const WRITTEN_MS = 500;

async function fails(promise) {
  const late = new Promise((resolve) => setTimeout(() => resolve("late"), GIVE_UP_MS));
  const outcome = await Promise.race([promise.then(() => "connected", () => "refused"), late]);
  assert.notEqual(outcome, "connected");
}

async function a_page_of_another_origin_cannot_connect({ proxy, server, browser, pages, servePages }) {
  const foreign = await servePages();
  const caller = await Caller.open(await browser(), foreign);
  try {
    assert.notEqual(foreign.origin, pages.origin);
    const ticket = await server.ticket(pages.origin);
    await fails(caller.start(`${proxy.url}?ticket=${ticket}`));
    assert.notEqual(await caller.state(), "connected");
  } finally {
    await caller.page.close();
    foreign.stop();
  }
}

async function a_client_without_a_ticket_is_not_greeted({ proxy, browser, pages }) {
  const caller = await Caller.open(await browser(), pages);
  try {
    await fails(caller.start(proxy.url));
    assert.notEqual(await caller.state(), "connected");
  } finally {
    await caller.page.close();
  }
}

async function a_killed_server_takes_the_conversation_up_again(context) {
  await goesOn(context, async () => {
    await new Promise((resolve) => setTimeout(resolve, WRITTEN_MS));
    await context.server.crash();
  });
}

export const cases = [
  a_page_of_another_origin_cannot_connect,
  a_client_without_a_ticket_is_not_greeted,
  a_killed_server_takes_the_conversation_up_again,
];
