// Runs in the browser: one npm client, and a record of everything it reports. `lib/caller.mjs` is its other half.

import { LLMRTCWebClient } from "@llmrtc/llmrtc-web-client";

const EVENTS = [
  "stateChange", "error", "reconnecting", "reconnected",
  "speechStart", "speechEnd", "transcript", "llmChunk", "llm", "ttsStart", "ttsChunk", "tts", "ttsComplete", "ttsCancelled",
  "ttsTrack", "toolCallStart", "toolCallEnd", "stageChange",
];

/** Above: somebody speaks. Comfort noise stays far below. */
const AUDIBLE = 0.01;
/** An answer has pauses between its words; only a longer one is silence. */
const SILENCE_MS = 250;

const events = [];
const waiting = new Set();
let client;
let shares = [];

function record(name, detail) {
  events.push({ name, detail, at: performance.now() });
  for (const look of [...waiting]) look();
}

/** Only what crosses into the test process; media objects stay here. */
function summary(name, args) {
  switch (name) {
    case "ttsTrack":
      return args[0].id;
    case "ttsChunk":
      return { bytes: args[0].byteLength, format: args[1], sampleRate: args[2], loudness: loudnessOfPcm(args[0]) };
    case "tts":
      return { bytes: args[0].byteLength, format: args[1] };
    case "transcript":
      return { text: args[0], final: args[1] };
    default:
      return args.length > 1 ? args : args[0];
  }
}

function loudnessOfPcm(buffer) {
  const samples = new Int16Array(buffer, 0, Math.floor(buffer.byteLength / 2));
  return rootMeanSquare(samples) / 32768;
}

function rootMeanSquare(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / Math.max(1, samples.length));
}

/** Records `audible` and `silent` as the loudness of the answers changes. */
function listen(stream) {
  // Chromium pulls remote audio only for an element that plays it.
  const element = new Audio();
  element.srcObject = stream;
  element.muted = true;
  element.play();
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  analyser.fftSize = 512;
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let audible = false;
  let lastSound = 0;
  setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const now = performance.now();
    if (rootMeanSquare(samples) > AUDIBLE) {
      lastSound = now;
      if (!audible) record("audible");
      audible = true;
    } else if (audible && now - lastSound > SILENCE_MS) {
      // What counts is when the sound ended, not when we were sure.
      record("silent", { at: lastSound });
      audible = false;
    }
  }, 10);
}

window.harness = {
  events,

  create(signallingUrl) {
    client = new LLMRTCWebClient({ signallingUrl });
    for (const name of EVENTS) client.on(name, (...args) => record(name, summary(name, args)));
    client.on("ttsTrack", listen);
  },

  async start(signallingUrl) {
    this.create(signallingUrl);
    const begun = performance.now();
    await client.start();
    return performance.now() - begun;
  },

  async share() {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    shares.push(await client.shareAudio(stream));
  },

  async stopSharing() {
    await shares.at(-1).stop();
  },

  async shareCamera() {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
    const capture = client.shareVideo(stream, 200);
    while (!capture.getLastFrame()) await new Promise((resolve) => setTimeout(resolve, 50));
  },

  async sendAudio(path) {
    client.sendAudio(await (await fetch(path)).arrayBuffer());
  },

  close: () => client.close(),
  state: () => client.state,
  sessionId: () => client.currentSessionId,
  signalingState: () => client.peer?.signalingState,
  remoteDescription: () => client.peer.peerConnection.remoteDescription.sdp,

  /** The first event of one of these names at or after `from`; resolves to its index. */
  next(names, from, limit) {
    return new Promise((resolve, reject) => {
      const look = () => {
        const index = events.findIndex((event, at) => at >= from && names.includes(event.name));
        if (index < 0) return;
        waiting.delete(look);
        clearTimeout(timer);
        resolve(index);
      };
      const timer = setTimeout(() => {
        waiting.delete(look);
        const seen = events.slice(from).map((event) => event.name);
        reject(new Error(`no ${names.join(" or ")} within ${limit} ms; seen: ${seen.join(" ") || "nothing"}`));
      }, limit);
      waiting.add(look);
      look();
    });
  },
};
