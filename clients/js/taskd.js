/**
 * A client of taskd, for browsers and Node: one module without dependencies.
 *
 *     import { connect } from "./taskd.js";
 *
 *     const taskd = connect("ws://127.0.0.1:8080");
 *     console.log(await taskd.call("hello", { name: "Ann" }));
 *
 * It speaks JSON-RPC 2.0 over one websocket to a gateway, and makes a new one when that is lost. A call
 * that was in flight then is rejected, and never sent again. Everything else goes on by itself: calls that
 * were not sent, submits (their token makes them safe to repeat), and whatever is watched.
 *
 * All times are in seconds. The types are in taskd.d.ts.
 */

/** Bounds in seconds of the pause before the next connection; the upper one doubles from the first to the last. */
const FIRST_PAUSE = 0.25;
const LONGEST_PAUSE = 30;

/** Seconds for a websocket to open: a firewall that drops packets would take minutes. */
const OPEN_SECONDS = 10;

/** Seconds without a message, while something is awaited, before the gateway has to show that it is there. */
const SILENT_SECONDS = 20;

/** Seconds for the answer to that. */
const PROBE_SECONDS = 10;

/** Seconds by which a timer may be late before it proves nothing: the machine or the tab was asleep. */
const LATE_SECONDS = 5;

/** Seconds for which calls wait for a connection, unless `connectTimeout` says otherwise. */
const CONNECT_SECONDS = 30;

/** Seconds before a request is repeated that a server which is being restarted has refused. */
const RESTART_SECONDS = 1;

/** Requests in flight at once. A gateway reads no more than 100 from a websocket, and has to read cancels, too. */
const MAX_IN_FLIGHT = 90;

/** Levels of arrays and objects in a message, the outermost object included. */
const MAX_LEVELS = 256;

/** Milliseconds of the longest timer that there is. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** The close code for a message over the limit. */
const TOO_BIG = 1009;

const FAILED = -32000;
const TIMED_OUT = -32001;
const BUSY = -32004;
const SHUTTING_DOWN = -32005;
const TOO_LARGE = -32006;
const UNREACHABLE = -32007;

const NAMES = {
  [-32700]: "parse error",
  [-32600]: "invalid request",
  [-32601]: "method not found",
  [-32602]: "invalid params",
  [-32603]: "internal error",
  [FAILED]: "task failed",
  [TIMED_OUT]: "timed out",
  [-32002]: "cancelled",
  [-32003]: "worker lost",
  [BUSY]: "busy",
  [SHUTTING_DOWN]: "shutting down",
  [TOO_LARGE]: "too large",
  [UNREACHABLE]: "unreachable",
  [-32008]: "not allowed",
};

/** The states and events of a task after which nothing happens by itself. */
const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "set_aside"]);

/** Events after which the server has detached the connection by itself. */
const LAST = new Set(["succeeded", "cancelled", "expired", "ended", "detached"]);

const CALL_OPTIONS = { timeout: "timeout", priority: "priority", deadline: "deadline", onDisconnect: "on_disconnect" };
const BATCH_OPTIONS = {
  timeout: "timeout", priority: "priority", deadline: "deadline",
  delay: "delay", at: "at", retries: "retries", keep: "keep",
};
const SUBMIT_OPTIONS = { ...BATCH_OPTIONS, key: "key" };

/** Why a request has failed: `code` and `data` as in the protocol, `name` in words, like "timed out". */
export class TaskdError extends Error {
  constructor(code, message, data = {}) {
    super(message);
    this.name = NAMES[code] ?? "error";
    this.code = code;
    this.data = data;
  }

  /** Of a lost connection: whether the request had been sent, so that the task may have run. */
  get sent() {
    return this.data.sent;
  }

  static from(error) {
    return new TaskdError(error.code, error.message, error.data ?? undefined);
  }
}

/** Return a client of the gateway at this address. It connects when it is first needed. */
export function connect(url, options = {}) {
  return new Client(url, options);
}

const now = () => performance.now() / 1000;

const later = (seconds, act) => setTimeout(act, Math.min(seconds * 1000, LONGEST_TIMER));

/** Return options by their names on the wire. Throws a TypeError for one that is unknown. */
function onWire(options, known, method) {
  const found = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (!Object.hasOwn(known, name)) {
      throw new TypeError(`${method} has no option ${name}; there are ${Object.keys(known).join(", ")}`);
    }
    found[known[name]] = value instanceof Date ? value.toISOString() : value;
  }
  return Object.keys(found).length ? found : undefined;
}

