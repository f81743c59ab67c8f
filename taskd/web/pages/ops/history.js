/** The answers of `taskd.history` as the columns of charts: one value for each minute or hour. Pure functions. */

/** The ranges that the page offers: how far back, and by which period the server is asked. Seconds. */
export const RANGES = {
  hour: { period: "minute", seconds: 3600, step: 60 },
  day: { period: "minute", seconds: 86400, step: 300 },
  month: { period: "hour", seconds: 30 * 86400, step: 3 * 3600 },
};

/** Return the parameters of `taskd.history` for a range that ends now. */
export function asked(range, now, name = null) {
  const { period, seconds } = RANGES[range];
  return { period, since: now - seconds, ...(name ? { function: name } : {}) };
}

/**
 * Return the columns of a range: for each of its steps when it began (`at`), how long it was, and what happened.
 *
 * Counts are summed over the points of a step, and are 0 where nothing is known to have happened. Mean times are
 * weighted by the runs; they, and the greatest ones, are null where nothing ran. Percentiles cannot be
 * summed: a step has the greatest of its points.
 */
export function columns(points, range, now) {
  const { seconds, step } = RANGES[range];
  const first = Math.floor((now - seconds) / step) * step;
  const length = Math.floor(now / step) - first / step + 1;
  const steps = Array.from({ length }, () => new Step());
  for (const point of points) steps[Math.floor((point.at - first) / step)]?.add(point);
  return {
    at: steps.map((_, index) => first + index * step),
    // The last step is not over.
    seconds: steps.map((_, index) => Math.max(1, Math.min(step, now - first - index * step))),
    submitted: steps.map(each => each.submitted),
    succeeded: steps.map(each => each.succeeded),
    failures: steps.map(each => each.failures),
    cancelled: steps.map(each => each.cancelled),
    waitMean: steps.map(each => each.mean("wait")),
    waitMax: steps.map(each => each.wait_max),
    runMean: steps.map(each => each.mean("run")),
    runMax: steps.map(each => each.run_max),
    waitP95: steps.map(each => each.wait_p95),
    runP50: steps.map(each => each.run_p50),
    runP95: steps.map(each => each.run_p95),
  };
}

/** The times of which a step has the greatest. */
const TIMES = ["wait_max", "wait_p95", "run_max", "run_p50", "run_p95"];

/** What has happened within one step of a chart. */
class Step {
  submitted = 0;
  succeeded = 0;
  failures = 0;
  cancelled = 0;
  wait_max = null;
  wait_p95 = null;
  run_max = null;
  run_p50 = null;
  run_p95 = null;
  #weights = { wait: 0, run: 0 };
  #sums = { wait: 0, run: 0 };

  add(point) {
    const failures = point.failed + point.lost + point.timed_out;
    this.submitted += point.submitted;
    this.succeeded += point.succeeded;
    this.failures += failures;
    this.cancelled += point.cancelled;
    const runs = point.succeeded + failures;
    if (!runs) return; // its times are those of nothing
    for (const name of TIMES) if (isNumber(point[name])) this[name] = Math.max(this[name] ?? 0, point[name]);
    for (const kind of ["wait", "run"]) {
      if (!isNumber(point[`${kind}_mean`])) continue;
      this.#weights[kind] += runs;
      this.#sums[kind] += runs * point[`${kind}_mean`];
    }
  }

  mean(kind) {
    return this.#weights[kind] ? this.#sums[kind] / this.#weights[kind] : null;
  }
}

function isNumber(value) {
  return typeof value === "number";
}

/** Return the sums of the counts of a range, and its greatest times, for who reads rather than looks. */
export function totals({ submitted, succeeded, failures, cancelled, waitMax, runMax }) {
  const sum = values => values.reduce((a, b) => a + b, 0);
  const greatest = values => values.reduce((a, b) => (b === null ? a : Math.max(a ?? 0, b)), null);
  return {
    submitted: sum(submitted),
    succeeded: sum(succeeded),
    failures: sum(failures),
    cancelled: sum(cancelled),
    waitMax: greatest(waitMax),
    runMax: greatest(runMax),
  };
}
