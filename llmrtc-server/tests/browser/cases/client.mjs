// The unmodified npm client. Each case is a function named after what must hold.

import assert from "node:assert/strict";

import { mentionsImage, turnsRemembered } from "../lib/echo.mjs";

/** The events of a turn that have to come once each; the number of text and audio pieces is the model's affair. */
const ONCE = ["speechStart", "speechEnd", "transcript", "llm", "ttsStart", "ttsComplete"];

function names(events) {
  return events.map((event) => event.name);
}

/** Waits for one undisturbed turn, checks its events, and returns the answer's text. */
async function turn(caller, { spoken = true } = {}) {
  const from = (await caller.events()).length;
  // Listening to the interrupted end of an earlier utterance would not be a turn.
  const last = await caller.next("ttsComplete", "ttsCancelled", "error");
  assert.equal(last.name, "ttsComplete", `the turn ended with ${last.name} ${JSON.stringify(last.detail ?? "")}`);
  const events = (await caller.events()).slice(from);
  const until = events.slice(0, events.findIndex((event) => event.name === "ttsComplete") + 1);
  const finals = until.filter((event) => event.name !== "transcript" || event.detail.final);

  for (const name of spoken ? ONCE : ONCE.slice(2)) {
    assert.equal(names(finals).filter((seen) => seen === name).length, 1, `${name} once in: ${names(until).join(" ")}`);
  }
  const at = (name) => finals.findIndex((event) => event.name === name);
  const ordered = (...chain) => {
    for (const [before, after] of chain.slice(1).map((name, index) => [chain[index], name])) {
      assert.ok(at(before) < at(after), `${before} before ${after} in: ${names(until).join(" ")}`);
    }
  };
  if (spoken) ordered("speechStart", "speechEnd", "transcript");
  ordered("transcript", "llmChunk", "llm");
  ordered("transcript", "ttsStart", "ttsComplete");
  const chunks = finals.filter((event) => event.name === "llmChunk");
  assert.ok(finals.lastIndexOf(chunks.at(-1)) < at("llm"), "no text after `llm`");
  const answer = finals[at("llm")].detail;
  assert.equal(chunks.map((chunk) => chunk.detail).join("").trim(), answer.trim(), "the pieces make up the answer");
  return answer;
}

/** The answer was not only announced but heard. */
async function assertHeard(caller, from) {
  const events = (await caller.events()).slice(from);
  const start = events.findIndex((event) => event.name === "ttsStart");
  const audible = events.findIndex((event, index) => index > start && event.name === "audible");
  assert.ok(start >= 0 && audible > start, `sound after ttsStart in: ${names(events).join(" ")}`);
}

async function count(caller, name) {
  return names(await caller.events()).filter((seen) => seen === name).length;
}

async function the_client_connects({ callWith, proxy }) {
  const caller = await callWith("patient");
  const took = await caller.start(proxy.url);
  assert.equal(await caller.state(), "connected");
  assert.ok((await caller.sessionId()).length >= 22, "a session id of at least 128 bits");
  const sdp = await caller.remoteDescription();
  assert.deepEqual(sdp.match(/^m=\w+/gm), ["m=application"], "the first answer holds one m-line");
  const limit = Number(/^a=max-message-size:(\d+)/m.exec(sdp)?.[1]);
  assert.ok(limit >= 262144, `a=max-message-size is ${limit}`);
  assert.match(sdp, /^a=candidate:/m, "candidates come inside the answer");
  assert.doesNotMatch(sdp, /\.local\b/, "our candidates can be used without mDNS");
  return `start() took ${Math.round(took)} ms`;
}

async function two_spoken_turns_share_a_history({ callWith, proxy }) {
  const caller = await callWith("patient");
  await caller.start(proxy.url);
  await caller.share();
  const first = await turn(caller);
  await assertHeard(caller, 0);
  await caller.skip();
  const from = (await caller.events()).length;
  const second = await turn(caller);
  await assertHeard(caller, from);
  assert.equal(turnsRemembered(first), 0, first);
  assert.equal(turnsRemembered(second), 1, second);
  assert.equal(await count(caller, "error"), 0);
  assert.equal(await count(caller, "ttsTrack"), 1);
}

