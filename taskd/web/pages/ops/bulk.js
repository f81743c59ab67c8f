/** One action on many tasks: a bounded number of requests at once, and what became of each. */

/** Requests at once: a websocket has at most 100 in flight, and the page itself needs some of them. */
export const AT_ONCE = 40;

/** Refusals that are kept with their reasons; more are counted. */
export const KEPT_REFUSALS = 200;

/**
 * Call `act(id)` for each id, and return `{ done, refused, reasons, stopped }`.
 *
 * `reasons` has the id and the message of the first refusals. `onProgress` gets the same after each answer. If
 * `signal` is aborted, no more are begun. A lost connection ends it: what was sent may have been done.
 */
export async function onEach(ids, act, { onProgress = () => {}, signal, atOnce = AT_ONCE } = {}) {
  const outcome = { done: 0, refused: 0, total: ids.length, reasons: [], stopped: false };
  const left = ids.values();
  const isOver = () => signal?.aborted || outcome.stopped;
  async function work() {
    for (const id of left) {
      try {
        await act(id);
        outcome.done += 1;
      } catch (error) {
        outcome.refused += 1;
        if (outcome.reasons.length < KEPT_REFUSALS) outcome.reasons.push({ id, message: error.message });
        if (isConnectionLost(error)) outcome.stopped = true;
      }
      onProgress(outcome);
      if (isOver()) return;
    }
  }
  if (!isOver()) await Promise.all(Array.from({ length: Math.min(atOnce, ids.length) }, work));
  if (signal?.aborted) outcome.stopped = true;
  return outcome;
}

const UNREACHABLE = -32007;

function isConnectionLost(error) {
  return error.code === UNREACHABLE;
}

/** Return the reasons of refusals with how often each was given, the most frequent first; ids are left out of them. */
export function summed(reasons) {
  const counts = new Map();
  for (const { id, message } of reasons) {
    const reason = message.replaceAll(id, "…");
    counts.set(reason, (counts.get(reason) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a);
}
