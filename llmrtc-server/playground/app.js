// The page. The wire is in call.js, the clock in latency.js, microphone and meters in sound.js.

import { Call, Problem, Unreachable } from "./call.js";
import { Latency, STAGES } from "./latency.js";
import { cannotAsk, LOOK_MS, Meter, microphoneProblem, openMicrophone } from "./sound.js";

/** Someone who waits longer than this is told that it goes on; sooner, it would only talk over the answer. */
const LONG_THOUGHT_MS = 1_500;
/** A voice that ended longer ago does not belong to the turn that ends now. */
const TURN_END_MS = 5_000;
/** Between two questions whether the server is ready. */
const READY_AGAIN_MS = 2_000;

const $ = (id) => document.getElementById(id);
const latency = new Latency();
let call;
let track;
let audioContext;
let microphoneMeter;
let voiceMeter;
/** The person silenced this answer; the next one is audible again. */
let silenced = false;
let longThought;

function say(sentence) {
  $("status").textContent = sentence;
}

function complain(sentence) {
  $("problem").textContent = sentence;
}

// The floor

const FLOORS = {
  offline: "Not connected",
  nobody: "Nobody is speaking",
  user: "You are speaking",
  thinking: "The assistant is thinking",
  assistant: "The assistant is speaking",
};

/** Not announced: a screen reader would talk over the very voices that this is about. */
function giveFloor(who) {
  clearTimeout(longThought);
  if ($("floor").dataset.floor === "thinking" && who !== "thinking" && who !== "offline" && call) say("Connected.");
  if (who === "thinking") longThought = setTimeout(() => say("The assistant is still thinking…"), LONG_THOUGHT_MS);
  $("floor").dataset.floor = who;
  $("floor-text").textContent = FLOORS[who];
  $("interrupt").disabled = who !== "assistant" || silenced;
}

// The conversation

/** Adds a line that does not change any more. */
function record(who, text, detail) {
  const entry = document.createElement("p");
  entry.className = `entry ${who}`;
  if (who !== "note") {
    const speaker = document.createElement("span");
    speaker.className = "visually-hidden";
    speaker.textContent = who === "user" ? "You: " : "Assistant: ";
    entry.append(speaker);
  }
  entry.append(text);
  if (detail) entry.append(small(detail));
  $("log-empty").hidden = true;
  $("log").append(entry);
  scrollDown();
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}

function draft(who, text) {
  const line = $(`draft-${who}`);
  line.textContent = text;
  line.hidden = text === "";
  if (text) $("log-empty").hidden = true;
  scrollDown();
}

function finishAssistant(text, detail) {
  draft("assistant", "");
  if (text) record("assistant", text, detail);
}

/** Marks the answer that is being written, or the one that was being spoken. */
function markInterrupted() {
  const written = $("draft-assistant").textContent;
  if (written) {
    finishAssistant(written, "interrupted");
    return;
  }
  const answer = $("log").lastElementChild;
  if (answer?.classList.contains("assistant") && !answer.querySelector("small")) answer.append(small("interrupted"));
}

function scrollDown() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

// Latency and events

function showLatency() {
  const stages = latency.stages;
  if (stages.transcript === undefined && stages.text === undefined) return;
  $("latency-empty").hidden = true;
  $("latency").hidden = false;
  const ms = (value) => (value === undefined ? "–" : `${value} ms`);
  for (const stage of STAGES) {
    $(`latency-${stage}`).textContent = ms(stages[stage]);
    const share = stages.total > 0 ? (100 * (stages[stage] ?? 0)) / stages.total : 0;
    $("bar").querySelector(`[data-stage="${stage}"]`).style.setProperty("--share", `${share}%`);
  }
  $("stage-end").hidden = stages.end === undefined;
  $("latency-total").textContent = ms(stages.total);
  const from = stages.end === undefined ? "from the end of your turn" : "from your last sound";
  $("latency-meaning").textContent = latency.isComplete ? `${from} to the first sound of the answer` : `${from}, so far`;
}

function logEvent(message) {
  const item = document.createElement("li");
  const time = (performance.now() / 1000).toFixed(3).padStart(9);
  item.textContent = `${time} s  ${message.type}${message.isFinal === false ? " (interim)" : ""}`;
  $("events").append(item);
  while ($("events").childElementCount > 200) $("events").firstElementChild.remove();
}

