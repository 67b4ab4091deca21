// The playground: a whole LLMRTC client in one file, without a build step. It speaks protocol v1 directly; docs/protocol.md
// says what the messages mean. `Call` knows the wire, `Latency` the clock, and everything below them the page.

const READY_MS = 10_000;
const ACK_MS = 5_000;
const GATHERING_MS = 3_000;
const PEER_MS = 30_000;
const PING_MS = 15_000;
const PONG_MS = 10_000;
/** Waits before the attempts to reconnect. Each is lengthened by up to 30 %, so that a restarted server is not stormed. */
const BACKOFF_MS = [1_000, 2_000, 4_000, 8_000, 16_000];

/** Errors that take the place of an answer. */
const OFFER_REFUSED = new Set(["CONNECTION_FAILED", "WEBRTC_UNAVAILABLE"]);

/** An error whose message is written for the person in front of the page. */
class Problem extends Error {}

/**
 * One conversation with the server: socket, peer, microphone, and how they come back after a loss.
 *
 * Events: `state` ("connecting", "connected", "reconnecting", "closed"), `message` (a payload, once each),
 * `voice` (the MediaStream of the answers), `resumed` (whether the server still knows the conversation),
 * `problem` (a sentence).
 */
class Call extends EventTarget {
  #url;
  #socket;
  #peer;
  #channel;
  #microphone;
  #sessionId;
  #resumeToken;
  #timers = new Set();
  #retry;
  #attempt = 0;
  /** Counts teardowns, so that a connection attempt can tell that it has been abandoned. */
  #epoch = 0;
  #state = "closed";

  constructor(url) {
    super();
    this.#url = url;
  }

  get state() {
    return this.#state;
  }

