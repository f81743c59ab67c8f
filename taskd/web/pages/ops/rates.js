/** How much happens now: the differences between answers of `taskd.status`, as far back as is kept. */

/** Seconds over which the present rate is taken: one alone jumps, a minute hides what has just begun. */
const PRESENT = 10;

/** Answers that are kept: five minutes of one a second. */
const KEPT = 300;

const COUNTED = ["done", "failed", "timed_out", "expired", "cancelled", "lost", "refused"];

export class Rates {
  #points = [];

  /** Take an answer of `taskd.status` that came at `at`, in seconds. A server that was restarted counts anew. */
  add(status, at) {
    const last = this.#points.at(-1);
    const counts = Object.fromEntries(COUNTED.map(name => [name, status.counts[name] ?? 0]));
    if (last && (status.uptime < last.uptime || COUNTED.some(name => counts[name] < last.counts[name]))) {
      this.#points = [];
    }
    const { waiting, running, uptime } = status;
    this.#points.push({ at, uptime, waiting, running, counts });
    if (this.#points.length > KEPT) this.#points.shift();
  }

  /** Return what ended a second, over the last ten: by outcome, and `ended` for all; null before there are two answers. */
  get present() {
    const last = this.#points.at(-1);
    if (this.#points.length < 2) return null;
    const first = this.#points.find(point => point.at >= last.at - PRESENT);
    return between(first === last ? this.#points.at(-2) : first, last);
  }

  /** Return the course of the last minutes: arrays of equal length, for a chart. */
  get course() {
    const course = { at: [], ended: [], failed: [], waiting: [], running: [] };
    for (let i = 1; i < this.#points.length; i++) {
      const point = this.#points[i];
      const { ended, failures } = between(this.#points[i - 1], point);
      course.at.push(point.at);
      course.ended.push(ended);
      course.failed.push(failures);
      course.waiting.push(point.waiting);
      course.running.push(point.running);
    }
    return course;
  }
}

/** Return the rates between two points, in tasks a second. */
function between(first, last) {
  const seconds = Math.max(last.at - first.at, 0.001);
  const rates = {};
  for (const name of COUNTED) rates[name] = (last.counts[name] - first.counts[name]) / seconds;
  const failures = rates.failed + rates.timed_out + rates.lost;
  return { ...rates, failures, ended: rates.done + failures + rates.cancelled };
}
