/** The events of a task as a person reads them: its attempts, and what happened between them. Pure functions. */

/** The events that end an attempt, and what each means for it. */
const ENDS = {
  succeeded: "succeeded",
  failed: "failed",
  retrying: "failed",
  lost: "lost",
  returned: "returned",
  cancelled: "cancelled",
  expired: "expired",
  set_aside: "set_aside",
};

/** Those after which the task itself has ended. */
const LAST = new Set(["succeeded", "failed", "cancelled", "expired", "set_aside"]);

/** Partial results that are kept of an attempt, for display: the newest. */
const KEPT_PARTIALS = 50;

/**
 * Return `{ attempts, notes, last }` for the events of a task, which are in order.
 *
 * An attempt has `number`, `started`, `ended` and `outcome` (null while it runs), `error`, `traceback`, `output`,
 * `memory` (KiB), `due` (when the next one is), `progress` (the newest), `partials` (the newest) and `partialCount`.
 * Notes are events outside attempts: `{ event, at, error }`; the first "queued" is "accepted", others put the task back. `last` is the number of the newest event.
 */
export function readLog(events) {
  const log = { attempts: [], notes: [], last: 0 };
  for (const event of events) {
    log.last = Math.max(log.last, event.seq);
    addEvent(log, event);
  }
  return log;
}

function addEvent({ attempts, notes }, event) {
  const running = attempts.at(-1)?.outcome === null ? attempts.at(-1) : null;
  if (event.event === "started") {
    attempts.push(newAttempt(event));
  } else if (running && event.event in ENDS) {
    running.outcome = ENDS[event.event];
    running.ended = event.at;
    running.isLast = LAST.has(event.event);
    Object.assign(running, kept(event));
  } else if (running && event.event === "progress") {
    running.progress = { done: event.done, total: event.total, message: event.message, at: event.at };
  } else if (running && event.event === "partial") {
    running.partialCount += 1;
    running.partials.push(event.value);
    if (running.partials.length > KEPT_PARTIALS) running.partials.shift();
  } else {
    const isFirst = event.event === "queued" && !attempts.length && !notes.length;
    notes.push({ event: isFirst ? "accepted" : event.event, at: event.at, error: event.error ?? null });
  }
}

function newAttempt({ attempt, at }) {
  return {
    ...{ number: attempt, started: at, ended: null, outcome: null, isLast: false },
    ...{ error: null, traceback: null, output: null, memory: null, due: null },
    ...{ progress: null, partials: [], partialCount: 0 },
  };
}

/** Return the members of an ending that are shown of an attempt. */
function kept({ error = null, traceback, output, memory, due = null }) {
  return {
    error,
    traceback: traceback ?? error?.data?.traceback ?? stackOf(error),
    output: output ?? error?.data?.output ?? null,
    memory: memory ?? error?.data?.memory ?? error?.data?.peak_memory_kib ?? null,
    due,
  };
}

/** Return the last stack of a process that was lost as a text, null if it has left none. */
function stackOf(error) {
  return error?.data?.stack ? error.data.stack.join("\n") : null;
}

/** Return how far something is, from 0 to 1; null if its total is unknown. */
export function partDone(progress) {
  if (!progress?.total) return null;
  return Math.min(1, Math.max(0, progress.done / progress.total));
}