  /** Stops the answer that is being made or spoken. */
  interrupt() {
    if (this.#channel?.readyState === "open") this.#channel.send(JSON.stringify({ type: "interrupt" }));
  }

  /** Connects for the first time. Throws a `Problem`; only an established call reconnects by itself. */
  async start() {
    this.#enter("connecting");
    const epoch = this.#epoch;
    try {
      await this.#connect();
    } catch (error) {
      if (epoch !== this.#epoch) return;
      this.close();
      throw error;
    }
  }

  /** Sends this track, now and after every reconnection. */
  async share(track) {
    this.#microphone = track;
    if (this.#state === "connected") await this.#addMicrophone();
  }

  close() {
    clearTimeout(this.#retry);
    this.#teardown();
    this.#microphone = undefined;
    this.#sessionId = undefined;
    this.#resumeToken = undefined;
    this.#enter("closed");
  }

  /** Tries at once instead of waiting for the backoff: the network has just come back. */
  retryNow() {
    if (this.#state !== "reconnecting") return;
    clearTimeout(this.#retry);
    this.#reconnect();
  }

  async #connect() {
    const socket = await this.#openSocket();
    const ready = await this.#next(socket, "ready", READY_MS, "The server accepted the connection but did not greet.");
    const [oldId, oldToken] = [this.#sessionId, this.#resumeToken];
    this.#sessionId = ready.id;
    this.#resumeToken = ready.resumeToken;
    // Resuming comes before the offer, so that the conversation is there before a turn can run.
    if (oldId) await this.#resume(socket, oldId, oldToken);
    await this.#openPeer(socket, ready.iceServers ?? []);
    this.#attempt = 0;
    this.#enter("connected");
    this.#startHeartbeat(socket);
    if (this.#microphone?.readyState === "live") await this.#addMicrophone();
  }

  #openSocket() {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(this.#url);
      this.#socket = socket;
      let opened = false;
      // A browser does not tell a page why an upgrade failed.
      const refuse = () => reject(new Problem(`The server at ${location.host} does not answer, or refused the call.`));
      const timer = this.#after(READY_MS, refuse);
      socket.addEventListener("open", () => {
        opened = true;
        this.#cancel(timer);
        resolve(socket);
      });
      socket.addEventListener("close", () => {
        this.#cancel(timer);
        if (opened) this.#lost(socket);
        else refuse();
      });
      socket.addEventListener("message", (event) => this.#receive(socket, event.data, false));
    });
  }

  /** The next message of this type, or a `Problem` after `limit` milliseconds. */
  #next(socket, type, limit, sentence) {
    return new Promise((resolve, reject) => {
      const done = new AbortController();
      const timer = this.#after(limit, () => {
        done.abort();
        reject(new Problem(sentence));
      });
      const settle = (action, value) => {
        this.#cancel(timer);
        done.abort();
        action(value);
      };
      const listen = (event) => {
        const message = parse(event.data);
        if (message?.type === type) settle(resolve, message);
        else if (type === "signal" && OFFER_REFUSED.has(message?.code)) settle(reject, new Problem(message.message));
      };
      socket.addEventListener("message", listen, { signal: done.signal });
      const closed = () => settle(reject, new Problem("The server closed the connection."));
      socket.addEventListener("close", closed, { signal: done.signal });
    });
  }

  async #resume(socket, sessionId, resumeToken) {
    const answer = this.#next(socket, "reconnect-ack", ACK_MS, "no answer");
    socket.send(JSON.stringify({ type: "reconnect", sessionId, resumeToken }));
    let resumed = false;
    try {
      const ack = await answer;
      resumed = ack.success && ack.historyRecovered;
      if (ack.sessionId) this.#sessionId = ack.sessionId;
      // Each token works once; the next resume needs the one that came with this answer.
      if (ack.resumeToken) this.#resumeToken = ack.resumeToken;
    } catch (error) {
      // Without an answer the call goes on as a new conversation, unless the socket is gone too.
      if (socket.readyState !== WebSocket.OPEN) throw error;
    }
    this.#emit("resumed", resumed);
  }

  async #openPeer(socket, iceServers) {
    const peer = new RTCPeerConnection({ iceServers });
    const channel = peer.createDataChannel("data", { ordered: true });
    this.#peer = peer;
    this.#channel = channel;
    channel.addEventListener("message", (event) => this.#receive(socket, event.data, true));
    channel.addEventListener("close", () => this.#lost(socket));
    peer.addEventListener("track", ({ track, streams }) =>
      this.#emit("voice", streams[0] ?? new MediaStream([track])),
    );
    peer.addEventListener("connectionstatechange", () => {
      if (["failed", "disconnected"].includes(peer.connectionState)) this.#lost(socket);
    });

    const opened = new Promise((resolve, reject) => {
      const refuse = () =>
        reject(new Problem("The server answers, but no media connection comes about. A firewall may block UDP."));
      const timer = this.#after(PEER_MS, refuse);
      const settle = (action) => () => {
        this.#cancel(timer);
        action();
      };
      channel.addEventListener("open", settle(resolve));
      socket.addEventListener("close", settle(refuse));
      peer.addEventListener("connectionstatechange", () => {
        if (peer.connectionState === "failed") settle(refuse)();
      });
    });
    // Awaited below; a failed offer must not leave it unhandled.
    opened.catch(() => {});
    await this.#offer();
    await opened;
  }

  /** There is no trickling: an offer goes out with its candidates inside. */
  async #offer() {
    const [peer, socket] = [this.#peer, this.#socket];
    await peer.setLocalDescription();
    if (peer.iceGatheringState !== "complete") {
      await new Promise((resolve) => {
        const timer = this.#after(GATHERING_MS, resolve);
        peer.addEventListener("icegatheringstatechange", () => {
          if (peer.iceGatheringState !== "complete") return;
          this.#cancel(timer);
          resolve();
        });
      });
    }
    const { type, sdp } = peer.localDescription;
    const answer = this.#next(socket, "signal", PEER_MS, "The server did not answer the offer.");
    socket.send(JSON.stringify({ type: "offer", signal: { type, sdp } }));
    await peer.setRemoteDescription((await answer).signal);
  }

  async #addMicrophone() {
    const sender = this.#peer.getSenders().find((candidate) => candidate.track?.kind === "audio");
    if (sender) {
      await sender.replaceTrack(this.#microphone);
      return;
    }
    this.#peer.addTrack(this.#microphone, new MediaStream([this.#microphone]));
    await this.#offer();
  }

  /** Payload arrives on the socket until the data channel is open, then on the channel; the other copy is a duplicate. */
  #receive(socket, data, onChannel) {
    if (socket !== this.#socket) return;
    const message = parse(data);
    if (!message || ["ready", "pong", "signal", "reconnect-ack"].includes(message.type)) return;
    const connected = this.#peer?.connectionState === "connected" && this.#channel?.readyState === "open";
    if (onChannel || !connected) this.#emit("message", message);
  }

  #startHeartbeat(socket) {
    let missed = 0;
    let deadline;
    const beat = () => {
      if (socket !== this.#socket) return;
      socket.send(JSON.stringify({ type: "ping", timestamp: Date.now() }));
      deadline = this.#after(PONG_MS, () => {
        missed += 1;
        if (missed >= 2) this.#lost(socket);
      });
      this.#after(PING_MS, beat);
    };
    socket.addEventListener("message", (event) => {
      if (parse(event.data)?.type !== "pong") return;
      missed = 0;
      this.#cancel(deadline);
    });
    this.#after(PING_MS, beat);
  }

