/** Asks for something again and again: never twice at once, and not while nobody looks. */
export class Poll {
  #ask;
  #seconds;
  #isVisible;
  #timers;
  #timer = null;
  #isAsking = false;
  #isStopped = true;
  #again = false;

  /**
   * `ask` is an async function, called each `seconds` after its last answer. It handles its own errors.
   * Nothing is asked while `isVisible()` is false; call `now` when it becomes true.
   */
  constructor(ask, seconds, { isVisible = () => true, timers = globalThis } = {}) {
    this.#ask = ask;
    this.#seconds = seconds;
    this.#isVisible = isVisible;
    this.#timers = timers;
  }

  start() {
    if (!this.#isStopped) return;
    this.#isStopped = false;
    this.now();
  }

  stop() {
    this.#isStopped = true;
    this.#timers.clearTimeout(this.#timer);
  }

  /** Ask at once; if an answer is awaited, once more after it, since that may be of before. */
  async now() {
    if (this.#isStopped) return;
    this.#timers.clearTimeout(this.#timer);
    if (this.#isAsking) {
      this.#again = true;
      return;
    }
    if (!this.#isVisible()) return;
    this.#isAsking = true;
    do {
      this.#again = false;
      await this.#ask();
    } while (this.#again && !this.#isStopped);
    this.#isAsking = false;
    if (!this.#isStopped) this.#timer = this.#timers.setTimeout(() => this.now(), this.#seconds * 1000);
  }
}
