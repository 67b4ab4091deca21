// The wire: a whole LLMRTC client without a build step. It speaks protocol v1 directly; docs/protocol.md says what the
// messages mean. Knows nothing about the page.

const READY_MS = 10_000;
const ACK_MS = 5_000;
const GATHERING_MS = 3_000;
const PEER_MS = 30_000;
const PING_MS = 15_000;
const PONG_MS = 10_000;
/** Waits before the attempts to reconnect. Each is lengthened by up to 30 %, so that a restarted server is not stormed. */
const BACKOFF_MS = [1_000, 2_000, 4_000, 8_000, 16_000];

/** Close codes after which coming back is of no use, in words. Everything else is a lost connection. */
const FINAL_CLOSE = {
  4001: "This conversation was taken over by another page.",
  4401: "The server does not accept this page’s access any more. Open the page again with a fresh link.",
  4409: "You are in another call already, and may not be in more.",
  4429: "This page asked for too much and was turned away. Wait a minute, then start again.",
};

/** Errors that take the place of an answer. */
const OFFER_REFUSED = new Set(["CONNECTION_FAILED", "WEBRTC_UNAVAILABLE"]);

/** An error whose message is written for the person in front of the page. */
export class Problem extends Error {}

/** No connection came about; the page may find out more. */
export class Unreachable extends Problem {}

/**
 * One conversation with the server: socket, peer, microphone, and how they come back after a loss.
 *
 * Events: `state` ("connecting", "connected", "reconnecting", "closed"), `message` (a payload, once each),
 * `voice` (the MediaStream of the answers), `resumed` (whether the server still knows the conversation),
 * `problem` (a sentence).
 */
export class Call extends EventTarget {
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

  /** Asks in writing. Needs a server that says it reads text. */
  write(text) {
    this.#socket.send(JSON.stringify({ type: "text", text }));
  }

  /** Receives the answers as sound without a microphone: a call has no audio by itself. */
  async listen() {
    if (this.#state !== "connected" || this.#peer.getTransceivers().some(({ receiver }) => receiver.track?.kind === "audio"))
      return;
    this.#peer.addTransceiver("audio", { direction: "recvonly" });
    await this.#offer();
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
    if (!window.RTCPeerConnection) throw new Problem("This browser has no WebRTC, or it is switched off.");
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
      const refuse = () => reject(new Unreachable(`The server at ${location.host} does not answer, or refused the call.`));
      const timer = this.#after(READY_MS, refuse);
      socket.addEventListener("open", () => {
        opened = true;
        this.#cancel(timer);
        resolve(socket);
      });
      socket.addEventListener("close", ({ code }) => {
        this.#cancel(timer);
        if (!opened) refuse();
        else if (socket === this.#socket && this.#state === "connected" && FINAL_CLOSE[code]) {
          this.#emit("problem", FINAL_CLOSE[code]);
          this.close();
        } else this.#lost(socket);
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
    // After `listen` this takes the same place in the description, in both directions.
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

function parse(data) {
  try {
    const message = JSON.parse(data);
    return typeof message?.type === "string" ? message : undefined;
  } catch {
    return undefined;
  }
}
