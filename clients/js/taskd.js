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

/** Seconds, about, before a request is repeated that a server which is being restarted has refused. */
const RESTART_SECONDS = 1;

/** Requests in flight at once. A gateway reads no more than 100 from a websocket, and has to read cancels, too. */
const MAX_IN_FLIGHT = 90;

/** Levels of arrays and objects in a message, the outermost object included. */
const MAX_LEVELS = 256;

/** Milliseconds of the longest timer that there is. */
const LONGEST_TIMER = 2 ** 31 - 1;

/** The state of a websocket that can send. */
const OPEN = 1;

/** The close code for a message over the limit. */
const TOO_BIG = 1009;

/** The close codes for a token that has expired, and for one that is not accepted. */
const EXPIRED = 4401;
const REFUSED = 4403;

/** Seconds before the end of a token at which a new one is asked for, or half of its time if that is less. */
const RENEW_SECONDS = 30;

/** The characters that a websocket's subprotocol may have: those of any token, signed or not, are among them. */
const TOKEN = /^[\w.~+-]+$/;

/** The ids of the requests by which a connection asks for its rights, and shows a new token. */
const WHOAMI_ID = "whoami";
const AUTH_ID = "auth";

const FAILED = -32000;
const TIMED_OUT = -32001;
const CANCELLED = -32002;
const BUSY = -32004;
const SHUTTING_DOWN = -32005;
const TOO_LARGE = -32006;
const UNREACHABLE = -32007;
const NOT_ALLOWED = -32008;

const NAMES = {
  [-32700]: "parse error",
  [-32600]: "invalid request",
  [-32601]: "method not found",
  [-32602]: "invalid params",
  [-32603]: "internal error",
  [FAILED]: "task failed",
  [TIMED_OUT]: "timed out",
  [CANCELLED]: "cancelled",
  [-32003]: "worker lost",
  [BUSY]: "busy",
  [SHUTTING_DOWN]: "shutting down",
  [TOO_LARGE]: "too large",
  [UNREACHABLE]: "unreachable",
  [NOT_ALLOWED]: "not allowed",
};

/** The codes of a server that is being restarted. */
const RESTARTING = new Set([SHUTTING_DOWN, UNREACHABLE]);

/** The states and events of a task after which nothing happens by itself. */
const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "set_aside"]);

/** The codes of tasks that have ended without an error. */
const CODES = { cancelled: CANCELLED, expired: TIMED_OUT };

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

const keyOf = (kind, id) => `${kind} ${id}`;

/** Return the seconds before a request is repeated that a server which is being restarted has refused. */
const restartPause = () => RESTART_SECONDS * (0.5 + Math.random());

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

function notAllowed(message, data) {
  return new TaskdError(NOT_ALLOWED, message, data);
}