function onMessage(message) {
  const now = performance.now();
  if (message.type !== "llm-chunk" || !$("draft-assistant").textContent) logEvent(message);
  switch (message.type) {
    case "speech-start":
      // Text without sound so far: there is no `tts-cancelled` for it.
      if ($("draft-assistant").textContent) markInterrupted();
      giveFloor("user");
      break;
    case "speech-end": {
      const voice = microphoneMeter?.lastVoice;
      latency.begin(now, now - voice < TURN_END_MS ? voice : undefined);
      giveFloor("thinking");
      break;
    }
    case "transcript":
      if (message.isFinal === false) {
        draft("user", message.text);
        break;
      }
      latency.mark("transcript", now);
      draft("user", "");
      if (!message.text.trim()) giveFloor("nobody");
      else {
        record("user", message.text);
        // What was written may have cut an answer before it was read back.
        if ($("floor").dataset.floor === "nobody") giveFloor("thinking");
      }
      break;
    case "llm-chunk":
      if (!message.content) break;
      latency.mark("text", now);
      draft("assistant", $("draft-assistant").textContent + message.content);
      break;
    case "llm":
      latency.mark("text", now);
      finishAssistant(message.text);
      break;
    case "tts-start":
      silenced = false;
      $("voice").muted = false;
      giveFloor("assistant");
      break;
    case "tts-cancelled":
      markInterrupted();
      giveFloor("nobody");
      break;
    case "tts-complete":
      giveFloor("nobody");
      break;
    case "tool-call-start":
      record("note", `Using ${message.name}…`);
      break;
    case "stage-change":
      record("note", `Stage: ${message.from} → ${message.to}`);
      break;
    case "error":
      complain(`${message.message} (${message.code})`);
      giveFloor("nobody");
      break;
  }
  showLatency();
}

// The call

function onState({ state, attempt, of }) {
  const talking = state === "connected";
  $("call").textContent = state === "closed" ? "Start talking" : "Hang up";
  $("call").classList.toggle("primary", state === "closed");
  $("microphone").disabled = !talking;
  if (!talking) giveFloor("offline");
  switch (state) {
    case "connecting":
      say("Connecting…");
      break;
    case "connected":
      giveFloor("nobody");
      say(track ? "Connected. Say something." : "Connected.");
      break;
    case "reconnecting":
      finishAssistant($("draft-assistant").textContent, "connection lost");
      draft("user", "");
      say(`The connection is lost. Trying again, attempt ${attempt} of ${of}…`);
      break;
    case "closed":
      finishAssistant($("draft-assistant").textContent, "call ended");
      draft("user", "");
      stopMicrophone();
      say("The call is over.");
      break;
  }
}

function onVoice(stream) {
  const audio = $("voice");
  audio.srcObject = stream;
  audio.play().catch(() => {
    complain("The browser holds the sound back. Press any key, or touch the page, to hear the answers.");
    const retry = () => audio.play().then(() => complain(""), () => {});
    addEventListener("pointerdown", retry, { once: true });
    addEventListener("keydown", retry, { once: true });
  });
  voiceMeter = audioContext && new Meter(audioContext, stream);
}

function look() {
  const now = performance.now();
  const speaking = $("floor").dataset.floor === "assistant";
  if (track?.enabled) microphoneMeter?.look(now);
  const level = track?.enabled ? (microphoneMeter?.level ?? 0) : 0;
  $("level").value = level;
  if (voiceMeter?.look(now) && speaking && latency.awaitsVoice) {
    latency.mark("voice", now);
    showLatency();
  }
  const loudest = speaking ? (voiceMeter?.level ?? 0) : level;
  $("floor").style.setProperty("--level", loudest.toFixed(2));
}

async function useMicrophone() {
  const reason = cannotAsk();
  if (reason) {
    complain(`${reason} You are connected, but cannot speak.${instead()}`);
    return;
  }
  let stream;
  try {
    stream = await openMicrophone();
  } catch (error) {
    $("microphone").textContent = "Try the microphone again";
    complain(`${microphoneProblem(error)}${instead()}`);
    return;
  }
  if (!call || call.state === "closed") {
    // Hung up while the browser was asking.
    for (const unused of stream.getTracks()) unused.stop();
    return;
  }
  [track] = stream.getAudioTracks();
  microphoneMeter = audioContext && new Meter(audioContext, stream);
  track.addEventListener("ended", () => {
    stopMicrophone();
    $("microphone").textContent = "Try the microphone again";
    complain("The microphone was unplugged or its permission withdrawn.");
  });
  complain("");
  $("microphone").textContent = "Mute";
  $("microphone").setAttribute("aria-pressed", "false");
  await call.share(track);
  if (call.state === "connected") say("Connected. Say something.");
}

/** What is left to those who cannot speak. */
function instead() {
  return $("composer").hidden ? "" : " You can write instead.";
}

function stopMicrophone() {
  track?.stop();
  track = microphoneMeter = undefined;
  $("microphone").textContent = "Mute";
  $("microphone").removeAttribute("aria-pressed");
}

