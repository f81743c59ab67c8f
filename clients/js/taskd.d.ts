/** A client of taskd, for browsers and Node. All times are in seconds. */

/** Arguments by position or by name. They are written as JSON. */
export type Arguments = readonly unknown[] | { readonly [name: string]: unknown };

/** The state of a stored task; those from "succeeded" on are ends. */
export type TaskState =
  | "scheduled" | "waiting" | "running"
  | "succeeded" | "failed" | "cancelled" | "expired" | "set_aside";

export type BatchState = "running" | "succeeded" | "failed" | "cancelled";

/** What a function has reported with `taskd.progress`, in its own units. */
export interface Progress {
  done: number;
  /** Left out if it is unknown. */
  total?: number;
  message?: string;
}

/** A token, or none, because nobody has signed in. */
export type Token = string | null | undefined;

export interface ConnectOptions {
  /** The class to make websockets with; by default the global one, else that of the package ws. */
  WebSocket?: new (url: string, protocols?: string[]) => unknown;
  /**
   * The token that shows the server who is calling, or a function that returns one. It is asked for each connection,
   * again before a token expires, and when one has; undefined or null says that nobody has signed in.
   */
  token?: string | (() => Token | Promise<Token>);
  /** How long calls and submits wait for a connection before they are rejected: 30 by default, `Infinity` for ever. */
  connectTimeout?: number;
  /** Called when the connection is open, and when it is lost or cannot be made. */
  onConnection?: (isConnected: boolean) => void;
}

export interface CallOptions {
  /** How long the task may run before it is stopped. */
  timeout?: number;
  /** From 0 (first) to 9; 5 by default. */
  priority?: number;
  /** How long the task may wait before it is started. */
  deadline?: number;
  /** What becomes of the task if the connection is lost: it runs to its end by default. */
  onDisconnect?: "finish" | "cancel";
  onProgress?: (progress: Progress) => void;
  /** Aborting it cancels the task. */
  signal?: AbortSignal;
}

export interface BatchOptions {
  timeout?: number;
  priority?: number;
  deadline?: number;
  /** How long to wait before the task may be started. */
  delay?: number;
  /** When the task may be started: a date, or a text with a zone, as RFC 3339 writes it. */
  at?: Date | string;
  retries?: number;
  /** How long the task is kept after its end. */
  keep?: number;
  /** What makes the submit known when it comes again; by default one of its own. */
  token?: string;
  /** Aborting it takes the submit back; a task that it has stored meanwhile is cancelled. */
  signal?: AbortSignal;
}

export interface SubmitOptions extends BatchOptions {
  /** Of a function's unfinished tasks only one has the same key; a second submit joins it. */
  key?: string;
}

export interface SubmitBatchOptions extends BatchOptions {
  /** The function that is called when all tasks of the batch have ended. */
  then?: string;
}

export interface EventsOptions {
  /** The number of the last event that is known; 0, the default, for all events, -1 for new ones alone. */
  after?: number;
  /** Aborting it ends the iteration with the signal's reason; the task goes on. */
  signal?: AbortSignal;
}

export interface ResultOptions {
  /** How long to wait; then it is rejected, with the name "timed out", and the task goes on. */
  timeout?: number;
  /** Aborting it ends the wait with the signal's reason; the task goes on. */
  signal?: AbortSignal;
}

/** An error as the protocol writes it. */
export interface ErrorObject {
  code: number;
  message: string;
  data?: { [member: string]: unknown };
}

interface EventBase {
  task: string;
  /** The event's number: of a task's events each has a higher one than those before it. */
  seq: number;
  /** Seconds since 1970. */
  at: number;
}

