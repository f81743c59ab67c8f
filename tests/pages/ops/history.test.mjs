import assert from "node:assert/strict";
import { test } from "node:test";

import { asked, columns, totals } from "../../../taskd/web/pages/ops/history.js";

const NOW = 1_000_000 * 60 + 30;

const point = (at, more = {}) => ({
  at, function: "send", submitted: 0, succeeded: 0, failed: 0, lost: 0, timed_out: 0, cancelled: 0,
  wait_mean: null, wait_max: null, run_mean: null, run_max: null, run_p50: null, run_p95: null, ...more,
});

test("an hour has a step for each minute, with nothing where nothing happened", () => {
  const found = columns([point(NOW - 30, { succeeded: 3, run_mean: 2, run_max: 5 })], "hour", NOW);
  assert.equal(found.at.length, 61);
  assert.equal(found.at.at(-1), NOW - 30);
  assert.deepEqual(found.seconds.slice(-2), [60, 30]);
  assert.deepEqual(found.succeeded.slice(-2), [0, 3]);
  assert.deepEqual(found.runMean.slice(-2), [null, 2]);
  assert.deepEqual(found.runMax.slice(-2), [null, 5]);
});

test("the points of a step are summed, and their mean times weighted by their runs", () => {
  const found = columns([
    point(NOW - 30, { succeeded: 9, failed: 0, run_mean: 1, run_p95: 3, wait_max: 4, wait_mean: 0.5 }),
    point(NOW - 29, { failed: 1, lost: 1, timed_out: 1, run_mean: 5, run_p95: 6, wait_max: 2 }),
  ], "hour", NOW);
  assert.equal(found.failures.at(-1), 3);
  assert.equal(found.runMean.at(-1), (9 * 1 + 3 * 5) / 12);
  assert.equal(found.waitMean.at(-1), 0.5);
  assert.equal(found.waitMax.at(-1), 4);
  assert.equal(found.runP95.at(-1), 6);
});

test("a step of several minutes has the greatest percentile of them", () => {
  const at = Math.floor(NOW / 300) * 300;
  const found = columns([
    point(at, { succeeded: 1, run_p95: 3, run_p50: 1 }),
    point(at + 60, { succeeded: 1, run_p95: 2, run_p50: 1.5 }),
    point(at + 120, { cancelled: 1, run_p95: 0, run_p50: 9 }),
  ], "day", NOW);
  assert.equal(found.runP95.at(-1), 3);
  assert.equal(found.runP50.at(-1), 1.5);
});

test("points outside the range are left out, and the range is what the server is asked for", () => {
  const found = columns([point(NOW - 90_000, { succeeded: 1 }), point(NOW + 600, { succeeded: 1 })], "hour", NOW);
  assert.equal(totals(found).succeeded, 0);
  assert.equal(totals(found).runMax, null);
  assert.deepEqual(asked("hour", NOW), { period: "minute", since: NOW - 3600 });
  assert.deepEqual(asked("month", NOW, "send"), { period: "hour", since: NOW - 2_592_000, function: "send" });
});

test("totals sum the counts and keep the greatest times", () => {
  const found = columns([point(NOW - 30, { succeeded: 1, run_max: 2 }), point(NOW - 90, { succeeded: 2, run_max: 1 })], "hour", NOW);
  const { succeeded, runMax, waitMax } = totals(found);
  assert.deepEqual({ succeeded, runMax, waitMax }, { succeeded: 3, runMax: 2, waitMax: null });
});
