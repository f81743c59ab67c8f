/**
 * What the page knows of the server, asked for again and again, and who wants to know when it has changed.
 *
 * What can be shown without another is asked for separately: a server that lacks one answer shows the rest.
 */
import { asked } from "./history.js";
import { Poll } from "./poll.js";
import { Rates } from "./rates.js";

/** Seconds between two answers of each kind. The history has a new point once a minute. */
const EVERY = { status: 1, queue: 2, nodes: 5, functions: 15, history: 20 };

const NOT_FOUND = -32601;
const NOT_ALLOWED = -32008;

export class Live {
  #client;
  #listeners = new Set();
  #polls;
  #asked = { range: "hour", function: null };

  /** The newest answers; null before there is one, and of what this server does not answer. */
  status = null;
  queue = null;
  nodes = null;
  functions = null;
  history = null;

  /** When the newest status came, in seconds since 1970. */
  at = 0;

  /** Whether the server has refused the status: the reader's token does not reach so far. */
  isRefused = false;

  rates = new Rates();

  /** `client()` returns the client, which is another one after a sign-in. */
  constructor(client) {
    this.#client = client;
    const isVisible = () => document.visibilityState === "visible";
    this.#polls = Object.keys(EVERY).map(name => new Poll(() => this.#ask(name), EVERY[name], { isVisible }));
    document.addEventListener("visibilitychange", () => isVisible() && this.now());
  }

  start() {
    for (const poll of this.#polls) poll.start();
  }

  stop() {
    for (const poll of this.#polls) poll.stop();
  }

  /** Ask for everything now, since something was changed. */
  now() {
    for (const poll of this.#polls) poll.now();
  }

  /** Have `listener(name)` called after each answer. */
  subscribe(listener) {
    this.#listeners.add(listener);
  }

  get historyAsked() {
    return this.#asked;
  }

  /** Ask for the history of another range, or of one function alone. */
  askHistory(range, name) {
    this.#asked = { range, function: name };
    this.history = null;
    this.#polls[Object.keys(EVERY).indexOf("history")].now();
  }

  async #ask(name) {
    const wanted = this.#asked;
    try {
      const answer = await this.#client().call(`taskd.${name}`, this.#params(name));
      if (name === "history" && wanted !== this.#asked) return; // the next answer is the one that is wanted
      this[name] = answer;
      if (name === "status") this.#statusCame(answer);
    } catch (error) {
      if (name === "status") this.isRefused = error.code === NOT_ALLOWED;
      if (error.code === NOT_FOUND || error.code === NOT_ALLOWED) this[name] = null;
    }
    for (const listener of this.#listeners) listener(name);
  }

  #statusCame(status) {
    this.isRefused = false;
    this.at = Date.now() / 1000;
    this.rates.add(status, this.at);
  }

  #params(name) {
    return name === "history" ? asked(this.#asked.range, Date.now() / 1000, this.#asked.function) : undefined;
  }
}
