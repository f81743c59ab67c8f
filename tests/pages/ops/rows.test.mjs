import assert from "node:assert/strict";
import { test } from "node:test";

import { onEach, summed } from "../../../taskd/web/pages/ops/bulk.js";
import { Poll } from "../../../taskd/web/pages/ops/poll.js";
import { Selection } from "../../../taskd/web/pages/ops/selection.js";
import { scrolledTo, visible } from "../../../taskd/web/pages/ops/window.js";

test("of a long table only the rows in sight and a few more are shown", () => {
  const rows = { count: 100_000, rowHeight: 30, height: 600 };
  assert.deepEqual(visible({ ...rows, top: 0 }, 10), { first: 0, last: 30, above: 0, below: 99_970 * 30 });
  assert.deepEqual(visible({ ...rows, top: 30_000 }, 10), { first: 990, last: 1030, above: 29_700, below: 98_970 * 30 });
  assert.equal(visible({ ...rows, top: 3_000_000 }, 10).last, 100_000);
  assert.deepEqual(visible({ count: 3, rowHeight: 30, height: 600, top: 9000 }, 10), { first: 0, last: 3, above: 0, below: 0 });
  assert.deepEqual(visible({ count: 0, rowHeight: 30, height: 600, top: 0 }), { first: 0, last: 0, above: 0, below: 0 });
});

test("a row is scrolled into sight, and no further", () => {
  const view = { rowHeight: 30, top: 300, height: 300 };
  assert.equal(scrolledTo(12, view), 300);
  assert.equal(scrolledTo(5, view), 150);
  assert.equal(scrolledTo(20, view), 330);
  assert.equal(scrolledTo(19, { ...view, header: 30 }), 330);
});

test("rows are selected one by one, and from the last one on", () => {
  let changes = 0;
  const selection = new Selection(() => (changes += 1));
  const order = ["a", "b", "c", "d"];
  selection.extend("b", order);
  selection.extend("d", order);
  assert.deepEqual(selection.keys, ["b", "c", "d"]);
  selection.toggle("c");
  selection.extend("a", order);
  assert.deepEqual([...selection.keys].sort(), ["a", "b", "c", "d"]);
  selection.clear();
  selection.clear();
  assert.equal(selection.size, 0);
  assert.equal(changes, 5);
});

test("an action on many has a bounded number of requests at once, and reports what was refused", async () => {
  let now = 0;
  let most = 0;
  const act = async id => {
    most = Math.max(most, ++now);
    await null;
    now -= 1;
    if (id % 10 === 0) throw new Error(`${id} has ended`);
  };
  const ids = Array.from({ length: 500 }, (_, index) => index + 1);
  const seen = [];
  const outcome = await onEach(ids, act, { atOnce: 7, onProgress: ({ done, refused }) => seen.push(done + refused) });
  assert.equal(most, 7);
  assert.deepEqual([outcome.done, outcome.refused, outcome.stopped], [450, 50, false]);
  assert.equal(seen.at(-1), 500);
  assert.deepEqual(summed(outcome.reasons), [["… has ended", 50]]);
});

test("it ends when it is stopped, and when the connection is lost", async () => {
  const stopping = new AbortController();
  const act = async id => id === 3 && stopping.abort();
  const stopped = await onEach([1, 2, 3, 4, 5], act, { atOnce: 1, signal: stopping.signal });
  assert.deepEqual([stopped.done, stopped.stopped], [3, true]);
  const lost = async () => {
    throw Object.assign(new Error("lost"), { code: -32007 });
  };
  const outcome = await onEach([1, 2, 3], lost, { atOnce: 1 });
  assert.deepEqual([outcome.refused, outcome.stopped], [1, true]);
});

test("a poll never asks twice at once, and asks again after an answer that may be old", async () => {
  const timers = { set: [], setTimeout: (f, ms) => timers.set.push([f, ms]), clearTimeout() {} };
  const waiting = [];
  let isVisible = true;
  const poll = new Poll(() => new Promise(resolve => waiting.push(resolve)), 2, { isVisible: () => isVisible, timers });
  const settle = () => new Promise(resolve => setImmediate(resolve));
  poll.start();
  poll.start();
  assert.equal(waiting.length, 1);
  poll.now();
  poll.now();
  waiting[0]();
  await settle();
  assert.equal(waiting.length, 2);
  assert.deepEqual(timers.set, []);
  waiting[1]();
  await settle();
  assert.equal(timers.set[0][1], 2000);
  isVisible = false;
  timers.set[0][0]();
  assert.equal(waiting.length, 2);
  isVisible = true;
  poll.now();
  assert.equal(waiting.length, 3);
  poll.stop();
  waiting[2]();
  await settle();
  assert.equal(timers.set.length, 1);
});
