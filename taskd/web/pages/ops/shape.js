/** What the answers of the server mean for the page: rows of tables, and figures. Pure functions. */

/** Return how many calls of a function ended badly: cancelled ones were ended by people, and do not count. */
export function failuresOf({ failed, lost, timed_out: timedOut }) {
  return failed + lost + timedOut;
}

/** Return how many calls of a function have been started and have ended. */
export function endedOf(stats) {
  return stats.done + failuresOf(stats);
}

const NEVER_RUN = { done: 0, failed: 0, lost: 0, timed_out: 0, cancelled: 0, mean: null, longest: null };

/**
 * Return a row for each function: those that the app has, and those that have run and are gone.
 *
 * `functions` is the answer of `taskd.functions`, `queue` that of `taskd.queue`, each null if it is not known. Of what the
 * reader's token `covers`, `functions` has all that the app has; of the rest it is not known.
 */
export function functionRows(status, functions, queue, covers = () => true) {
  const known = new Map((functions ?? []).map(each => [each.name, each]));
  const stats = new Map(status.functions.map(each => [each.name, each]));
  const paused = new Set(status.store?.paused ?? []);
  const held = new Map();
  for (const { function: name, waiting, running, scheduled } of queue ?? []) {
    const sum = held.get(name) ?? { waiting: 0, running: 0, scheduled: 0 };
    held.set(name, {
      waiting: sum.waiting + waiting,
      running: sum.running + running,
      scheduled: sum.scheduled + scheduled,
    });
  }
  const names = new Set([...known.keys(), ...stats.keys(), ...paused]);
  return [...names].sort().map(name => {
    const info = known.get(name);
    const run = stats.get(name) ?? NEVER_RUN;
    return {
      ...run,
      name,
      summary: info?.summary ?? "",
      isDurable: Boolean(info?.durable),
      isGone: functions !== null && info === undefined && covers(name),
      isPaused: paused.has(name),
      ended: endedOf(run),
      failures: failuresOf(run),
      ...(held.get(name) ?? { waiting: 0, running: 0, scheduled: 0 }),
    };
  });
}

/** The states of workers, those with something to see first. */
const WORKER_ORDER = ["busy", "leaving", "starting", "standby", "idle"];

/** Return the workers as they are listed: busy ones first, and of them whoever runs longest. */
export function workerRows({ workers }) {
  const place = ({ state }) => WORKER_ORDER.indexOf(state);
  return [...workers].sort((a, b) => place(a) - place(b) || busyTime(b) - busyTime(a) || a.number - b.number);
}

function busyTime({ state, seconds }) {
  return state === "busy" ? seconds : 0;
}

/** Return how many workers are in each state that some are in, in the order of the list. */
export function workerCounts({ workers }) {
  return WORKER_ORDER.map(state => [state, workers.filter(each => each.state === state).length]).filter(
    ([, number]) => number,
  );
}

/**
 * Return the queue's rows summed by `member` ("function" or "owner"), the one with most waiting first.
 *
 * The `name` of an owner may be "", for nobody in particular; null stands for all that the server does not name.
 */
export function queueBy(member, rows) {
  const sums = new Map();
  for (const row of rows) {
    const name = row[member];
    const sum = sums.get(name) ?? { name, scheduled: 0, waiting: 0, running: 0, oldest: null };
    sum.scheduled += row.scheduled;
    sum.waiting += row.waiting;
    sum.running += row.running;
    if (row.oldest !== null && row.oldest !== undefined) sum.oldest = Math.max(sum.oldest ?? 0, row.oldest);
    sums.set(name, sum);
  }
  return [...sums.values()].sort(
    (a, b) => b.waiting - a.waiting || b.running - a.running || b.scheduled - a.scheduled || ((a.name ?? "") < (b.name ?? "") ? -1 : 1),
  );
}

/** Return whether a server takes no new tasks until it is to take them again. */
export function isDraining(status) {
  return status?.unready?.reason === "draining";
}

/**
 * Return what an operator should look at now, the worst first: `{ level, kind, ... }`.
 *
 * `level` is "bad" or "warn". `kind` names the text, of which the other members are parts.
 */
export function alarms(status) {
  const found = [];
  const add = (level, kind, more = {}) => found.push({ level, kind, ...more });
  if (status.stopping) add("warn", "stopping");
  if (isDraining(status)) add("warn", "draining");
  const { code, store, unready } = status;
  if (code.state === "failed") add("bad", "codeFailed");
  if (code.state === "waiting") add("bad", "codeWaiting", { reason: code.reason, seconds: code.next_try });
  if (store?.fault) add("bad", "storeFault", { fault: store.fault });
  if (unready && !found.length) {
    add("bad", "unready", { reason: unready.detail || unready.reason });
  }
  if (status.waiting >= status.max_queue) add("bad", "queueFull", { limit: status.max_queue });
  if (status.budget.held > status.budget.limit * 0.9) add("warn", "memoryFull", { ...status.budget });
  if (store?.paused.length) add("warn", "paused", { names: store.paused.join(", ") });
  if (status.log_lines_lost) add("warn", "logLost", { count: status.log_lines_lost });
  return found.sort((a, b) => (a.level === b.level ? 0 : a.level === "bad" ? -1 : 1));
}