/** Return a token if it is one. Throws a TypeError without it: it belongs into no log. */
function checkToken(token) {
  if (typeof token === "string" && TOKEN.test(token)) return token;
  throw new TypeError("a token is a text of letters, digits and . _ ~ + -");
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

/** A timer that is set or not. Set timers keep a program in Node from ending. */
class Alarm {
  #timer;

  get isSet() {
    return this.#timer !== undefined;
  }

  set(seconds, act) {
    this.clear();
    const ring = () => {
      this.#timer = undefined;
      act();
    };
    this.#timer = setTimeout(ring, Math.min(seconds * 1000, LONGEST_TIMER));
  }

  clear() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/** The token of a client, or the function that returns one, and what is known of the newest. */
class Credentials {
  #given;
  #token;
  #expires = null;

  /** Whether a token of this connection has been accepted: what was sent behind it may have been run. */
  wasAccepted = false;

  /** Whether the last token had expired when it was shown, so that another such one is not worth a try. */
  hasExpired = false;

  constructor(given) {
    this.#given = given;
    if (typeof given !== "function") this.#token = checkToken(given);
  }

  get isRenewable() {
    return typeof this.#given === "function";
  }

  /** The token if it is at hand; undefined if it must be asked for. */
  get atHand() {
    return this.#token;
  }

  /** Return the token to be shown next. Throws a TaskdError if there is none, because nobody has signed in. */
  async next() {
    const token = await this.#given();
    if (token === undefined || token === null || token === "") {
      throw notAllowed("there is no token: nobody has signed in", { reason: "no token" });
    }
    return checkToken(token);
  }

  /** Take the server's answer to a token; an older server has none. */
  accepted({ expires = null } = {}) {
    this.wasAccepted = true;
    this.hasExpired = false;
    this.#expires = expires;
  }

  /** The seconds until a new token is asked for; undefined if that is no use, or this clock differs from the server's. */
  get renewsIn() {
    if (!this.isRenewable || this.#expires === null) return undefined;
    const left = this.#expires - Date.now() / 1000;
    return left > 0 ? Math.max(left - RENEW_SECONDS, left / 2) : undefined;
  }

  /** Note that a connection has ended, and for which reason. Return the error if another try is no use. */
  lost(code, why) {
    const wasAccepted = this.wasAccepted;
    this.wasAccepted = false;
    this.#expires = null;
    if (code === EXPIRED && this.isRenewable && !this.hasExpired) {
      this.hasExpired = true;
      return undefined;
    }
    if (code !== EXPIRED && code !== REFUSED) return undefined;
    this.hasExpired = false;
    const data = code === EXPIRED ? { reason: "expired" } : {};
    return isSent => notAllowed(why, { ...data, sent: isSent && wasAccepted });
  }
}

/**
 * The one websocket of a client. It is made when it is needed, and made again when it is lost.
 *
 * `owner` has `isNeeded`, and the methods `opened`, `received(message)`, `lost(why, code, isUnread)`, called when
 * a websocket was lost or could not be opened, `refused(why)`, when its token is not accepted (`why(isSent)` is the
 * error of a request), and `failed(error)`, when none can ever be made. A server that `isUnread` has read nothing,
 * since the token had expired. `credentials` may be undefined.
 */
class Connection {
  #url;
  #credentials;
  #WebSocket;
  #owner;
  #socket = null;
  #isOpen = false;
  #isLoading = false;
  #asking;
  #renewal = new Alarm();
  #failures = 0;
  #notBefore = 0;
  #opening = new Alarm();
  #pause = new Alarm();
  #silence = new Alarm();
  #receivedAt = 0;
  #isProbing = false;
  #online = () => this.#cameOnline();

  constructor(url, WebSocket, credentials, owner) {
    this.#url = url;
    this.#credentials = credentials;
    this.#WebSocket = WebSocket ?? globalThis.WebSocket;
    this.#owner = owner;
    globalThis.addEventListener?.("online", this.#online);
  }

  /** Whether messages can be sent. A websocket that is closing would drop them. */
  get isOpen() {
    return this.#isOpen && this.#socket.readyState === OPEN;
  }

  /** Connect, after the pause since the last failure, unless that is under way. */
  need() {
    if (this.#isOpen) {
      if (!this.#silence.isSet) this.#watchSilence();
      this.#renewInTime();
    } else if (!this.#socket && !this.#isLoading && !this.#asking && !this.#pause.isSet) {
      const left = this.#notBefore - now();
      if (left <= 0) this.#connect();
      else this.#pause.set(left, () => this.#connect());
    }
  }

  /** Stop connecting, and all timers, since nobody waits for the connection. */
  rest() {
    this.#silence.clear();
    this.#pause.clear();
    this.#renewal.clear();
    this.#isProbing = false;
    if (!this.#isOpen) this.#drop();
  }

  send(message) {
    this.#socket.send(message);
  }

  close() {
    globalThis.removeEventListener?.("online", this.#online);
    this.#drop();
    this.rest();
  }

  #connect() {
    this.#pause.clear();
    if (!this.#WebSocket) this.#load();
    else if (!this.#credentials) this.#open();
    else if (this.#credentials.atHand) this.#openWith(this.#credentials.atHand);
    else this.#askForToken();
  }

  /** Ask the page for a token, and open the websocket with it. */
  async #askForToken() {
    const asking = (this.#asking = {});
    this.#opening.set(OPEN_SECONDS, () => this.#lost(`there is no token after ${OPEN_SECONDS} s`));
    try {
      const token = await this.#credentials.next();
      if (asking === this.#asking) this.#openWith(token);
    } catch (error) {
      if (asking !== this.#asking) return;
      if (error instanceof TaskdError) this.#refused(() => error);
      else this.#lost(`there is no token: ${error.message}`);
    }
  }

  #openWith(token) {
    this.#asking = undefined;
    this.#open(["taskd", `taskd.token.${token}`]);
  }

  #open(...protocols) {
    let socket;
    try {
      socket = new this.#WebSocket(this.#url, ...protocols);
    } catch (error) {
      this.#owner.failed(error);
      return;
    }
    this.#socket = socket;
    socket.onopen = () => this.#opened();
    socket.onmessage = event => this.#received(event.data);
    socket.onerror = event => {
      // If it was open, a close follows, which has the code. If not, Node 20 reports nothing else.
      if (!this.#isOpen) this.#lost(event.message || "no connection");
    };
    socket.onclose = event => this.#lost(event.reason || `closed with code ${event.code}`, event.code);
    this.#opening.set(OPEN_SECONDS, () => this.#lost(`not open after ${OPEN_SECONDS} s`));
  }

  async #load() {
    this.#isLoading = true;
    try {
      this.#WebSocket = await websocketOfNode();
    } catch (error) {
      this.#owner.failed(error);
    }
    this.#isLoading = false;
    if (this.#owner.isNeeded) this.need();
  }

  #opened() {
    this.#opening.clear();
    this.#isOpen = true;
    if (this.#credentials) this.send(`{"jsonrpc":"2.0","id":"${WHOAMI_ID}","method":"taskd.whoami"}`);
    this.#owner.opened();
    if (this.#owner.isNeeded) this.need();
  }

  #received(text) {
    this.#failures = 0;
    this.#receivedAt = now();
    this.#isProbing = false;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // the answer to nothing that was sent
    }
    if (!message) return;
    if (this.#credentials && (message.id === WHOAMI_ID || message.id === AUTH_ID)) this.#accepted(message);
    else this.#owner.received(message);
  }

  // --- tokens ---

  #accepted({ id, result, error }) {
    if (error && id === AUTH_ID) return; // the old token is shown once more when it has expired
    this.#credentials.accepted(result);
    if (this.#owner.isNeeded) this.#renewInTime();
  }

  /** Show a new token before this one expires: then the connection lives on. */
  #renewInTime() {
    const seconds = this.#credentials?.renewsIn;
    if (seconds !== undefined && !this.#renewal.isSet) this.#renewal.set(seconds, () => this.#renew());
  }

  async #renew() {
    const socket = this.#socket;
    try {
      const params = { token: await this.#credentials.next() };
      if (socket !== this.#socket || !this.isOpen) return;
      this.send(JSON.stringify({ jsonrpc: "2.0", id: AUTH_ID, method: "taskd.auth", params }));
    } catch {
      // The server closes the connection when the token expires; then there is another try.
    }
  }

  /** End: no token that there is will be accepted. `why(isSent)` returns the error of a request. */
  #refused(why) {
    this.#drop();
    this.rest();
    this.#owner.refused(why);
  }

  /** Forget the websocket, and close it. */
  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#isOpen = false;
    this.#asking = undefined;
    this.#opening.clear();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // ws throws if nobody listens
    socket.close();
  }

  #lost(why, code) {
    const isUnread = code === EXPIRED && this.#credentials?.wasAccepted === false;
    const refusal = this.#credentials?.lost(code, why);
    if (refusal) {
      this.#refused(refusal);
      return;
    }
    this.#drop();
    this.rest();
    if (code === EXPIRED) this.#failures = 0;
    const most = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** this.#failures++);
    this.#notBefore = code === EXPIRED ? 0 : now() + Math.random() * most;
    this.#owner.lost(why, code, isUnread);
    if (this.#owner.isNeeded) this.need();
  }

  #cameOnline() {
    this.#failures = this.#notBefore = 0;
    if (this.#pause.isSet) this.#connect();
    else if (this.isOpen && this.#owner.isNeeded) this.#probe();
  }

  // --- a gateway that is silent while something is awaited ---

  #watchSilence() {
    this.#receivedAt = now();
    this.#look(SILENT_SECONDS);
  }

  /** Look after so many seconds whether the gateway is still silent. */
  #look(seconds) {
    const due = now() + seconds;
    this.#silence.set(seconds, () => {
      const silent = now() - this.#receivedAt;
      const isLate = now() - due > LATE_SECONDS;
      if (this.#isProbing && !isLate) this.#lost(`no answer for ${Math.round(silent)} s`);
      else if (silent < SILENT_SECONDS && !this.#isProbing) this.#look(SILENT_SECONDS - silent);
      else this.#probe();
    });
  }

  /**
   * Send what the gateway itself answers at once. taskd.ping would be passed on to a task server, and may
   * have to wait behind calls that last: its answer could be late although the connection is fine.
   */
  #probe() {
    this.#isProbing = true;
    this.send('{"jsonrpc":"2.0","id":"probe","method":"taskd.cancel","params":{"id":"nothing"}}');
    this.#look(PROBE_SECONDS);
  }
}

/**
 * A request that has no answer yet.
 *
 * It `isRepeatable` if it may be sent again after a lost connection, and `isPatient` if it waits for a connection
 * for ever; it `isFleeting` if it means nothing on another one. Of a call, the task is cancelled if it is aborted.
 * `onResult` is called as soon as its result has come, before anything else that has come is looked at, and
 * `onUnwanted` if it was aborted meanwhile.
 */
class Request {
  isUnwanted = false;
  mayHaveRun = false;
  waitingSince = now();
  refusedSince;

  constructor(id, text, { isRepeatable, isPatient, isFleeting, isCall, onProgress, onResult, onUnwanted }) {
    Object.assign(this, { id, text, isRepeatable, isPatient, isFleeting, isCall, onProgress, onResult, onUnwanted });
    this.answer = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

/**
 * The requests of a client: sent in order, answered in any order, and sent again only if that does no harm.
 *
 * `onSettled` is called when there may be nothing left to wait for.
 */
class Requests {
  #connection;
  #connectTimeout;
  #onSettled;
  #lastId = 0;
  #unsent = new Set();
  #inFlight = new Map();
  #giveUp = new Alarm();
  #restart = new Alarm();
  #why = "it does not open";
  #isClosed = false;

  constructor(connection, connectTimeout, onSettled) {
    this.#connection = connection;
    this.#connectTimeout = connectTimeout;
    this.#onSettled = onSettled;
  }

  get areAwaited() {
    return this.#unsent.size > 0 || this.#inFlight.size > 0;
  }

  /** Send a request as soon as that is possible, and return its result. */
  async ask(method, params, { options, signal, ...more } = {}) {
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

  /** Send a request whose answer is of no interest, unless there is no connection. */
  tell(method, params) {
    if (this.#connection.isOpen) this.ask(method, params, { isFleeting: true }).catch(() => {});
  }

  /** Reject a request that nobody waits for any more. If it was sent, it keeps its place until it is answered. */
  #abort(request, reason) {
    request.reject(reason);
    if (this.#unsent.delete(request)) {
      this.#onSettled();
    } else if (this.#inFlight.has(request.id) && !request.isUnwanted) {
      request.isUnwanted = true;
      if (!request.isCall || !this.#connection.isOpen) return;
      const params = { id: request.id };
      this.#connection.send(JSON.stringify({ jsonrpc: "2.0", method: "taskd.cancel", params }));
    }
  }

  #flush() {
    if (!this.areAwaited) return;
    this.#connection.need();
    if (!this.#connection.isOpen) {
      this.#giveUpInTime();
      return;
    }
    for (const request of this.#unsent) {
      if (this.#inFlight.size >= MAX_IN_FLIGHT) break;
      if (request.refusedSince !== undefined && this.#restart.isSet) continue;
      this.#unsent.delete(request);
      this.#inFlight.set(request.id, request);
      this.#connection.send(request.text);
    }
  }

  /** Reject what has waited for a connection for too long, and come back when the next has. */
  #giveUpInTime() {
    if (this.#giveUp.isSet) return;
    let next = Infinity;
    for (const request of this.#unsent) {
      if (request.isPatient) continue;
      const left = request.waitingSince + this.#connectTimeout - now();
      if (left > 0) {
        next = Math.min(next, left);
      } else {
        this.#unsent.delete(request);
        request.reject(lost(`no connection within ${this.#connectTimeout} s (${this.#why})`, request.mayHaveRun));
      }
    }
    if (next < Infinity) {
      this.#giveUp.set(next, () => {
        if (!this.#connection.isOpen) this.#giveUpInTime();
      });
    }
    this.#onSettled();
  }

  // --- what the connection reports ---

  opened() {
    this.rest();
    this.#flush();
  }

  progress({ id, ...progress }) {
    const request = this.#inFlight.get(id);
    if (!request?.onProgress || request.isUnwanted) return;
    try {
      request.onProgress(progress);
    } catch (error) {
      this.#abort(request, error);
    }
  }

  answered({ id, result, error }) {
    const request = this.#inFlight.get(id);
    if (!request) return;
    this.#inFlight.delete(id);
    if (error === undefined) {
      if (request.isUnwanted) request.onUnwanted?.(result);
      else request.onResult?.(result);
      request.resolve(result);
    } else if (!this.#isPutBack(request, error)) {
      request.reject(TaskdError.from(error));
    }
    this.#flush();
  }

  /**
   * Put back a request that a server which is being restarted has not taken, and return whether that was done.
   * A gateway that could not send a call has done nothing, so that even a call may be sent again.
   */
  #isPutBack(request, { code, data }) {
    const isUnsent = code === UNREACHABLE && data?.sent === false;
    if (request.isUnwanted || request.isFleeting) return false;
    if (!isUnsent && !(request.isRepeatable && RESTARTING.has(code))) return false;
    request.refusedSince ??= now();
    if (!request.isPatient && now() - request.refusedSince > this.#connectTimeout) return false;
    request.mayHaveRun ||= !isUnsent;
    this.#unsent.add(request);
    if (!this.#restart.isSet) this.#restart.set(restartPause(), () => this.#flush());
    return true;
  }

  /**
   * Reject what was in flight, or put it back if it may be sent again: all if the server `isUnread`, and has read
   * nothing. `wasOpen` says whether others could be sent.
   */
  lost(why, code, { wasOpen, isUnread }) {
    this.#why = why;
    this.rest();
    const inFlight = [...this.#inFlight.values()].filter(request => !request.isUnwanted && !request.isFleeting);
    const unsent = [...this.#unsent].filter(request => !request.isFleeting);
    const longest = code === TOO_BIG ? Math.max(...inFlight.map(request => request.text.length)) : Infinity;
    const again = [];
    for (const request of inFlight) {
      if (request.text.length === longest) {
        request.reject(new TaskdError(TOO_LARGE, "the message was longer than the server takes", { sent: true }));
      } else if (request.isRepeatable || isUnread) {
        request.mayHaveRun ||= !isUnread;
        again.push(request);
      } else {
        request.reject(lost(why, true));
      }
    }
    for (const request of wasOpen ? [...again, ...unsent] : again) request.waitingSince = now();
    this.#inFlight.clear();
    this.#unsent = new Set([...again, ...unsent]);
    this.#giveUpInTime();
  }

  rest() {
    this.#giveUp.clear();
    this.#restart.clear();
  }

  /** Reject everything, with what `why` returns for a request and whether it was sent. */
  fail(why) {
    for (const request of this.#inFlight.values()) request.reject(why(true));
    for (const request of this.#unsent) request.reject(why(request.mayHaveRun));
    this.#inFlight.clear();
    this.#unsent.clear();
  }

  close() {
    this.#isClosed = true;
    this.fail(isSent => lost("the client was closed", isSent));
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

  /** Counts the attaches, so that the answer to an older one is recognised. */
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

/** What a client watches: attached again on each connection. `onSettled` as for `Requests`. */
class Watches {
  #connection;
  #requests;
  #onSettled;
  #watched = new Map();
  #restart = new Alarm();
  #isClosed = false;

  constructor(connection, requests, onSettled) {
    this.#connection = connection;
    this.#requests = requests;
    this.#onSettled = onSettled;
  }

  get areAwaited() {
    return this.#watched.size > 0;
  }

  add(kind, id, last) {
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

  remove(kind, id, watcher) {
    const watched = this.#watched.get(keyOf(kind, id));
    if (watched?.watchers.delete(watcher)) this.#forgetUnwatched(watched);
  }

  #forgetUnwatched(watched, isDetached = false) {
    if (watched.watchers.size) return;
    this.#watched.delete(keyOf(watched.kind, watched.id));
    if (!isDetached) this.#requests.tell("taskd.detach", { [watched.kind]: watched.id });
    this.#onSettled();
  }

  /** Have the server push the events after the last that all watchers know. */
  #attach(watched) {
    const number = ++watched.attaches;
    const key = keyOf(watched.kind, watched.id);
    const isNewest = () => this.#watched.get(key) === watched && number === watched.attaches;
    watched.attached = null;
    watched.isRefused = false;
    const params = { [watched.kind]: watched.id, after: watched.after };
    // At once, since events may have come together with the answer.
    const onResult = answer => isNewest() && this.#attached(watched, answer);
    this.#requests
      .ask("taskd.attach", params, { isFleeting: true, onResult })
      .catch(error => isNewest() && this.#notAttached(watched, error));
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
    if (error.code === BUSY || RESTARTING.has(error.code)) {
      watched.isRefused = true;
      if (!this.#restart.isSet) this.#restart.set(restartPause(), () => this.#attachRefused());
      return;
    }
    for (const watcher of watched.watchers) this.#finish(watched, watcher, error);
    this.#forgetUnwatched(watched, true);
  }

  #attachRefused() {
    if (!this.#connection.isOpen) return; // all are attached when it is
    for (const watched of this.#watched.values()) if (watched.isRefused) this.#attach(watched);
  }

  #finish(watched, watcher, error) {
    watched.watchers.delete(watcher);
    watcher.finish(error);
  }

  // --- what the connection reports ---

  opened() {
    this.rest();
    for (const watched of this.#watched.values()) this.#attach(watched);
  }

  event(event) {
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

  lost() {
    this.rest();
    for (const watched of this.#watched.values()) watched.attached = null;
  }

  rest() {
    this.#restart.clear();
  }

  /** End all watchers with an error. */
  fail(error) {
    const all = [...this.#watched.values()];
    this.#watched.clear();
    for (const { watchers } of all) for (const watcher of watchers) watcher.finish(error);
  }

  close() {
    this.#isClosed = true;
    this.fail(lost("the client was closed", false));
  }
}

class Client {
  #connection;
  #requests;
  #watches;
  #onConnection;
  #isConnected;
  #isClosed = false;

  constructor(url, { WebSocket, connectTimeout = CONNECT_SECONDS, onConnection = () => {}, token, ...unknown }) {
    onWire(unknown, { WebSocket: "", connectTimeout: "", onConnection: "", token: "" }, "connect");
    const credentials = token === undefined ? undefined : new Credentials(token);
    const client = this;
    const settled = () => this.#settled();
    this.#onConnection = onConnection;
    this.#connection = new Connection(websocketUrl(url), WebSocket, credentials, {
      get isNeeded() {
        return client.#isNeeded;
      },
      opened: () => this.#opened(),
      received: message => this.#received(message),
      lost: (why, code, isUnread) => this.#lost(why, code, isUnread),
      refused: why => this.#refused(why),
      failed: error => this.#failed(error),
    });
    this.#requests = new Requests(this.#connection, connectTimeout, settled);
    this.#watches = new Watches(this.#connection, this.#requests, settled);
  }

  /** Call a function, and return its result. The call is never sent twice. */
  async call(name, args, { onProgress, signal, ...options } = {}) {
    checkArguments(args, name);
    const known = onWire(options, CALL_OPTIONS, "call");
    const wire = onProgress ? { ...known, progress: true } : known;
    return this.#requests.ask(name, args, { options: wire, onProgress, signal, isCall: true });
  }

  /** Have a task stored, and return it. It goes on whatever becomes of this program. */
  async submit(name, args, { token = newToken(), signal, ...options } = {}) {
    checkArguments(args, name);
    const params = { function: name, args, options: onWire(options, SUBMIT_OPTIONS, "submit"), token };
    const { task, joined } = await this.#submit("taskd.submit", params, signal);
    return new Task(this.#requests, this.#watches, task, joined);
  }

  /** Have a task stored for each of `rows`, all or none, and return the batch. */
  async submitBatch(name, rows, { then, token = newToken(), signal, ...options } = {}) {
    const wire = onWire(options, BATCH_OPTIONS, "submitBatch");
    const params = { function: name, args: [...rows], options: wire, then, token };
    const { batch, tasks, joined } = await this.#submit("taskd.submit_batch", params, signal);
    return new Batch(this.#requests, this.#watches, batch, joined, tasks);
  }

  #submit(method, params, signal) {
    const onUnwanted = ({ task, batch = task, joined }) => {
      if (!joined) this.#requests.tell("taskd.cancel", { task: batch });
    };
    return this.#requests.ask(method, params, { isRepeatable: true, signal, onUnwanted });
  }

  /** Return the stored task with this id. */
  task(id) {
    return new Task(this.#requests, this.#watches, id);
  }

  /** Return the batch with this id. */
  batch(id) {
    return new Batch(this.#requests, this.#watches, id);
  }

  /** Return the events of a stored task after the one numbered `after`: each once, up to the last. */
  attach(id, options) {
    return this.task(id).events(options);
  }

  /** Close the connection. Whatever is awaited is rejected; stored tasks go on. */
  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#requests.close();
    this.#watches.close();
    this.#settled();
    this.#connection.close();
  }

  get #isNeeded() {
    return this.#requests.areAwaited || this.#watches.areAwaited;
  }

  /** Stop all timers if nothing is awaited any more: they would keep a program from ending. */
  #settled() {
    if (this.#isNeeded) return;
    this.#requests.rest();
    this.#watches.rest();
    this.#connection.rest();
  }

  // --- what the connection reports ---

  #opened() {
    this.#watches.opened();
    this.#requests.opened();
    this.#report(true);
  }

  #received(message) {
    if (message.method === "taskd.event") this.#watches.event(message.params);
    else if (message.method === "taskd.progress") this.#requests.progress(message.params);
    else this.#requests.answered(message);
    this.#settled();
  }

  #lost(why, code, isUnread) {
    this.#watches.lost();
    this.#requests.lost(why, code, { wasOpen: this.#isConnected === true, isUnread });
    this.#report(false);
  }

  #refused(why) {
    this.#watches.lost();
    this.#requests.fail(why);
    this.#watches.fail(why(false));
    this.#report(false);
    this.#settled();
  }

  #failed(error) {
    this.#requests.fail(() => error);
    this.#watches.fail(error);
    this.#settled();
  }

  #report(isConnected) {
    if (isConnected === this.#isConnected) return;
    this.#isConnected = isConnected;
    this.#onConnection(isConnected);
  }
}

/** What tasks and batches have in common. */
class Stored {
  #requests;
  #watches;
  #kind;

  constructor(requests, watches, kind, id, joined) {
    this.#requests = requests;
    this.#watches = watches;
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
    return (await this.#requests.ask("taskd.cancel", { task: this.id }, { isRepeatable: true })).was;
  }

  /** Return the events after the one numbered `after`: each once, up to the last. */
  async *events({ after = 0, signal } = {}) {
    if (!Number.isInteger(after) || after < -1) {
      throw new TypeError(`after is the number of an event, 0 for all or -1 for new ones alone, not ${after}`);
    }
    signal?.throwIfAborted();
    const watcher = this.#watches.add(this.#kind, this.id, after);
    const abort = () => watcher.abort(signal.reason);
    signal?.addEventListener("abort", abort);
    try {
      for (let event; (event = await watcher.next()) !== undefined; ) yield event;
    } finally {
      signal?.removeEventListener("abort", abort);
      this.#watches.remove(this.#kind, this.id, watcher);
    }
  }

  /** Wait until it has ended, and return its result. Throws the error that it has ended with. */
  async result({ timeout, signal } = {}) {
    signal?.throwIfAborted();
    const stopping = new AbortController();
    const stop = () => stopping.abort(signal.reason);
    signal?.addEventListener("abort", stop);
    const waiting = new Alarm();
    if (timeout !== undefined) waiting.set(timeout, () => stopping.abort(this.#notInTime(timeout)));
    try {
      let last;
      for await (const event of this.events({ after: -1, signal: stopping.signal })) last = event;
      const more = { isRepeatable: true, isPatient: true, signal: stopping.signal };
      return this.outcome(last ?? (await this.ask("taskd.get", more)));
    } finally {
      waiting.clear();
      signal?.removeEventListener("abort", stop);
    }
  }

  ask(method, more) {
    return this.#requests.ask(method, { [this.#kind]: this.id }, more);
  }

  #notInTime(seconds) {
    const message = `the ${this.#kind} ${this.id} has not ended within ${seconds} s; it goes on`;
    return new TaskdError(TIMED_OUT, message, { limit: "wait", seconds });
  }
}

/** A stored task. `joined` says whether a submit has found it there already. */
class Task extends Stored {
  constructor(requests, watches, id, joined) {
    super(requests, watches, "task", id, joined);
  }

  /** Have a failed task run again, and return what it was. */
  async retry() {
    return (await this.ask("taskd.retry")).was;
  }

  /** Return what holds the task. */
  why() {
    return this.ask("taskd.why", { isRepeatable: true });
  }

  outcome({ event, state = event, result = null, error }) {
    if (state === "succeeded") return result;
    // A task that was cancelled while it waited has no error of its own.
    throw TaskdError.from(error ?? { code: CODES[state] ?? FAILED, message: `the task ${this.id} is ${state}` });
  }
}

/** A batch of stored tasks; `tasks` has their ids, unless it was found by its own. */
class Batch extends Stored {
  constructor(requests, watches, id, joined, tasks) {
    super(requests, watches, "batch", id, joined);
    this.tasks = tasks;
  }

  outcome({ event, error, done, failed, cancelled, total, state }) {
    if (event === "detached") throw TaskdError.from(error);
    return { done, failed, cancelled, total, state };
  }
}
