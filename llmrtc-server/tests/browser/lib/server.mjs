// The server under test, the proxy between it and the browser, and a web server for the page of the npm client.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import path from "node:path";

const LOG_LINES = 200;
const START_MS = 15_000;
const STOP_MS = 20_000;

async function freePort() {
  const probe = net.createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address();
  probe.close();
  await once(probe, "close");
  return port;
}

/** A `llmrtc serve` process that needs no network and no keys. */
export class Server {
  #run;
  #process;
  #log = [];
  #key;

  /**
   * `directory`: an empty one, so that no configuration file is found. With `page`, callers have to show who they are, and
   * only that page may connect. With `models`, a folder, the models in it answer, and otherwise the built-in echo.
   */
  static async start(binary, directory, { page, models } = {}) {
    const server = new Server();
    server.port = await freePort();
    if (page) directory = await server.#guard(directory, page);
    // Nothing of the person's own configuration or keys takes part.
    const answering = models
      ? { LOCAL_ONLY: "embedded", LLMRTC_MODEL_DIR: models }
      : { LLM_PROVIDER: "echo", STT_PROVIDER: "echo", TTS_PROVIDER: "echo" };
    const env = { PATH: process.env.PATH, ...answering };
    server.#run = () =>
      spawn(binary, ["serve", "--host", "127.0.0.1", "--port", String(server.port)], {
        cwd: directory,
        env,
        stdio: ["ignore", "pipe", "pipe"],
      });
    await server.#launch();
    return server;
  }

  async #launch() {
    this.#process = this.#run();
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        this.#log.push(...text.trimEnd().split("\n"));
        this.#log.splice(0, Math.max(0, this.#log.length - LOG_LINES));
      });
    }
    await this.#ready();
  }

  /** Kills the server without a word, and starts it again where it was. */
  async crash() {
    const exited = once(this.#process, "exit");
    this.#process.kill("SIGKILL");
    await exited;
    await this.#launch();
  }

  /** Configures authentication and stored conversations, in a folder of its own. */
  async #guard(directory, page) {
    this.#key = randomBytes(32).toString("base64url");
    const folder = await mkdtemp(path.join(directory, "guarded-"));
    const config = `
      [server]
      allowed_origins = ["${page}"]
      data_dir = "${folder}/data"
      [vault]
      enabled = true
      [[auth.api_keys]]
      subject = "backend"
      key = "${this.#key}"
    `;
    await writeFile(path.join(folder, "llmrtc.toml"), config, { mode: 0o600 });
    return folder;
  }

  /** What the backend of a page does for each visitor. */
  async ticket(page) {
    const answer = await fetch(`${this.origin}/api/tickets`, {
      method: "POST",
      headers: { authorization: `Bearer ${this.#key}`, "content-type": "application/json" },
      body: JSON.stringify({ origin: page }),
    });
    if (!answer.ok) throw new Error(`no ticket: ${answer.status} ${await answer.text()}`);
    return (await answer.json()).ticket;
  }

  get origin() {
    return `http://127.0.0.1:${this.port}`;
  }

  get log() {
    return this.#log.join("\n");
  }

  get running() {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  async #ready() {
    const failed = once(this.#process, "error").then(([error]) => error);
    const deadline = Date.now() + START_MS;
    while (Date.now() < deadline && this.running) {
      const answer = await Promise.race([fetch(`${this.origin}/health`).catch(() => null), failed]);
      if (answer instanceof Error) throw answer;
      if (answer?.ok) return;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    this.#process.kill("SIGKILL");
    throw new Error(`the server did not start:\n${this.log}`);
  }

  /** Asks the server to stop, as an operator would. Resolves to how it exited: a code, or a signal's name. */
  async stop() {
    if (this.running) {
      const exited = once(this.#process, "exit");
      this.#process.kill("SIGTERM");
      const killer = setTimeout(() => this.#process.kill("SIGKILL"), STOP_MS);
      await exited;
      clearTimeout(killer);
    }
    return this.#process.exitCode ?? this.#process.signalCode;
  }
}

/** A TCP proxy whose connections can be cut, as a network does it: without a word. */
export class Proxy {
  #sockets = new Set();
  #server;
  #refusing = false;

  static async start(targetPort) {
    const proxy = new Proxy();
    proxy.#server = net.createServer((inner) => {
      if (proxy.#refusing) {
        inner.destroy();
        return;
      }
      const outer = net.connect(targetPort, "127.0.0.1");
      for (const [socket, other] of [[inner, outer], [outer, inner]]) {
        proxy.#sockets.add(socket);
        socket.on("error", () => {});
        socket.on("close", () => {
          proxy.#sockets.delete(socket);
          other.destroy();
        });
        socket.pipe(other);
      }
    });
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get origin() {
    return `http://127.0.0.1:${this.#server.address().port}`;
  }

  get url() {
    return `ws://127.0.0.1:${this.#server.address().port}/`;
  }

  /** Cuts every connection. New ones are accepted again unless `refuse` is set. */
  cut({ refuse = false } = {}) {
    this.#refusing = refuse;
    for (const socket of this.#sockets) socket.destroy();
  }

  accept() {
    this.#refusing = false;
  }

  stop() {
    this.cut();
    this.#server.close();
  }
}

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wav": "audio/wav" };

/** Serves the suite's own directory, `node_modules` included, and `extra` files by their path. */
export async function servePages(root, extra) {
  const server = http.createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const file = extra[pathname] ?? path.join(root, path.normalize(pathname));
    try {
      const body = await readFile(file);
      response.writeHead(200, { "content-type": TYPES[path.extname(file)] ?? "application/octet-stream" });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { origin: `http://127.0.0.1:${server.address().port}`, stop: () => server.close() };
}
