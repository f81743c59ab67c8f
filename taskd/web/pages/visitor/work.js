/**
 * The visitor's tasks and batches: loaded, watched, and kept as the server knows them. What is shown of them is for others.
 *
 * An item has what `taskd.get` answers, and `kind` ("task" or "batch"), `id`, `label`, `events` (those that have come) and, of
 * a task, `progress`.
 */
import { tokenReason } from "../shared/session.js";
import * as memory from "./memory.js";

/** Tasks, and batches, that are asked for at once. */
const PAGE = 50;

/** Milliseconds between two looks at what has been started elsewhere. */
const LOOK = 10_000;

/** Milliseconds until something is asked for again that a server which is being restarted did not answer. */
const AGAIN = 500;

/** Events of one task that are kept here. */
const MAX_EVENTS = 200;

/** Characters of a label. */
const LABEL = 120;

const SHUTTING_DOWN = -32005;
const UNREACHABLE = -32007;
const INVALID_PARAMS = -32602;

/** The states after which nothing happens by itself. */
export const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "set_aside", "unknown"]);

const STATES_OF_EVENTS = { queued: "waiting", started: "running", retrying: "scheduled", returned: "waiting", lost: "waiting" };

const pause = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));

/** Return a line for people that tells a task from others of the same function. */
export function labelOf(args, secrets = []) {
  const entries = Array.isArray(args) ? args.map(value => ["", value]) : Object.entries(args ?? {});
  const shown = entries
    .filter(([name]) => !secrets.includes(name))
    .map(([, value]) => (typeof value === "string" ? value : JSON.stringify(value)));
  const label = shown.join(" · ").replace(/\s+/g, " ");
  return label.length > LABEL ? `${label.slice(0, LABEL - 1)}…` : label;
}

function newToken() {
  return crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16)).join("-");
}

export class Work {
  #session;
  #onChange;
  #items = new Map();
  #watched = new Set();
  #oldest = null;
  #oldestBatch = null;
  #hasMore = { tasks: false, batches: false };

  /** `onChange(item)` is called when an item has changed, is new, or was removed (`item.isRemoved`). */
  constructor(session, onChange) {
    this.#session = session;
    this.#onChange = onChange;
  }