  /** Socket, channel or peer is gone. Everything of the old connection is dropped; the conversation is resumed. */
  #lost(socket) {
    if (socket !== this.#socket || this.#state !== "connected") return;
    this.#scheduleReconnect();
  }

  #scheduleReconnect() {
    this.#teardown();
    if (this.#attempt === BACKOFF_MS.length) {
      this.#emit("problem", `The connection is lost, and ${this.#attempt} attempts to restore it failed.`);
      this.close();
      return;
    }
    const wait = BACKOFF_MS[this.#attempt] * (1 + 0.3 * Math.random());
    this.#attempt += 1;
    this.#enter("reconnecting", { attempt: this.#attempt, of: BACKOFF_MS.length });
    this.#retry = setTimeout(() => this.#reconnect(), wait);
  }

  async #reconnect() {
    this.#enter("connecting");
    const epoch = this.#epoch;
    try {
      await this.#connect();
    } catch {
      if (epoch === this.#epoch) this.#scheduleReconnect();
    }
  }

  #teardown() {
    const [socket, peer] = [this.#socket, this.#peer];
    this.#epoch += 1;
    this.#socket = this.#peer = this.#channel = undefined;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    peer?.close();
    socket?.close();
  }

  #after(ms, action) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, ms);
    this.#timers.add(timer);
    return timer;
  }

  #cancel(timer) {
    clearTimeout(timer);
    this.#timers.delete(timer);
  }

  #enter(state, detail = {}) {
    if (this.#state === state) return;
    this.#state = state;
    this.#emit("state", { state, ...detail });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The marks of one turn, and the three stages between them. */
class Latency {
  #marks = {};

  begin(now) {
    this.#marks = { end: now };
  }

  /** Keeps the first time of each mark, except that the last final transcript counts: that is what the model gets. */
  mark(name, now) {
    if (this.#marks.end === undefined) return;
    if (name === "transcript" ? this.#marks.text === undefined : this.#marks[name] === undefined) {
      this.#marks[name] = now;
    }
  }

  get awaitsVoice() {
    return this.#marks.end !== undefined && this.#marks.voice === undefined;
  }

  /** Whole milliseconds of each stage that is over; they add up to `total`. */
  get stages() {
    const { end, transcript, text, voice } = this.#marks;
    // Rounded before they are subtracted, so that the parts add up to the whole.
    const between = (from, to) =>
      from === undefined || to === undefined ? undefined : Math.round(to - end) - Math.round(from - end);
    return {
      transcript: between(end, transcript),
      text: between(transcript, text),
      voice: between(text, voice),
      total: between(end, voice ?? text ?? transcript),
    };
  }
}

function parse(data) {
  try {
    const message = JSON.parse(data);
    return typeof message?.type === "string" ? message : undefined;
  } catch {
    return undefined;
  }
}

/** Why the microphone cannot be used, in words. */
function microphoneProblem(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The browser was not allowed to use the microphone. Allow it in the site settings, beside the address.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone was found. Connect one, then press “Try the microphone again”.";
    case "NotReadableError":
    case "AbortError":
      return "The microphone could not be opened. Another program may be using it.";
    default:
      return `The microphone could not be opened (${error.name}).`;
  }
}

// The page

const $ = (id) => document.getElementById(id);
const latency = new Latency();
let call;
let track;
let audioContext;
let microphoneMeter;
let voiceMeter;
/** The person silenced this answer; the next one is audible again. */
let silenced = false;

function say(sentence) {
  $("status").textContent = sentence;
}

function complain(sentence) {
  $("problem").textContent = sentence;
}

const FLOORS = {
  offline: "Not connected",
  nobody: "Nobody is speaking",
  user: "You are speaking",
  thinking: "The assistant is thinking",
  assistant: "The assistant is speaking",
};

function giveFloor(who) {
  $("floor").dataset.floor = who;
  $("floor").textContent = FLOORS[who];
  $("interrupt").disabled = who !== "assistant" || silenced;
}

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
  if (detail) {
    const small = document.createElement("small");
    small.textContent = detail;
    entry.append(small);
  }
  $("log").append(entry);
  scrollDown();
}

