// The npm client in its page, as the cases see it.

/** No event of a call takes longer than this, even on a slow machine. */
const PATIENCE_MS = 40_000;

export class Caller {
  /** Everything before this index has been looked at. */
  #seen = 0;

  constructor(page) {
    this.page = page;
  }

  static async open(browser, pages) {
    const page = await browser.newPage();
    const caller = new Caller(page);
    caller.console = [];
    page.on("console", (line) => caller.console.push(line.text()));
    page.on("pageerror", (error) => caller.console.push(`uncaught: ${error.message}`));
    await page.goto(`${pages.origin}/page/index.html`);
    await page.waitForFunction(() => window.harness);
    return caller;
  }

  #call(method, ...args) {
    return this.page.evaluate(([name, parameters]) => window.harness[name](...parameters), [method, args]);
  }

  start(url) {
    return this.#call("start", url);
  }

  share() {
    return this.#call("share");
  }

  stopSharing() {
    return this.#call("stopSharing");
  }

  shareCamera() {
    return this.#call("shareCamera");
  }

  sendAudio(path) {
    return this.#call("sendAudio", path);
  }

  state() {
    return this.#call("state");
  }

  sessionId() {
    return this.#call("sessionId");
  }

  signalingState() {
    return this.#call("signalingState");
  }

  remoteDescription() {
    return this.#call("remoteDescription");
  }

  events() {
    return this.page.evaluate(() => window.harness.events);
  }

  /** Forgets what happened so far: `next` looks only at what is still to come. */
  async skip() {
    this.#seen = (await this.events()).length;
  }

  /** Waits for the next event of one of these names, and moves past it. */
  async next(...names) {
    const index = await this.#call("next", names, this.#seen, PATIENCE_MS);
    this.#seen = index + 1;
    return (await this.events())[index];
  }

  async close() {
    if (this.page.isClosed()) return;
    await this.#call("close").catch(() => {});
    await this.page.close();
  }
}