  /** Whether the server knows whose a task is. */
  get #hasOwner() {
    return !this.#session.caller.anonymous;
  }

  /** Whether there are older tasks or batches than those that are loaded. */
  get hasMore() {
    return this.#hasMore.tasks || this.#hasMore.batches;
  }

  /** The tasks and batches, the newest first. */
  get items() {
    return [...this.#items.values()].sort((one, other) => other.created - one.created || (other.id < one.id ? -1 : 1));
  }

  /** Load what there is, send again what was not answered before a reload, and look for more from time to time. */
  async open() {
    for (const [token, submit] of Object.entries(memory.pending())) this.#submit(token, submit).catch(() => {});
    await this.look();
    memory.whenOthersRemember(() => this.look());
    document.addEventListener("visibilitychange", () => this.#lookIfSeen());
    setInterval(() => this.#lookIfSeen(), LOOK);
  }

  #lookIfSeen() {
    if (document.visibilityState === "visible") this.look().catch(() => {});
  }

  /** Look for tasks that are new, or were changed by others. */
  async look() {
    if (this.#hasOwner) await this.#list();
    else await Promise.all(memory.remembered().map(entry => this.#meet(entry)));
    for (const { id, state } of this.#items.values()) if (!ENDED.has(state)) this.#watch(id);
  }

  /** Load the next older tasks and batches. */
  async more() {
    await this.#list({ isOlder: true });
  }

  async #list({ isOlder = false } = {}) {
    const page = (what, isAsked, before) =>
      isAsked ? this.#read("taskd.list", { ...what, newest: true, limit: PAGE, ...(before ? { before } : {}) }) : [];
    const [tasks, batches] = await Promise.all([
      page({ batch: "" }, !isOlder || this.#hasMore.tasks, isOlder && this.#oldest),
      page({ batches: true }, !isOlder || this.#hasMore.batches, isOlder && this.#oldestBatch),
    ]);
    if (isOlder || this.#oldest === null) {
      this.#hasMore.tasks = tasks.length === PAGE;
      this.#oldest = tasks.at(-1)?.task ?? this.#oldest;
    }
    if (isOlder || this.#oldestBatch === null) {
      this.#hasMore.batches = batches.length === PAGE;
      this.#oldestBatch = batches.at(-1)?.batch ?? this.#oldestBatch;
    }
    const met = [
      ...tasks.map(({ task, state }) => this.#meet({ kind: "task", id: task }, state)),
      ...batches.map(({ batch, state }) => this.#meet({ kind: "batch", id: batch }, state)),
    ];
    await Promise.all(met);
  }

  /** Make an item of a task or a batch, unless it is known and in this state. */
  async #meet({ kind, id, label }, state) {
    const known = this.#items.get(id);
    if (known && (state === undefined || !ENDED.has(known.state) || known.state === state)) return;
    try {
      const withArgs = kind === "task" && this.#hasOwner ? { with_args: true } : {};
      this.#show({ kind, id, label, ...(await this.#read("taskd.get", { [kind]: id, ...withArgs })) });
    } catch (error) {
      if (error.code === INVALID_PARAMS) memory.forget([id]);
      else throw error;
    }
  }

  #show({ args, ...item }) {
    const known = this.#items.get(item.id);
    item.label ||= known?.label ?? labelOf(args);
    item.events = known?.events ?? [];
    item.progress ??= known?.progress;
    this.#items.set(item.id, item);
    this.#onChange(item);
    if (!ENDED.has(item.state)) this.#watch(item.id);
  }

  /** Take each event of an item until its last one. */
  async #watch(id) {
    if (this.#watched.has(id)) return;
    this.#watched.add(id);
    const { kind, events } = this.#items.get(id);
    const { client } = this.#session;
    try {
      const watched = kind === "task" ? client.task(id) : client.batch(id);
      for await (const event of watched.events({ after: events.at(-1)?.seq ?? 0 })) this.#take(id, event);
      if (this.#items.has(id)) this.#show({ ...this.#items.get(id), ...(await this.#read("taskd.get", { [kind]: id })) });
    } catch (error) {
      if (client !== this.#session.client || tokenReason(error)) return; // the next look begins again
      const item = this.#items.get(id);
      if (item && !ENDED.has(item.state)) this.#change(item, { state: "unknown", error: { message: error.message } });
      memory.forget([id]);
    } finally {
      this.#watched.delete(id);
    }
  }

  #take(id, event) {
    const item = this.#items.get(id);
    if (!item) return;
    const { event: what, seq, at, task, batch, ...more } = event;
    if (item.kind === "batch") {
      this.#change(item, what === "detached" ? {} : more);
      return;
    }
    if (what === "progress" && item.events.at(-1)?.event === "progress") item.events.pop();
    item.events.push(event);
    if (item.events.length > MAX_EVENTS) item.events.shift();
    const change = {};
    if (what === "progress") change.progress = more;
    if (what === "started") change.attempts = more.attempt;
    if (what in STATES_OF_EVENTS) Object.assign(change, { state: STATES_OF_EVENTS[what], progress: undefined });
    if (ENDED.has(what)) Object.assign(change, more, { state: what, ended: at });
    this.#change(item, change);
  }

  #change(item, change) {
    Object.assign(item, change);
    this.#onChange(item);
  }

  // --- what the visitor does ---

  /** Have a task stored. Throws the server's error. */
  start(name, args, { at, secrets = [] }) {
    const label = labelOf(args, secrets);
    return this.#begin({ name, args, options: at ? { at } : {}, label }, { isSecret: secrets.length > 0 });
  }

  /** Have a task stored for each row, as one batch. Throws the server's error. */
  startBatch(name, rows) {
    return this.#begin({ name, rows, label: "" }, { isSecret: false });
  }

  #begin(submit, { isSecret }) {
    const token = newToken();
    if (!isSecret) memory.keepPending(token, submit);
    return this.#submit(token, submit);
  }

  async #submit(token, { name, args, rows, options, label }) {
    const { client } = this.#session;
    const kind = rows ? "batch" : "task";
    let stored;
    try {
      stored = rows ? await client.submitBatch(name, rows, { token }) : await client.submit(name, args, { ...options, token });
    } catch (error) {
      memory.dropPending(token);
      throw error;
    }
    if (!this.#hasOwner) memory.remember({ kind, id: stored.id, label });
    memory.dropPending(token);
    const first = { function: name, created: Date.now() / 1000, attempts: 0 };
    const counts = rows ? { state: "running", done: 0, failed: 0, cancelled: 0, total: rows.length } : { state: "waiting" };
    if (!this.#items.has(stored.id)) this.#show({ kind, id: stored.id, label, ...first, ...counts });
  }

  /** Cancel a task or a batch. Throws the server's error. */
  async cancel(item) {
    await this.#handle(item).cancel();
  }

  /** Have a failed task run again. Throws the server's error. */
  async retry(item) {
    await this.#handle(item).retry();
    this.#change(item, { state: "waiting", error: undefined, progress: undefined, ended: undefined });
    this.#watch(item.id);
  }

  /** Load the events of a task that has ended before it was seen. */
  async loadEvents(item) {
    if (item.kind !== "task" || item.events.length) return;
    const events = await this.#read("taskd.events", { task: item.id, limit: MAX_EVENTS });
    if (!item.events.length) this.#change(item, { events });
  }

  /** Return failed tasks of a batch, at most `limit`, each with its error. */
  async failuresOf(batch, limit) {
    const failed = await this.#read("taskd.list", { batch: batch.id, state: "failed", limit });
    return Promise.all(failed.map(({ task }) => this.#read("taskd.get", { task })));
  }

  /** Forget the tasks that have ended: the server keeps them. */
  forgetEnded() {
    const ended = this.items.filter(({ state }) => ENDED.has(state));
    memory.forget(ended.map(({ id }) => id));
    for (const item of ended) {
      this.#items.delete(item.id);
      this.#onChange({ ...item, isRemoved: true });
    }
  }

  #handle({ kind, id }) {
    const { client } = this.#session;
    return kind === "task" ? client.task(id) : client.batch(id);
  }

  /** Ask for something that may be asked for twice, until there is an answer. */
  async #read(method, params) {
    for (;;) {
      try {
        return await this.#session.client.call(method, params);
      } catch (error) {
        const reason = tokenReason(error);
        if (reason) await this.#session.open(reason);
        else if (error.code === UNREACHABLE || error.code === SHUTTING_DOWN) await pause(AGAIN);
        else throw error;
      }
    }
  }
}
