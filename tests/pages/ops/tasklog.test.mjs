import assert from "node:assert/strict";
import { test } from "node:test";

import { partDone, readLog } from "../../../taskd/web/pages/ops/tasklog.js";

const event = (seq, name, more = {}) => ({ task: "t", seq, event: name, at: 100 + seq, ...more });

test("each attempt has its end, its error and what it printed", () => {
  const error = { code: -32000, message: "boom" };
  const { attempts, notes, last } = readLog([
    event(1, "queued"),
    event(2, "started", { attempt: 1 }),
    event(3, "progress", { done: 1, total: 4 }),
    event(4, "progress", { done: 2, total: 4, message: "half" }),
    event(5, "retrying", { error, traceback: "Traceback", output: "printed", memory: 2048, due: 200 }),
    event(6, "started", { attempt: 2 }),
    event(7, "succeeded", { result: 6 }),
  ]);
  assert.equal(last, 7);
  assert.deepEqual(notes, [{ event: "accepted", at: 101, error: null }]);
  const [first, second] = attempts;
  assert.deepEqual(
    [first.number, first.outcome, first.started, first.ended, first.due, first.isLast],
    [1, "failed", 102, 105, 200, false],
  );
  assert.deepEqual([first.error, first.traceback, first.output, first.memory], [error, "Traceback", "printed", 2048]);
  assert.deepEqual([first.progress.done, first.progress.message], [2, "half"]);
  assert.deepEqual([second.number, second.outcome, second.isLast, second.error], [2, "succeeded", true, null]);
});

test("an attempt that runs has no outcome, and a lost one the last stack of its process", () => {
  const { attempts } = readLog([
    event(1, "started", { attempt: 1 }),
    event(2, "lost", { error: { code: -32003, message: "gone", data: { stack: ["a.py:1 in f", "b.py:2 in g"], peak_memory_kib: 9 } } }),
    event(3, "started", { attempt: 2 }),
  ]);
  assert.equal(attempts[0].outcome, "lost");
  assert.equal(attempts[0].traceback, "a.py:1 in f\nb.py:2 in g");
  assert.equal(attempts[0].memory, 9);
  assert.equal(attempts[1].outcome, null);
});

test("what happens while nothing runs is a note, and so is being put back", () => {
  const { attempts, notes } = readLog([
    event(1, "queued"), event(2, "started", { attempt: 1 }), event(3, "set_aside", { error: { message: "three deaths" } }),
    event(4, "queued"), event(5, "cancelled", { error: { message: "by ann" } }),
  ]);
  assert.equal(attempts.length, 1);
  assert.equal(attempts[0].outcome, "set_aside");
  assert.deepEqual(notes.map(note => note.event), ["accepted", "queued", "cancelled"]);
});

test("of many partial results the newest are kept, and all are counted", () => {
  const events = [event(1, "started", { attempt: 1 })];
  for (let seq = 2; seq < 202; seq++) events.push(event(seq, "partial", { value: seq }));
  const [{ partials, partialCount }] = readLog(events).attempts;
  assert.equal(partialCount, 200);
  assert.equal(partials.length, 50);
  assert.equal(partials.at(-1), 201);
});

test("a part is known only with a total", () => {
  assert.equal(partDone(null), null);
  assert.equal(partDone({ done: 3 }), null);
  assert.equal(partDone({ done: 1, total: 4 }), 0.25);
  assert.equal(partDone({ done: 9, total: 4 }), 1);
});