/** An event of a stored task. */
export type TaskEvent = EventBase & (
  | { event: "queued" | "gap" | "returned" }
  | { event: "started"; attempt: number }
  | ({ event: "progress" } & Progress)
  | { event: "partial"; value: unknown }
  | { event: "retrying"; error: ErrorObject; due: number }
  | { event: "lost"; error: ErrorObject }
  | { event: "succeeded"; result: unknown }
  | { event: "failed" | "cancelled" | "expired" | "set_aside" | "detached"; error: ErrorObject }
);

export interface Counts {
  done: number;
  failed: number;
  cancelled: number;
  total: number;
}

/** An event of a batch. */
export type BatchEvent = { batch: string; seq: number; at: number } & (
  | ({ event: "progress" } & Counts)
  | ({ event: "ended"; state: BatchState } & Counts)
  | { event: "detached"; error: ErrorObject }
);

/** A stored task: it goes on whatever becomes of its client. */
export interface Task<Result = unknown> {
  readonly id: string;
  /** Whether the submit has found the task there already; unknown if the task was found by its id. */
  readonly joined?: boolean;
  state(): Promise<TaskState>;
  /** The result, once there is one. Rejected with the error that the task has ended with. */
  result(options?: ResultOptions): Promise<Result>;
  /** The events, each once and in order, up to the last one. Goes on by itself after a lost connection. */
  events(options?: EventsOptions): AsyncGenerator<TaskEvent, void, void>;
  /** Cancels the task; what it was, once it has ended. */
  cancel(): Promise<string>;
  /** Has a failed task run again; what it was. */
  retry(): Promise<string>;
  /** What holds the task: `reason` is for people. */
  why(): Promise<{ task: string; state: TaskState; reason: string; [more: string]: unknown }>;
}

/** Stored tasks of one function, submitted together. */
export interface Batch {
  readonly id: string;
  readonly joined?: boolean;
  /** The ids of the tasks; unknown if the batch was found by its own. */
  readonly tasks?: string[];
  state(): Promise<BatchState>;
  /** The counts, once all tasks have ended, however they did. */
  result(options?: ResultOptions): Promise<Counts & { state: BatchState }>;
  events(options?: EventsOptions): AsyncGenerator<BatchEvent, void, void>;
  cancel(): Promise<string>;
}

export interface Client {
  /**
   * Calls a function, or a method of the server like "taskd.status". Never sent twice: if the connection is lost
   * before the answer, it is rejected with code -32007, and `sent` is true.
   */
  call<Result = unknown>(name: string, args?: Arguments, options?: CallOptions): Promise<Result>;
  /** Has a task stored. Sent again after a lost connection: its token makes it the same task. */
  submit<Result = unknown>(name: string, args?: Arguments, options?: SubmitOptions): Promise<Task<Result>>;
  /** Has a task stored for each of `rows`, all or none. */
  submitBatch(name: string, rows: Iterable<Arguments>, options?: SubmitBatchOptions): Promise<Batch>;
  /** The stored task with this id, which is not looked up before it is used. */
  task<Result = unknown>(id: string): Task<Result>;
  batch(id: string): Batch;
  /** The events of the stored task with this id: as `task(id).events(options)`. */
  attach(id: string, options?: EventsOptions): AsyncGenerator<TaskEvent, void, void>;
  /** Closes the connection, and rejects whatever is awaited. Stored tasks go on. */
  close(): void;
}

/** Why a request has failed. */
export class TaskdError extends Error {
  /** The code of the protocol, like -32001. */
  readonly code: number;
  /** The same in words, like "timed out". */
  name: string;
  readonly data: { readonly [member: string]: unknown };
  /** Of a lost connection (-32007): whether the request had been sent, so that the task may have run. */
  get sent(): boolean | undefined;
  constructor(code: number, message: string, data?: { [member: string]: unknown });
}

/**
 * A client of the gateway at this address: `ws://HOST:PORT`, `wss://HOST:PORT`, or an address relative to the page.
 * It connects when it is first needed, and again when the connection is lost while something is awaited.
 */
export function connect(url: string | URL, options?: ConnectOptions): Client;