function checkArguments(args, method) {
  if (args !== undefined && (args === null || typeof args !== "object")) {
    throw new TypeError(`${method}: arguments are an array (by position) or an object (by name), not ${args}`);
  }
}

/**
 * Throw a TypeError for what the server could not read, since its error would not name the message: half of a
 * surrogate pair in a text, or more than `levels` of arrays and objects.
 */
function checkReadable(value, levels) {
  if (typeof value === "string") {
    if (value.isWellFormed?.() === false) throw new TypeError("half of a surrogate pair is no text");
  } else if (value !== null && typeof value === "object") {
    if (!levels) throw new TypeError(`a message has at most ${MAX_LEVELS} levels of arrays and objects`);
    for (const [name, each] of Object.entries(value)) {
      checkReadable(name, 0);
      checkReadable(each, levels - 1);
    }
  }
}

/** Return a token for a submit, by which the server knows it when it comes again. */
function newToken() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("");
}

function websocketUrl(given) {
  const help = "the address of a gateway is ws://HOST:PORT or wss://HOST:PORT";
  let url;
  try {
    url = new URL(given, globalThis.location?.href);
  } catch {
    throw new TypeError(`${given}: ${help}`);
  }
  if (url.protocol === "http:" || url.protocol === "https:") url.protocol = url.protocol.replace("http", "ws");
  if (url.protocol !== "ws:" && url.protocol !== "wss:") throw new TypeError(`${given}: ${help}`);
  url.hash = "";
  return url.href;
}

function lost(why, sent) {
  const what = sent ? "the connection was lost before the answer came; the task may have run" : "not sent";
  return new TaskdError(UNREACHABLE, `${what}: ${why}`, { sent });
}

/** Return the class WebSocket of the package ws, for a Node that has none. */
async function websocketOfNode() {
  const name = "ws"; // not a literal, so that no bundler looks for it
  try {
    return (await import(/* @vite-ignore */ /* webpackIgnore: true */ name)).WebSocket;
  } catch {
    throw new TypeError("there is no WebSocket here: npm install ws, or pass one: connect(url, {WebSocket})");
  }
}

/**
 * The one websocket of a client. It is made when it is needed, and made again when it is lost.
 *
 * `owner` has `isNeeded`, and the methods `opened`, `received(message)`, `lost(why, code)`, called when a
 * websocket was lost or could not be opened, and `failed(error)`, when it can never be opened.
 */
class Connection {
  isOpen = false;
  #url;
  #WebSocket;
  #owner;
  #socket = null;
  #isLoading = false;
  #failures = 0;
  #notBefore = 0;
  #opening;
  #pause;
  #silence;
  #receivedAt = 0;
  #isProbing = false;
  #online = () => this.#cameOnline();

