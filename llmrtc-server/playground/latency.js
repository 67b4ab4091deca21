// The clock: how long the caller waited for an answer, and for what.

/** The stages of a turn, in order. Each ends with the mark of the same name. */
export const STAGES = ["end", "transcript", "text", "voice"];

/**
 * The marks of one turn. All times are `performance.now()`, as this page notices them, so the stages contain the network
 * and the sound buffers: together they are the silence that the caller hears.
 *
 * `start`: the caller's last sound · `end`: the server decided that the turn is over · `transcript`: it knows the words ·
 * `text`: the first words of the answer · `voice`: its first sound.
 */
export class Latency {
  #marks = {};

  /** The server has decided that the caller is done. `start`: when the caller's voice was last heard, if it was. */
  begin(end, start) {
    this.#marks = start === undefined || start > end ? { start: end } : { start, end };
  }

  /** Keeps the first time of each mark, except that the last final transcript counts: that is what the model gets. */
  mark(name, now) {
    if (this.#marks.start === undefined) return;
    if (name === "transcript" ? this.#marks.text === undefined : this.#marks[name] === undefined) {
      this.#marks[name] = now;
    }
  }

  get awaitsVoice() {
    return this.#marks.start !== undefined && this.#marks.voice === undefined;
  }

  /** The answer is audible: nothing will change any more. */
  get isComplete() {
    return this.#marks.voice !== undefined;
  }

  /**
   * Whole milliseconds of each stage that is over; they add up to `total` exactly. Without a measured start there is no
   * stage `end`, and the others are counted from the server's decision.
   */
  get stages() {
    const { start } = this.#marks;
    const found = { total: undefined };
    if (start === undefined) return found;
    // The sound may be noticed before the message that announces it; no stage is negative.
    let latest = Infinity;
    const until = {};
    for (const stage of [...STAGES].reverse()) {
      if (this.#marks[stage] === undefined) continue;
      latest = Math.min(latest, this.#marks[stage]);
      until[stage] = latest;
    }
    // Rounded before they are subtracted, so that the parts add up to the whole.
    let before = 0;
    for (const stage of STAGES) {
      if (until[stage] === undefined) continue;
      const now = Math.max(before, Math.round(until[stage] - start));
      found[stage] = now - before;
      before = now;
      found.total = now;
    }
    return found;
  }
}
