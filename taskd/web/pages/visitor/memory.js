/**
 * What the browser remembers of a visitor's work.
 *
 * Without tokens the server does not know whose a task is, so that the browser keeps the ids. With a token it knows: then nothing is
 * kept here but submits that have no answer yet, until the tab is closed.
 */

const TASKS = "taskd.tasks";
const PENDING = "taskd.pending";

/** Tasks and batches that are remembered; the oldest are forgotten. */
const MAX_TASKS = 200;

/** Characters of the longest pending submit that is kept: there is room for some five million in all. */
const LONGEST_PENDING = 1_000_000;

function read(storage, key, otherwise) {
  try {
    return JSON.parse(storage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function write(storage, key, value) {
  try {
    storage.setItem(key, JSON.stringify(value));
  } catch {
    // Full, or forbidden: then a reload does not find it.
  }
}

/** Return the remembered tasks and batches, each with `kind`, `id` and `label`, the newest first. */
export function remembered() {
  return read(localStorage, TASKS, []);
}

export function remember(entry) {
  const others = remembered().filter(({ id }) => id !== entry.id);
  write(localStorage, TASKS, [entry, ...others].slice(0, MAX_TASKS));
}

export function forget(ids) {
  const gone = new Set(ids);
  write(localStorage, TASKS, remembered().filter(({ id }) => !gone.has(id)));
}

/** Call `act` when another tab has remembered something. */
export function whenOthersRemember(act) {
  addEventListener("storage", event => {
    if (event.key === TASKS) act();
  });
}

/** Keep a submit until it is answered: after a reload it is sent again, and its token makes it the same. */
export function keepPending(token, submit) {
  if (JSON.stringify(submit).length > LONGEST_PENDING) return;
  write(sessionStorage, PENDING, { ...pending(), [token]: submit });
}

export function dropPending(token) {
  const { [token]: _, ...others } = pending();
  write(sessionStorage, PENDING, others);
}

/** Return the submits without an answer by their tokens. */
export function pending() {
  return read(sessionStorage, PENDING, {});
}