  constructor(url, WebSocket, owner) {
    this.#url = url;
    this.#WebSocket = WebSocket ?? globalThis.WebSocket;
    this.#owner = owner;
    globalThis.addEventListener?.("online", this.#online);
  }

  /** Connect, after the pause since the last failure, unless that is under way. */
  need() {
    if (this.isOpen) {
      this.#watchSilence();
    } else if (!this.#socket && !this.#isLoading && this.#pause === undefined) {
      const left = this.#notBefore - now();
      if (left <= 0) this.#connect();
      else this.#pause = later(left, () => this.#connect());
    }
  }

  /** Nobody waits for the connection: stop connecting and all timers, which would keep a program from ending. */
  rest() {
    clearTimeout(this.#silence);
    clearTimeout(this.#pause);
    this.#silence = this.#pause = undefined;
    this.#isProbing = false;
    if (!this.isOpen) this.#drop();
  }

  send(text) {
    this.#socket.send(text);
  }

  close() {
    globalThis.removeEventListener?.("online", this.#online);
    this.#drop();
    this.rest();
  }

  #connect() {
    clearTimeout(this.#pause);
    this.#pause = undefined;
    if (!this.#WebSocket) {
      this.#isLoading = true;
      websocketOfNode().then(
        found => {
          this.#isLoading = false;
          this.#WebSocket = found;
          if (this.#owner.isNeeded) this.#connect();
        },
        error => {
          this.#isLoading = false;
          this.#owner.failed(error);
        },
      );
      return;
    }
    let socket;
    try {
      socket = new this.#WebSocket(this.#url);
    } catch (error) {
      this.#owner.failed(error);
      return;
    }
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = event => this.#received(event.data);
    socket.onerror = event => {
      // If it was open, a close follows, which has the code. If not, that of Node 20 says nothing more.
      if (!this.isOpen) this.#lost(event.message || "no connection");
    };
    socket.onclose = event => this.#lost(event.reason || `closed with code ${event.code}`, event.code);
    this.#opening = later(OPEN_SECONDS, () => this.#lost(`not open after ${OPEN_SECONDS} s`));
  }

  #opened() {
    clearTimeout(this.#opening);
    this.isOpen = true;
    this.#owner.opened();
    if (this.isOpen && this.#owner.isNeeded) this.#watchSilence();
  }

  #received(text) {
    this.#failures = 0;
    this.#receivedAt = now();
    this.#isProbing = false;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // no answer to anything that was sent
    }
    this.#owner.received(message);
  }

  /** Forget the websocket, and close it. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.isOpen = false;
    clearTimeout(this.#opening);
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // ws throws if nobody listens
    socket.close();
  }

  #lost(why, code) {
    this.#drop();
    this.rest();
    this.#notBefore = now() + Math.random() * Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures++);
    this.#owner.lost(why, code);
    if (this.#owner.isNeeded) this.need();
  }

  #cameOnline() {
    this.#failures = this.#notBefore = 0;
    if (this.#pause !== undefined) {
      this.#connect();
    } else if (this.isOpen && this.#owner.isNeeded) {
      this.#probe();
    }
  }

  // --- a gateway that is silent while something is awaited ---

  #watchSilence() {
    if (this.#silence !== undefined) return;
    this.#receivedAt = now();
    this.#wait(SILENT_SECONDS);
  }

  #wait(seconds) {
    const due = now() + seconds;
    clearTimeout(this.#silence);
    this.#silence = later(seconds, () => this.#look(now() - due > LATE_SECONDS));
  }

  #look(isLate) {
    const left = SILENT_SECONDS - (now() - this.#receivedAt);
    if (this.#isProbing && !isLate) this.#lost(`no answer for ${Math.round(now() - this.#receivedAt)} s`);
    else if (left > 0 && !this.#isProbing) this.#wait(left);
    else this.#probe();
  }

  /**
   * Send what the gateway itself answers at once. taskd.ping would be passed on to a task server, and may
   * have to wait behind calls that last: its answer could be late although the connection is fine.
   */
  #probe() {
    this.#isProbing = true;
    this.send('{"jsonrpc":"2.0","id":"probe","method":"taskd.cancel","params":{"id":"nothing"}}');
    this.#wait(PROBE_SECONDS);
  }
}

/**
 * A request that has no answer yet.
 *
 * It `isRepeatable` if it may be sent again after a lost connection, and `isPatient` if it waits for a connection
 * for ever; it `isFleeting` if it means nothing on another one. `onResult` is called as soon as its result has
 * come, before anything else that has come is looked at; `onUnwanted` instead if it was aborted.
 */
class Request {
  isUnwanted = false;

  constructor(id, text, more) {
    this.id = id;
    this.text = text;
    this.isRepeatable = more.isRepeatable ?? false;
    this.isPatient = more.isPatient ?? false;
    this.isFleeting = more.isFleeting ?? false;
    this.isCall = more.isCall ?? false;
    this.onProgress = more.onProgress;
    this.onResult = more.onResult;
    this.onUnwanted = more.onUnwanted;
    this.wasSent = false;
    this.waitingSince = now();
    this.refusedSince = undefined;
    this.answer = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

/** One who watches a task or a batch: gets each event after the one numbered `last`, once and in order. */
class Watcher {
  #events = [];
  #isOver = false;
  #error;
  #wake = () => {};

  constructor(last) {
    this.last = last;
  }

  add(event) {
    this.#events.push(event);
    this.#wake();
  }

  /** End, with an error if there is one, after the events that are there. */
  finish(error) {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#error = error;
    this.#wake();
  }

  /** End with an error now. */
  abort(error) {
    this.#events = [];
    this.finish(error);
  }

  /** Return the next event, undefined after the last one. Throws the error that it has ended with. */
  async next() {
    while (!this.#events.length && !this.#isOver) {
      await new Promise(resolve => {
        this.#wake = resolve;
      });
    }
    if (!this.#events.length && this.#error !== undefined) throw this.#error;
    return this.#events.shift();
  }
}

/** A task or a batch that is watched, with all who watch it. */
class Watched {
  watchers = new Set();

  /** The answer to the newest attach of this connection; until it has come, no event counts. */
  attached = null;

  /** Counts the attaches, so that the answer to an older one is known. */
  attaches = 0;

  /** Whether the server, which is being restarted, has refused the newest one. */
  isRefused = false;

  constructor(kind, id) {
    this.kind = kind;
    this.id = id;
  }

  /** The number after which events are wanted, -1 for new ones alone. */
  get after() {
    const known = [...this.watchers].map(watcher => watcher.last).filter(last => last >= 0);
    return known.length ? Math.min(...known) : -1;
  }
}

const keyOf = (kind, id) => `${kind} ${id}`;

class Client {
  #connection;
  #connectTimeout;
  #onConnection;
  #isConnected;
  #isClosed = false;
  #lastId = 0;
  #unsent = new Set();
  #inFlight = new Map();
  #watched = new Map();
  #giveUp;
  #restart;
  #why = "it does not open";
  #stored = {
    ask: (method, params, more) => this.#ask(method, params, more),
    watch: (kind, id, last) => this.#watch(kind, id, last),
    unwatch: (kind, id, watcher) => this.#unwatch(kind, id, watcher),
  };

  constructor(url, { WebSocket, connectTimeout = CONNECT_SECONDS, onConnection = () => {}, ...unknown }) {
    onWire(unknown, { WebSocket: "", connectTimeout: "", onConnection: "" }, "connect");
    this.#connectTimeout = connectTimeout;
    this.#onConnection = onConnection;
    const client = this;
    this.#connection = new Connection(websocketUrl(url), WebSocket, {
      get isNeeded() { return client.#isNeeded; },
      opened: () => this.#opened(),
      received: message => this.#received(message),
      lost: (why, code) => this.#lost(why, code),
      failed: error => this.#failAll(() => error),
    });
  }

  /** Call a function, and return its result. The call is never sent twice. */
  async call(name, args, { onProgress, signal, ...options } = {}) {
    checkArguments(args, name);
    const known = onWire(options, CALL_OPTIONS, "call");
    const wire = onProgress ? { ...known, progress: true } : known;
    return this.#ask(name, args, { options: wire, onProgress, signal, isCall: true });
  }

  /** Have a task stored, and return it. It goes on whatever becomes of this program. */
  async submit(name, args, { token = newToken(), signal, ...options } = {}) {
    checkArguments(args, name);
    const params = { function: name, args, options: onWire(options, SUBMIT_OPTIONS, "submit"), token };
    const onUnwanted = ({ task, joined }) => { if (!joined) this.#tell("taskd.cancel", { task }); };
    const { task, joined } = await this.#ask("taskd.submit", params, { isRepeatable: true, signal, onUnwanted });
    return new Task(this.#stored, task, joined);
  }

  /** Have a task stored for each of `rows`, all or none, and return the batch. */
  async submitBatch(name, rows, { then, token = newToken(), signal, ...options } = {}) {
    const wire = onWire(options, BATCH_OPTIONS, "submitBatch");
    const params = { function: name, args: [...rows], options: wire, then, token };
    const onUnwanted = ({ batch, joined }) => { if (!joined) this.#tell("taskd.cancel", { task: batch }); };
    const answer = await this.#ask("taskd.submit_batch", params, { isRepeatable: true, signal, onUnwanted });
    return new Batch(this.#stored, answer.batch, answer.joined, answer.tasks);
  }

  /** Return the stored task with this id. */
  task(id) {
    return new Task(this.#stored, id);
  }

  /** Return the batch with this id. */
  batch(id) {
    return new Batch(this.#stored, id);
  }

  /** Return the events of a stored task after the one numbered `after`: each once, up to the last. */
  attach(id, options) {
    return this.task(id).events(options);
  }

  /** Close the connection. Whatever is awaited is rejected; stored tasks go on. */
  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#failAll(request => lost("the client was closed", request?.wasSent ?? false));
    this.#connection.close();
  }

  // --- requests ---

  #ask(method, params, { options, signal, ...more } = {}) {
    signal?.throwIfAborted();
    if (this.#isClosed) throw lost("the client is closed", false);
    checkReadable(params, MAX_LEVELS - 1);
    const id = ++this.#lastId;
    const request = new Request(id, JSON.stringify({ jsonrpc: "2.0", id, method, params, options }), more);
    const abort = () => this.#abort(request, signal.reason);
    signal?.addEventListener("abort", abort);
    this.#unsent.add(request);
    this.#flush();
    return request.answer.finally(() => signal?.removeEventListener("abort", abort));
  }

  /** Send a request whose answer is of no interest. */
  #tell(method, params) {
    if (!this.#isClosed && this.#connection.isOpen) this.#ask(method, params, { isFleeting: true }).catch(() => {});
  }

  /** Reject a request that nobody waits for any more. If it was sent, it keeps its place until it is answered. */
  #abort(request, reason) {
    request.reject(reason);
    if (this.#unsent.delete(request)) {
      this.#settled();
    } else if (this.#inFlight.has(request.id) && !request.isUnwanted) {
      request.isUnwanted = true;
      if (request.isCall) {
        this.#connection.send(JSON.stringify({ jsonrpc: "2.0", method: "taskd.cancel", params: { id: request.id } }));
      }
    }
  }

  get #isNeeded() {
    return Boolean(this.#unsent.size || this.#inFlight.size || this.#watched.size);
  }

  #flush() {
    if (this.#isNeeded) this.#connection.need();
    if (this.#connection.isOpen) {
      for (const request of this.#unsent) {
        if (this.#inFlight.size >= MAX_IN_FLIGHT) break;
        if (request.refusedSince !== undefined && this.#restart !== undefined) continue;
        this.#unsent.delete(request);
        this.#inFlight.set(request.id, request);
        request.wasSent = true;
        this.#connection.send(request.text);
      }
    } else {
      this.#giveUpInTime();
    }
  }

  /** Reject what has waited for a connection for too long, and come back when the next has. */
  #giveUpInTime() {
    if (this.#giveUp !== undefined || this.#isClosed || this.#connectTimeout === Infinity) return;
    let next = Infinity;
    for (const request of this.#unsent) {
      if (request.isPatient) continue;
      const left = request.waitingSince + this.#connectTimeout - now();
      if (left <= 0) {
        this.#unsent.delete(request);
        request.reject(lost(`no connection within ${this.#connectTimeout} s (${this.#why})`, request.wasSent));
      } else {
        next = Math.min(next, left);
      }
    }
    if (next < Infinity) {
      this.#giveUp = later(next, () => {
        this.#giveUp = undefined;
        if (!this.#connection.isOpen) this.#giveUpInTime();
      });
    }
    this.#settled();
  }

  /** Stop the timers if nothing is awaited any more: they would keep a program from ending. */
  #settled() {
    if (this.#isNeeded) return;
    clearTimeout(this.#giveUp);
    clearTimeout(this.#restart);
    this.#giveUp = this.#restart = undefined;
    this.#connection.rest();
  }

  // --- what the connection reports ---

  #report(isConnected) {
    if (isConnected === this.#isConnected) return;
    this.#isConnected = isConnected;
    this.#onConnection(isConnected);
  }

  #opened() {
    clearTimeout(this.#giveUp);
    clearTimeout(this.#restart);
    this.#giveUp = this.#restart = undefined;
    this.#report(true);
    for (const watched of this.#watched.values()) this.#attach(watched);
    this.#flush();
  }

  #received(message) {
    if (message.method === "taskd.event") {
      this.#event(message.params);
    } else if (message.method === "taskd.progress") {
      const { id, ...progress } = message.params;
      this.#progress(this.#inFlight.get(id), progress);
    } else {
      this.#answered(this.#inFlight.get(message.id), message);
    }
    this.#settled();
  }

  #progress(request, progress) {
    if (!request?.onProgress || request.isUnwanted) return;
    try {
      request.onProgress(progress);
    } catch (error) {
      this.#abort(request, error);
    }
  }

  #answered(request, { result, error }) {
    if (!request) return;
    this.#inFlight.delete(request.id);
    if (error === undefined) {
      if (request.isUnwanted) request.onUnwanted?.(result);
      else request.onResult?.(result);
      request.resolve(result);
    } else if (!request.isUnwanted && !this.#isPutBack(request, error)) {
      request.reject(TaskdError.from(error));
    }
    this.#flush();
  }

  /** Put back a request that a server which is being restarted has not taken, and return whether that was done. */
  #isPutBack(request, error) {
    if (!request.isRepeatable || (error.code !== SHUTTING_DOWN && error.code !== UNREACHABLE)) return false;
    request.refusedSince ??= now();
    if (!request.isPatient && now() - request.refusedSince > this.#connectTimeout) return false;
    request.waitingSince = now();
    this.#unsent.add(request);
    this.#afterRestart();
    return true;
  }

  #afterRestart() {
    this.#restart ??= later(RESTART_SECONDS * (0.5 + Math.random()), () => {
      this.#restart = undefined;
      if (!this.#connection.isOpen) return; // what follows is done when it is
      for (const watched of this.#watched.values()) if (watched.isRefused) this.#attach(watched);
      this.#flush();
    });
  }

  #lost(why, code) {
    this.#why = why;
    clearTimeout(this.#restart);
    this.#restart = undefined;
    const sent = [...this.#inFlight.values()];
    const waiting = [];
    for (const request of this.#unsent) {
      if (this.#isConnected) request.waitingSince = now();
      if (request.isFleeting) request.reject(lost(why, false));
      else waiting.push(request);
    }
    this.#inFlight.clear();
    for (const watched of this.#watched.values()) watched.attached = null;
    const again = [];
    const longest = code === TOO_BIG ? Math.max(...sent.map(request => request.text.length)) : Infinity;
    for (const request of sent) {
      if (request.isUnwanted) continue;
      if (request.text.length === longest) {
        request.reject(new TaskdError(TOO_LARGE, "the message was longer than the server takes", { sent: true }));
      } else if (request.isRepeatable) {
        request.waitingSince = now();
        again.push(request);
      } else {
        request.reject(lost(why, true));
      }
    }
    this.#unsent = new Set([...again, ...waiting]);
    this.#giveUpInTime();
    this.#report(false);
  }

  #failAll(why) {
    for (const request of [...this.#inFlight.values(), ...this.#unsent]) request.reject(why(request));
    this.#inFlight.clear();
    this.#unsent.clear();
    const watched = [...this.#watched.values()];
    this.#watched.clear();
    for (const { watchers } of watched) for (const watcher of watchers) watcher.finish(why());
    this.#settled();
  }

  // --- what is watched ---

  #watch(kind, id, last) {
    if (this.#isClosed) throw lost("the client is closed", false);
    const key = keyOf(kind, id);
    const watcher = new Watcher(last);
    const watched = this.#watched.get(key) ?? new Watched(kind, id);
    this.#watched.set(key, watched);
    watched.watchers.add(watcher);
    if (this.#connection.isOpen) this.#attach(watched);
    else this.#connection.need();
    return watcher;
  }

  #unwatch(kind, id, watcher) {
    const watched = this.#watched.get(keyOf(kind, id));
    if (watched?.watchers.delete(watcher)) this.#forgetUnwatched(watched);
  }

  #forgetUnwatched(watched, isDetached = false) {
    if (watched.watchers.size) return;
    this.#watched.delete(keyOf(watched.kind, watched.id));
    if (!isDetached) this.#tell("taskd.detach", { [watched.kind]: watched.id });
    this.#settled();
  }

  /** Have the server push the events after the last that all watchers know. */
  #attach(watched) {
    const number = ++watched.attaches;
    watched.attached = null;
    watched.isRefused = false;
    this.#ask(
      "taskd.attach",
      { [watched.kind]: watched.id, after: watched.after },
      { isFleeting: true, onResult: answer => number === watched.attaches && this.#attached(watched, answer) },
    ).catch(error => number === watched.attaches && this.#notAttached(watched, error));
  }

  #attached(watched, answer) {
    watched.attached = answer;
    const hasEnded = watched.kind === "batch" ? answer.state !== "running" : ENDED.has(answer.state);
    for (const watcher of watched.watchers) {
      if (watcher.last < 0) watcher.last = answer.seq;
      if (hasEnded && watcher.last >= answer.seq) this.#finish(watched, watcher);
    }
    this.#forgetUnwatched(watched);
  }

  #notAttached(watched, error) {
    if ([BUSY, SHUTTING_DOWN, UNREACHABLE].includes(error.code)) {
      watched.isRefused = true;
      if (this.#connection.isOpen) this.#afterRestart();
      return;
    }
    for (const watcher of watched.watchers) this.#finish(watched, watcher, error);
    this.#forgetUnwatched(watched, true);
  }

  #event(event) {
    const [kind, id] = event.task === undefined ? ["batch", event.batch] : ["task", event.task];
    const watched = this.#watched.get(keyOf(kind, id));
    if (!watched?.attached) return;
    const isDetached = event.event === "detached"; // no event of the log: its number is no place in that
    const isLast = LAST.has(event.event) || (ENDED.has(event.event) && event.seq >= watched.attached.seq);
    for (const watcher of watched.watchers) {
      if (event.seq <= watcher.last && !isDetached) continue;
      watcher.last = Math.max(watcher.last, event.seq);
      watcher.add(event);
      if (isLast) this.#finish(watched, watcher);
    }
    this.#forgetUnwatched(watched, LAST.has(event.event));
  }

  #finish(watched, watcher, error) {
    watched.watchers.delete(watcher);
    watcher.finish(error);
  }
}

/** What tasks and batches have in common. */
class Stored {
  #client;
  #kind;

  constructor(client, kind, id, joined) {
    this.#client = client;
    this.#kind = kind;
    this.id = id;
    this.joined = joined;
  }

  /** Return the state, like "waiting" or "succeeded". */
  async state() {
    return (await this.ask("taskd.get", { isRepeatable: true })).state;
  }

  /** Cancel it, and return what it was once it has ended. */
  async cancel() {
    return (await this.#client.ask("taskd.cancel", { task: this.id }, { isRepeatable: true })).was;
  }

  /** Return the events after the one numbered `after`: each once, up to the last. */
  async *events({ after = 0, signal } = {}) {
    if (!Number.isInteger(after) || after < -1) {
      throw new TypeError(`after is the number of an event, 0 for all or -1 for new ones alone, not ${after}`);
    }
    signal?.throwIfAborted();
    const watcher = this.#client.watch(this.#kind, this.id, after);
    const abort = () => watcher.abort(signal.reason);
    signal?.addEventListener("abort", abort);
    try {
      for (let event; (event = await watcher.next()) !== undefined; ) yield event;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#client.unwatch(this.#kind, this.id, watcher);
    }
  }

  /** Wait until it has ended, and return its result. Throws the error that it has ended with. */
  async result({ timeout, signal } = {}) {
    signal?.throwIfAborted();
    const stopping = new AbortController();
    const stop = () => stopping.abort(signal.reason);
    signal?.addEventListener("abort", stop);
    const timer = timeout === undefined ? undefined : later(timeout, () => stopping.abort(this.#notInTime(timeout)));
    try {
      let last;
      for await (const event of this.events({ after: -1, signal: stopping.signal })) last = event;
      const more = { isRepeatable: true, isPatient: true, signal: stopping.signal };
      return this.outcome(last ?? (await this.ask("taskd.get", more)));
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", stop);
    }
  }

  ask(method, more) {
    return this.#client.ask(method, { [this.#kind]: this.id }, more);
  }

  #notInTime(seconds) {
    const message = `the ${this.#kind} ${this.id} has not ended within ${seconds} s; it goes on`;
    return new TaskdError(TIMED_OUT, message, { limit: "wait", seconds });
  }
}

/** A stored task. `joined` says whether a submit has found it there already. */
class Task extends Stored {
  constructor(client, id, joined) {
    super(client, "task", id, joined);
  }

  /** Have a failed task run again, and return what it was. */
  async retry() {
    return (await this.ask("taskd.retry")).was;
  }

  /** Return what holds the task. */
  async why() {
    return this.ask("taskd.why", { isRepeatable: true });
  }

  outcome({ event, state = event, result = null, error }) {
    if (state === "succeeded") return result;
    throw TaskdError.from(error ?? { code: FAILED, message: `the task ${this.id} is ${state}` });
  }
}

/** A batch of stored tasks; `tasks` has their ids, unless it was found by its own. */
class Batch extends Stored {
  constructor(client, id, joined, tasks) {
    super(client, "batch", id, joined);
    this.tasks = tasks;
  }

  outcome({ event, error, done, failed, cancelled, total, state }) {
    if (event === "detached") throw TaskdError.from(error);
    return { done, failed, cancelled, total, state };
  }
}