async function speaking_interrupts_the_answer({ callWith, proxy }) {
  const caller = await callWith("impatient");
  await caller.start(proxy.url);
  await caller.share();
  await caller.next("ttsStart");
  await caller.next("audible");
  const cancelled = await caller.next("ttsCancelled", "ttsComplete");
  assert.equal(cancelled.name, "ttsCancelled", "the answer is longer than the pause before the second utterance");
  await caller.next("speechStart");
  // The interrupting utterance is answered in turn.
  await caller.next("speechEnd");
  await caller.next("transcript");
  const again = await caller.next("ttsStart");

  const events = await caller.events();
  // A server that ducks at the first suspicion may be silent before it announces the interruption.
  const silent = events.findLast((event) => event.name === "silent" && event.detail.at < again.at);
  assert.ok(silent, `silence between the answers in: ${names(events).join(" ")}`);
  assert.equal(await count(caller, "error"), 0);
  const starts = await count(caller, "ttsStart");
  const ends = (await count(caller, "ttsComplete")) + (await count(caller, "ttsCancelled"));
  assert.ok(starts - ends <= 1 && starts >= ends, `every ttsStart has one end: ${names(events).join(" ")}`);
  return `the last sound came ${Math.round(silent.detail.at - cancelled.at)} ms after ttsCancelled`;
}

async function sharing_again_keeps_microphone_and_voice({ callWith, proxy }) {
  const caller = await callWith("patient");
  await caller.start(proxy.url);
  await caller.share();
  await caller.next("speechStart");
  // In the middle of a word: the utterance has to end without its silence.
  await caller.stopSharing();
  await caller.next("speechEnd");
  await caller.share();
  await caller.share();
  assert.equal(await caller.signalingState(), "stable");
  const sdp = await caller.remoteDescription();
  assert.deepEqual(sdp.match(/^m=\w+/gm), ["m=application", "m=audio", "m=audio", "m=audio"]);
  // What the first, cut-off utterance started may still be under way; the replaced microphone interrupts it.
  await caller.next("speechStart");
  const from = (await caller.events()).length;
  await caller.next("llm");
  await caller.next("ttsComplete");
  await assertHeard(caller, from);
  assert.equal(await count(caller, "ttsTrack"), 1);
  assert.equal(await count(caller, "error"), 0);
}

async function a_camera_frame_reaches_the_model({ callWith, proxy }) {
  const caller = await callWith("patient");
  await caller.start(proxy.url);
  await caller.shareCamera();
  await caller.share();
  const answer = await turn(caller);
  assert.ok(mentionsImage(answer), `the answer mentions the image: ${answer}`);
}

async function a_recording_is_answered_without_a_microphone({ callWith, proxy }) {
  const caller = await callWith("patient");
  await caller.start(proxy.url);
  await caller.sendAudio("/speech.wav");
  await turn(caller, { spoken: false });
  const chunks = (await caller.events()).filter((event) => event.name === "ttsChunk").map((event) => event.detail);
  assert.ok(chunks.length > 0, "the answer arrives as ttsChunk");
  assert.ok(chunks.every((chunk) => chunk.format === "pcm" && chunk.sampleRate > 0 && chunk.bytes <= 32768));
  assert.ok(chunks.some((chunk) => chunk.loudness > 0.01), "the answer is audible");
  assert.equal(await count(caller, "ttsTrack"), 0);
  // With a microphone, and with it a track, the answer takes the track.
  await caller.share();
  await caller.skip();
  await caller.next("ttsTrack", "ttsStart");
  await caller.next("audible");
  assert.equal(await count(caller, "ttsChunk"), chunks.length);
}

/** A conversation goes on, under the same id, after `lose` has taken the connection away. */
export async function goesOn({ callWith, proxy }, lose) {
  const caller = await callWith("patient");
  await caller.start(proxy.url);
  await caller.share();
  const first = await turn(caller);
  assert.equal(turnsRemembered(first), 0, first);
  const id = await caller.sessionId();
  await caller.skip();
  await lose();
  await caller.next("reconnecting");
  const resumed = await caller.next("reconnected");
  assert.equal(resumed.detail, true, "the history was recovered");
  while ((await caller.state()) !== "connected") await caller.next("stateChange");
  assert.equal(await caller.sessionId(), id);
  // The client shares its microphone again by itself.
  const second = await turn(caller);
  assert.equal(turnsRemembered(second), 1, second);
}

async function a_cut_connection_resumes_the_conversation(context) {
  await goesOn(context, () => context.proxy.cut());
}

export const cases = [
  the_client_connects,
  two_spoken_turns_share_a_history,
  speaking_interrupts_the_answer,
  sharing_again_keeps_microphone_and_voice,
  a_camera_frame_reaches_the_model,
  a_recording_is_answered_without_a_microphone,
  a_cut_connection_resumes_the_conversation,
];