function draft(who, text) {
  const line = $(`draft-${who}`);
  line.textContent = text;
  line.hidden = text === "";
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
  if (!answer?.classList.contains("assistant") || answer.querySelector("small")) return;
  const small = document.createElement("small");
  small.textContent = "interrupted";
  answer.append(small);
}

function scrollDown() {
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function showLatency() {
  const stages = latency.stages;
  if (stages.transcript === undefined) return;
  $("latency-empty").hidden = true;
  $("latency").hidden = false;
  const ms = (value) => (value === undefined ? "–" : `${value} ms`);
  for (const stage of ["transcript", "text", "voice"]) {
    $(`latency-${stage}`).textContent = ms(stages[stage]);
    const share = stages.total > 0 ? (100 * (stages[stage] ?? 0)) / stages.total : 0;
    $("bar").querySelector(`[data-stage="${stage}"]`).style.setProperty("--share", `${share}%`);
  }
  $("latency-total").textContent = ms(stages.total);
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
    case "speech-end":
      latency.begin(now);
      giveFloor("thinking");
      break;
    case "transcript":
      if (message.isFinal === false) {
        draft("user", message.text);
        break;
      }
      latency.mark("transcript", now);
      draft("user", "");
      if (message.text.trim()) record("user", message.text);
      else giveFloor("nobody");
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

function onState({ state, attempt, of }) {
  const talking = state === "connected";
  $("call").textContent = state === "closed" ? "Start talking" : "Hang up";
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
      stopMicrophone();
      say("The call is over.");
      break;
  }
}

/** A function that returns the loudness of a stream now, from 0 to 1. */
function meter(stream) {
  if (!audioContext) return () => 0;
  const analyser = audioContext.createAnalyser();
  // 256 samples are 5 ms at 48 kHz: short enough to time the first sound.
  analyser.fftSize = 256;
  audioContext.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  return () => {
    analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
  };
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
  voiceMeter = meter(stream);
}

/** Comfort noise stays far below this, speech far above. */
const AUDIBLE = 0.01;

function listen() {
  const loudness = microphoneMeter && track?.enabled ? microphoneMeter() : 0;
  // Square root: loudness is closer to what people expect of a meter than amplitude is.
  $("level").value = Math.min(1, Math.sqrt(loudness * 2));
  const speaking = $("floor").dataset.floor === "assistant";
  if (speaking && voiceMeter && latency.awaitsVoice && voiceMeter() > AUDIBLE) {
    latency.mark("voice", performance.now());
    showLatency();
  }
}

async function useMicrophone() {
  if (!navigator.mediaDevices?.getUserMedia) {
    const reason = isSecureContext
      ? "This browser cannot record."
      : "Browsers give a microphone only to pages from https:// or from this machine (localhost).";
    complain(`${reason} You are connected, but cannot speak.`);
    return;
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true },
    });
  } catch (error) {
    $("microphone").textContent = "Try the microphone again";
    complain(microphoneProblem(error));
    return;
  }
  if (!call || call.state === "closed") {
    // Hung up while the browser was asking.
    for (const unused of stream.getTracks()) unused.stop();
    return;
  }
  [track] = stream.getAudioTracks();
  microphoneMeter = meter(stream);
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

function stopMicrophone() {
  track?.stop();
  track = microphoneMeter = undefined;
  $("microphone").textContent = "Mute";
  $("microphone").removeAttribute("aria-pressed");
}

async function start() {
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
    if (mine.state === "connected") await useMicrophone();
  } catch (error) {
    if (mine !== call) return;
    complain(error instanceof Problem ? error.message : `The call failed: ${error.message}`);
    mine.close();
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
  $("microphone").focus();
  say("Interrupted. The next answer will be audible again.");
}

$("call").addEventListener("click", () => {
  if (!call || call.state === "closed") start();
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

$("interrupt").addEventListener("click", interrupt);
addEventListener("keydown", (event) => {
  if (event.key === "Escape") interrupt();
});
addEventListener("online", () => call?.retryNow());
setInterval(listen, 20);

// Which providers answer, if the server says so.
fetch("info")
  .then((response) => (response.ok ? response.json() : {}))
  .then(({ providers = {} }) => {
    const names = [...new Set([providers.stt, providers.llm, providers.tts].filter(Boolean))];
    $("server").textContent = names.length > 0 ? `Providers: ${names.join(", ")}` : "";
  })
  .catch(() => {});
