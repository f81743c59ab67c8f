/** A clock that only tests move, and websockets whose server is the test. */

import { connect } from "../taskd.js";

/** Let everything run that waits for no timer. */
export const settle = () => new Promise(resolve => setImmediate(resolve));

/** Takes the place of setTimeout, performance.now and Math.random: the random number is always 1. */
export class Clock {
  timers = new Map();
  #now = 0;
  #last = 0;
  #real = {};

  install() {
    this.#real = { setTimeout: globalThis.setTimeout, clearTimeout: globalThis.clearTimeout, random: Math.random };
    globalThis.setTimeout = (act, milliseconds) => {
      this.timers.set(++this.#last, { act, due: this.#now + milliseconds / 1000 });
      return this.#last;
    };
    globalThis.clearTimeout = number => this.timers.delete(number);
    performance.now = () => this.#now * 1000;
    Math.random = () => 1;
  }

  uninstall() {
    globalThis.setTimeout = this.#real.setTimeout;
    globalThis.clearTimeout = this.#real.clearTimeout;
    Math.random = this.#real.random;
    delete performance.now;
  }

  /** Go on by so many seconds; what becomes due meanwhile runs in its time. */
  async advance(seconds) {
    const end = this.#now + seconds;
    await settle();
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.due <= end).sort(([, a], [, b]) => a.due - b.due)[0];
      if (!due) break;
      const [number, timer] = due;
      this.timers.delete(number);
      this.#now = Math.max(this.#now, timer.due);
      timer.act();
      await settle();
    }
    this.#now = end;
  }

  /** Be asleep for so many seconds: timers are late. */
  async sleep(seconds) {
    this.#now += seconds;
    await this.advance(0);
  }
}

/** The websockets that a client has made, the newest last. */
export class Network {
  sockets = [];

  constructor() {
    const network = this;
    this.WebSocket = class extends FakeWebSocket {
      constructor(url, protocols) {
        super(url, protocols);
        network.sockets.push(this);
      }
    };
  }

  get socket() {
    return this.sockets.at(-1);
  }

  client(options) {
    return connect("ws://gateway.example/", { WebSocket: this.WebSocket, ...options });
  }

  /** Open the newest websocket. */
  async open() {
    this.socket.readyState = 1;
    this.socket.onopen();
    await settle();
    return this.socket;
  }
}

export class FakeWebSocket {
  readyState = 0;
  isClosed = false;
  texts = [];

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
  }

  send(text) {
    this.texts.push(text);
  }

  close() {
    this.isClosed = true;
  }

  /** What the client has sent, parsed. */
  get sent() {
    return this.texts.map(text => JSON.parse(text));
  }

  /** The newest message that the client has sent, of this method if one is given. */
  newest(method) {
    return this.sent.filter(message => method === undefined || message.method === method).at(-1);
  }

  async receive(...messages) {
    for (const message of messages) this.onmessage?.({ data: JSON.stringify({ jsonrpc: "2.0", ...message }) });
    await settle();
  }

  /** Answer the newest message, of this method if one is given. */
  async answer(result, method) {
    await this.receive({ id: this.newest(method).id, result });
  }

  async refuse(code, message = "no", data = undefined, method = undefined) {
    await this.receive({ id: this.newest(method).id, error: { code, message, data } });
  }

  async event(params) {
    await this.receive({ method: "taskd.event", params: { at: 0, ...params } });
  }

  async drop(code = 1006, reason = "") {
    this.onclose?.({ code, reason });
    await settle();
  }
}

/** Collect what an iterator yields, while the test goes on. */
export function collect(events) {
  const collected = { events: [], isOver: false, error: undefined };
  (async () => {
    try {
      for await (const event of events) collected.events.push(event);
    } catch (error) {
      collected.error = error;
    }
    collected.isOver = true;
  })();
  return collected;
}

/** Return a promise that the test looks at after it may have been rejected. */
export function handled(promise) {
  promise.catch(() => {});
  return promise;
}

/** Return what has become of a promise, without waiting for it. */
export async function stateOf(promise) {
  let found = { state: "pending" };
  promise.then(
    value => { found = { state: "resolved", value }; },
    error => { found = { state: "rejected", error }; },
  );
  await settle();
  return found;
}
