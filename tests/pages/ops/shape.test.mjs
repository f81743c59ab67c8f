import assert from "node:assert/strict";
import { test } from "node:test";

import { alarms, functionRows, queueBy, workerCounts, workerRows } from "../../../taskd/web/pages/ops/shape.js";
import { Rates } from "../../../taskd/web/pages/ops/rates.js";

const stats = (name, more = {}) => ({
  name, done: 0, failed: 0, lost: 0, timed_out: 0, cancelled: 0, mean: 0.1, longest: 0.2, ...more,
});

const status = (more = {}) => ({
  uptime: 10, stopping: false, code: { state: "ready" }, store: null, unready: null, waiting: 0, running: 0,
  max_queue: 100, budget: { held: 0, limit: 100 }, log_lines_lost: 0, workers: [], functions: [], counts: {}, ...more,
});

test("there is a row for what the app has, and for what has run and is gone", () => {
  const rows = functionRows(
    status({ functions: [stats("old", { done: 1 }), stats("send", { done: 6, failed: 1, lost: 2, timed_out: 1, cancelled: 5 })] }),
    [{ name: "send", summary: "Send.", durable: {} }, { name: "idle", summary: "", durable: null }],
    [{ function: "send", owner: "a", waiting: 2, running: 1, scheduled: 0 },
     { function: "send", owner: "b", waiting: 3, running: 0, scheduled: 4 }],
  );
  assert.deepEqual(rows.map(row => row.name), ["idle", "old", "send"]);
  assert.deepEqual(rows.map(row => row.isGone), [false, true, false]);
  const { ended, failures, waiting, running, scheduled, isDurable } = rows[2];
  assert.deepEqual({ ended, failures, waiting, running, scheduled, isDurable },
    { ended: 10, failures: 4, waiting: 5, running: 1, scheduled: 4, isDurable: true });
});

test("of a function that the token does not cover it is not known whether it is gone", () => {
  const rows = functionRows(status({ functions: [stats("old"), stats("others")] }), [], null, name => name !== "others");
  assert.deepEqual(rows.map(row => [row.name, row.isGone]), [["old", true], ["others", false]]);
});

test("a paused function is listed though it has neither run nor is known", () => {
  const [row] = functionRows(status({ store: { paused: ["later"] } }), null, null);
  assert.equal(row.name, "later");
  assert.equal(row.isPaused, true);
  assert.equal(row.isGone, false, "what the app has is not known yet");
});

test("workers that run longest come first, idle ones last", () => {
  const worker = (number, state, seconds) => ({ number, state, seconds });
  const workers = [worker(1, "idle", 900), worker(2, "busy", 3), worker(3, "busy", 60), worker(4, "leaving", 5)];
  assert.deepEqual(workerRows({ workers }).map(each => each.number), [3, 2, 4, 1]);
  assert.deepEqual(workerCounts({ workers }), [["busy", 2], ["leaving", 1], ["idle", 1]]);
});

test("the queue is summed by owner or function, the one with most waiting first", () => {
  const rows = [
    { function: "a", owner: "ann", scheduled: 1, waiting: 2, running: 0, oldest: 3 },
    { function: "b", owner: "ann", scheduled: 0, waiting: 1, running: 1, oldest: 9 },
    { function: "a", owner: "bob", scheduled: 0, waiting: 5, running: 0, oldest: null },
    { function: "c", owner: "", scheduled: 0, waiting: 0, running: 1, oldest: null },
    { function: null, owner: null, scheduled: 1, waiting: 0, running: 0, oldest: null },
  ];
  assert.deepEqual(queueBy("owner", rows), [
    { name: "bob", scheduled: 0, waiting: 5, running: 0, oldest: null },
    { name: "ann", scheduled: 1, waiting: 3, running: 1, oldest: 9 },
    { name: "", scheduled: 0, waiting: 0, running: 1, oldest: null },
    { name: null, scheduled: 1, waiting: 0, running: 0, oldest: null },
  ]);
  assert.deepEqual(queueBy("function", rows).map(row => [row.name, row.waiting, row.oldest]), [["a", 7, 3], ["b", 1, 9], ["c", 0, null], [null, 0, null]]);
});

test("alarms: none for a healthy server, and what is bad before what is only to be known", () => {
  assert.deepEqual(alarms(status()), []);
  const sick = status({
    waiting: 100, log_lines_lost: 3, unready: { reason: "store", detail: "" },
    store: { fault: "disk full", paused: ["send"] },
  });
  assert.deepEqual(alarms(sick).map(each => each.kind), ["storeFault", "queueFull", "paused", "logLost"]);
  assert.deepEqual(alarms(status({ unready: { reason: "store", detail: "no" } })).map(each => each.reason), ["no"]);
  assert.deepEqual(alarms(status({ unready: { reason: "draining" } })).map(each => each.kind), ["draining"]);
});

test("rates are differences, and begin anew with a server that was restarted", () => {
  const rates = new Rates();
  assert.equal(rates.present, null);
  const counts = (done, failed = 0) => ({ done, failed });
  for (const second of [0, 1, 2]) {
    rates.add(status({ uptime: 50 + second, counts: counts(100 * second, 10 * second), waiting: second }), 1000 + second);
  }
  assert.equal(rates.present.ended, 110);
  assert.equal(rates.present.failures, 10);
  assert.deepEqual(rates.course.waiting, [1, 2]);
  assert.deepEqual(rates.course.ended, [110, 110]);
  rates.add(status({ uptime: 1, counts: counts(5) }), 1003);
  assert.equal(rates.present, null);
  assert.deepEqual(rates.course.at, []);
});

test("the present rate is that of the last ten seconds, and of a longer pause if nothing came meanwhile", () => {
  const rates = new Rates();
  for (let second = 0; second <= 20; second++) {
    rates.add(status({ uptime: second, counts: { done: second < 10 ? 0 : (second - 10) * 6 } }), second);
  }
  assert.equal(rates.present.done, 6);
  rates.add(status({ uptime: 80, counts: { done: 120 } }), 80);
  assert.equal(rates.present.done, 1);
});