/** Connects, with a microphone unless somebody only wants to write. */
async function start({ microphone }) {
  complain("");
  // In the click, because browsers start sound only where a person asked for it.
  audioContext ??= window.AudioContext && new AudioContext();
  audioContext?.resume();
  // The page's own query goes along: a token in it is for the socket.
  const url = new URL(`/${location.search}`, location.href.replace(/^http/, "ws"));
  const mine = new Call(url);
  call = mine;
  // A call that was hung up may still have news; the page shows the present one.
  const on = (type, react) => mine.addEventListener(type, ({ detail }) => mine === call && react(detail));
  on("state", onState);
  on("message", onMessage);
  on("voice", onVoice);
  on("problem", complain);
  on("resumed", (resumed) =>
    record("note", resumed ? "Reconnected; the conversation continues." : "Reconnected as a new conversation."),
  );
  try {
    await mine.start();
    if (mine.state === "connected" && microphone) await useMicrophone();
  } catch (error) {
    if (mine !== call) return;
    complain(error instanceof Problem ? error.message : `The call failed: ${error.message}`);
    mine.close();
    if (error instanceof Unreachable) await explain(mine);
  }
}

/** Finds out why no call came about: a browser does not tell a page. */
async function explain(failed) {
  const reason = await unready();
  if (reason && failed === call && failed.state === "closed") complain(reason);
}

const UNREADY = {
  starting: "The server is still starting. Try again in a moment.",
  loading: "The server is still loading its models. Try again in a moment.",
  draining: "The server is shutting down.",
  overloaded: "The server has as many calls as it can take. Try again later.",
};

/** Why the server takes no calls, as far as it says so. */
async function unready() {
  try {
    const response = await fetch("ready");
    const { ready, reason } = await response.json();
    return ready ? undefined : (UNREADY[reason] ?? `The server is not ready: ${reason}.`);
  } catch {
    return undefined;
  }
}

function interrupt() {
  if ($("interrupt").disabled) return;
  // The server stops when it hears of this; the person wants silence now.
  call.interrupt();
  silenced = true;
  $("voice").muted = true;
  $("interrupt").disabled = true;
  // A disabled button loses the focus, and with it a keyboard user's place.
  if (document.activeElement === document.body || document.activeElement === $("interrupt")) $("microphone").focus();
  say("Interrupted. The next answer will be audible again.");
}

/** A question in writing; it starts a call without a microphone if there is none. */
async function write(text) {
  if (!call || call.state === "closed") await start({ microphone: false });
  else if (call.state !== "connected") complain("You are not connected yet. Send your text again in a moment.");
  if (call.state !== "connected") return;
  await call.listen();
  const now = performance.now();
  latency.begin(now);
  complain("");
  call.write(text);
  $("text").value = "";
  giveFloor("thinking");
}

$("call").addEventListener("click", () => {
  if (!call || call.state === "closed") start({ microphone: true });
  else call.close();
});

$("microphone").addEventListener("click", () => {
  if (!track) {
    useMicrophone().catch((error) => complain(`The microphone could not be shared: ${error.message}`));
    return;
  }
  track.enabled = !track.enabled;
  $("microphone").setAttribute("aria-pressed", String(!track.enabled));
  say(track.enabled ? "Your microphone is on." : "Your microphone is muted.");
});

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (text) write(text).catch((error) => complain(`The text could not be sent: ${error.message}`));
});

$("interrupt").addEventListener("click", interrupt);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") interrupt();
});
addEventListener("online", () => call?.retryNow());
setInterval(look, LOOK_MS);

// What the server says about itself

const PARTS = { stt: "Hearing", llm: "Thinking", tts: "Speaking" };

function showModels({ providers = {}, models = {} }) {
  for (const [part, title] of Object.entries(PARTS)) {
    if (!providers[part] && !models[part]) continue;
    const row = document.createElement("div");
    const term = document.createElement("dt");
    const name = document.createElement("dd");
    term.textContent = title;
    name.textContent = models[part] ?? providers[part];
    if (models[part] && providers[part]) name.append(small(providers[part]));
    row.append(term, name);
    $("models").append(row);
  }
  $("models").hidden = $("models").childElementCount === 0;
}

fetch("info")
  .then((response) => (response.ok ? response.json() : {}))
  .then((info) => {
    showModels(info);
    $("composer").hidden = info.textInput !== true;
  })
  .catch(() => {});

/** Says so while the server cannot be called yet. */
async function watchReadiness() {
  if (call) return;
  const reason = await unready();
  if (call || (!reason && !$("problem").textContent)) return;
  complain(reason ?? "");
  if (reason) setTimeout(watchReadiness, READY_AGAIN_MS);
}
watchReadiness();
