import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Clock, Network, collect, handled, settle, stateOf } from "./fakes.mjs";

let clock, network, taskd;

beforeEach(() => {
  clock = new Clock();
  clock.install();
  network = new Network();
  taskd = network.client();
});

afterEach(() => clock.uninstall());

/** Open the next websocket after a lost one. */
async function reopen() {
  const count = network.sockets.length;
  while (network.sockets.length === count) await clock.advance(0.25);
  return network.open();
}

const names = collected => collected.events.map(({ event }) => event);
const numbers = collected => collected.events.map(({ seq }) => seq);

// --- submits ---

test("a submit has its options and a token of its own, and gives a task", async () => {
  const at = new Date("2026-12-24T18:00:00Z");
  const submitted = taskd.submit("report", [1], { key: "k", delay: 2, at, retries: 3, keep: 60 });
  taskd.submit("report", [1], { token: "mine" });
  const socket = await network.open();
  const [{ params }, other] = socket.sent;
  assert.match(params.token, /^[0-9a-f]{32}$/);
  assert.deepEqual(
    { ...params, token: "" },
    {
      function: "report",
      args: [1],
      options: { key: "k", delay: 2, at: "2026-12-24T18:00:00.000Z", retries: 3, keep: 60 },
      token: "",
    },
  );
  assert.deepEqual(other.params, { function: "report", args: [1], token: "mine" });
  await socket.receive({ id: 1, result: { task: "t1", joined: false } });
  const task = await submitted;
  assert.deepEqual([task.id, task.joined], ["t1", false]);
});

test("a submit whose connection is lost is sent again with the same token", async () => {
  const submitted = taskd.submit("report");
  const first = await network.open();
  await first.drop();
  const second = await reopen();
  assert.deepEqual(second.sent, first.sent);
  await second.answer({ task: "t1", joined: true });
  assert.equal((await submitted).joined, true);
});

test("a submit that a restarting server refuses is sent again", async () => {
  const submitted = taskd.submit("report");
  const other = handled(taskd.call("report"));
  const socket = await network.open();
  await socket.refuse(-32005);
  assert.equal((await stateOf(other)).error.name, "shutting down");
  await socket.receive({ id: 1, error: { code: -32007, message: "gone", data: { sent: true } } });
  assert.equal(socket.texts.length, 2);
  await clock.advance(1.5);
  assert.equal(socket.texts.length, 3);
  assert.deepEqual(socket.sent[2], socket.sent[0]);
  await socket.answer({ task: "t1", joined: false });
  assert.equal((await submitted).id, "t1");
});

test("a submit that is refused for longer than calls wait is rejected", async () => {
  const submitted = handled(taskd.submit("report"));
  const socket = await network.open();
  for (let second = 0; second < 40; second++) {
    if (socket.texts.length > (socket.refused ?? 0)) {
      socket.refused = socket.texts.length;
      await socket.refuse(-32007, "gone", { sent: false });
    }
    await clock.advance(1);
  }
  assert.equal((await stateOf(submitted)).error.message, "gone");
  assert.equal(clock.timers.size, 0);
});

test("any other error of a submit rejects it", async () => {
  const submitted = handled(taskd.submit("report"));
  const socket = await network.open();
  await socket.refuse(-32004, "full", { retry_after: 1 });
  assert.equal((await stateOf(submitted)).error.data.retry_after, 1);
});

test("a submit that was sent and finds no server again says that it may have been stored", async () => {
  const submitted = handled(taskd.submit("report"));
  await (await network.open()).drop();
  await clock.advance(31);
  const { error } = await stateOf(submitted);
  assert.deepEqual([error.code, error.sent], [-32007, true]);
});

test("an aborted submit takes its task back, unless it has joined somebody's", async () => {
  for (const joined of [false, true]) {
    const aborting = new AbortController();
    const submitted = handled(taskd.submit("report", [], { signal: aborting.signal }));
    const socket = network.socket.onopen && !network.socket.texts.length ? await network.open() : network.socket;
    aborting.abort();
    assert.equal((await stateOf(submitted)).error.name, "AbortError");
    await socket.receive({ id: socket.newest("taskd.submit").id, result: { task: "t1", joined } });
    assert.equal(socket.newest("taskd.cancel")?.params.task, "t1");
    assert.equal(socket.sent.filter(({ method }) => method === "taskd.cancel").length, 1);
  }
});

test("of an oversized submit and what was sent beside it, only the submit itself is too large", async () => {
  const large = handled(taskd.submit("report", ["x".repeat(1000)]));
  const small = taskd.submit("report", ["y"]);
  const call = handled(taskd.call("report"));
  await (await network.open()).drop(1009);
  const { error } = await stateOf(large);
  assert.deepEqual([error.name, error.code], ["too large", -32006]);
  assert.equal((await stateOf(call)).error.sent, true);
  const socket = await reopen();
  assert.equal(socket.texts.length, 1);
  await socket.answer({ task: "t1", joined: false });
  assert.equal((await small).id, "t1");
});

test("a batch is one submit, and its result is the counts", async () => {
  const rows = new Set([[1], { n: 2 }]);
  const submitted = taskd.submitBatch("mark", rows, { then: "finish", delay: 1 });
  const socket = await network.open();
  const { token, ...params } = socket.newest("taskd.submit_batch").params;
  assert.equal(token.length, 32);
  assert.deepEqual(params, { function: "mark", args: [[1], { n: 2 }], options: { delay: 1 }, then: "finish" });
  await socket.answer({ batch: "b1", tasks: ["t1", "t2"], joined: false });
  const batch = await submitted;
  assert.deepEqual([batch.id, batch.tasks, batch.joined], ["b1", ["t1", "t2"], false]);
  const result = batch.result();
  const events = collect(batch.events());
  await settle();
  await socket.answer({ state: "running", seq: 0 }, "taskd.attach");
  const counts = { done: 2, failed: 0, cancelled: 0, total: 2 };
  await socket.event({ batch: "b1", seq: 1, event: "progress", ...counts, done: 1 });
  await socket.event({ batch: "b1", seq: 3, event: "ended", ...counts, state: "succeeded" });
  assert.deepEqual(await result, { ...counts, state: "succeeded" });
  assert.deepEqual(names(events), ["progress", "ended"]);
  const cancelled = batch.cancel();
  assert.deepEqual(socket.newest().params, { task: "b1" });
  await socket.answer({ was: "done" });
  assert.equal(await cancelled, "done");
});

// --- what tasks are asked ---

test("the state, what holds a task, and cancels are asked for again after a lost connection; a retry is not", async () => {
  const task = taskd.task("t1");
  const asked = [task.state(), task.why(), task.cancel()];
  const retried = handled(task.retry());
  const first = await network.open();
  await first.drop();
  assert.equal((await stateOf(retried)).error.sent, true);
  const second = await reopen();
  const methods = ["taskd.get", "taskd.why", "taskd.cancel"];
  assert.deepEqual(second.sent.map(({ method }) => method), methods);
  await second.answer({ task: "t1", state: "running" }, "taskd.get");
  await second.answer({ reason: "it runs" }, "taskd.why");
  await second.answer({ was: "running" }, "taskd.cancel");
  assert.deepEqual(await Promise.all(asked), ["running", { reason: "it runs" }, "running"]);
  const again = task.retry();
  await second.answer({ was: "failed" }, "taskd.retry");
  assert.equal(await again, "failed");
});

// --- events ---

test("events come from the first to the last, and are each got once however often the connection is lost", async () => {
  const watched = collect(taskd.attach("t1"));
  await settle();
  const first = await network.open();
  assert.deepEqual(first.newest().params, { task: "t1", after: 0 });
  await first.answer({ state: "running", seq: 2 });
  await first.event({ task: "t1", seq: 1, event: "queued" });
  await first.event({ task: "t1", seq: 2, event: "started", attempt: 1 });
  await first.drop();
  const second = await reopen();
  assert.deepEqual(second.newest().params, { task: "t1", after: 2 });
  await second.answer({ state: "running", seq: 3 });
  await second.event({ task: "t1", seq: 2, event: "started" }); // it cannot come; if it did, it would not count
  await second.event({ task: "t1", seq: 3, event: "partial", value: "a" });
  await second.event({ task: "other", seq: 4, event: "partial", value: "b" });
  await second.drop();
  const third = await reopen();
  await third.answer({ state: "succeeded", seq: 5 });
  await third.event({ task: "t1", seq: 5, event: "succeeded", result: 7 });
  assert.deepEqual(numbers(watched), [1, 2, 3, 5]);
  assert.deepEqual(watched.events[2], { task: "t1", seq: 3, event: "partial", value: "a", at: 0 });
  assert.ok(watched.isOver);
  assert.equal(watched.error, undefined);
  assert.equal(third.newest("taskd.detach"), undefined);
  assert.equal(clock.timers.size, 0);
});

test("a task that is followed from its last event on gives none", async () => {
  for (const state of ["succeeded", "failed"]) {
    const watched = collect(taskd.attach("t1", { after: 9 }));
    await settle();
    if (!network.socket.texts.length) await network.open();
    await network.socket.answer({ state, seq: 9 }, "taskd.attach");
    assert.deepEqual([watched.events, watched.isOver], [[], true]);
  }
});

test("a failure that was put back is not the end", async () => {
  const watched = collect(taskd.attach("t1"));
  await settle();
  const socket = await network.open();
  await socket.answer({ state: "running", seq: 4 });
  await socket.event({ task: "t1", seq: 2, event: "failed", error: { code: -32000, message: "no" } });
  await socket.event({ task: "t1", seq: 3, event: "queued" });
  assert.equal(watched.isOver, false);
  await socket.event({ task: "t1", seq: 5, event: "failed", error: { code: -32000, message: "no" } });
  assert.ok(watched.isOver);
  assert.deepEqual(names(watched), ["failed", "queued", "failed"]);
  assert.deepEqual(socket.newest("taskd.detach").params, { task: "t1" });
});

test("two who watch one task each get what they have not got", async () => {
  const early = collect(taskd.attach("t1"));
  await settle();
  const socket = await network.open();
  await socket.answer({ state: "running", seq: 2 });
  await socket.event({ task: "t1", seq: 1, event: "queued" });
  const all = collect(taskd.attach("t1"));
  const fresh = collect(taskd.attach("t1", { after: -1 }));
  await settle();
  assert.deepEqual(socket.newest().params, { task: "t1", after: 0 });
  await socket.event({ task: "t1", seq: 2, event: "started" }); // of the attach before: it comes again
  const [one, two] = socket.sent.slice(1);
  await socket.receive({ id: one.id, result: { state: "running", seq: 2 } });
  await socket.event({ task: "t1", seq: 1, event: "queued" }); // the server is past this attach already
  await socket.receive({ id: two.id, result: { state: "running", seq: 2 } });
  for (const [seq, event] of [[1, "queued"], [2, "started"], [3, "partial"]]) await socket.event({ task: "t1", seq, event });
  await socket.event({ task: "t1", seq: 4, event: "cancelled", error: { code: -32002, message: "cancelled" } });
  assert.deepEqual([early, all, fresh].map(numbers), [[1, 2, 3, 4], [1, 2, 3, 4], [3, 4]]);
  assert.ok(early.isOver && all.isOver && fresh.isOver);
});

test("who watches new events alone misses none that come while the connection is lost", async () => {
  const watched = collect(taskd.attach("t1", { after: -1 }));
  await settle();
  const first = await network.open();
  assert.equal(first.newest().params.after, -1);
  await first.answer({ state: "running", seq: 7 });
  await first.drop();
  const second = await reopen();
  assert.equal(second.newest().params.after, 7);
  await second.answer({ state: "running", seq: 8 });
  await second.event({ task: "t1", seq: 8, event: "partial", value: 1 });
  assert.deepEqual(numbers(watched), [8]);
});

test("a task that is forgotten while it is watched ends with that", async () => {
  const watched = collect(taskd.attach("t1", { after: 9 }));
  await settle();
  const socket = await network.open();
  await socket.answer({ state: "running", seq: 9 });
  await socket.event({ task: "t1", seq: 9, event: "detached", error: { code: -32602, message: "forgotten" } });
  assert.deepEqual(names(watched), ["detached"]);
  assert.ok(watched.isOver);
});

test("who leaves the loop is detached", async () => {
  const seen = [];
  const leaving = (async () => {
    for await (const event of taskd.attach("t1")) {
      seen.push(event.seq);
      break;
    }
  })();
  await settle();
  const socket = await network.open();
  await socket.answer({ state: "running", seq: 2 });
  await socket.event({ task: "t1", seq: 1, event: "queued" });
  await leaving;
  assert.deepEqual(seen, [1]);
  assert.deepEqual(socket.newest("taskd.detach").params, { task: "t1" });
  await socket.answer({ was: "attached" });
  assert.equal(clock.timers.size, 0);
});

test("who comes back before the answer to the first attach has come misses nothing", async () => {
  const aborting = new AbortController();
  collect(taskd.attach("t1", { signal: aborting.signal }));
  await settle();
  const socket = await network.open();
  aborting.abort();
  await settle();
  const watched = collect(taskd.attach("t1"));
  await settle();
  assert.deepEqual(socket.sent.map(({ method }) => method), ["taskd.attach", "taskd.detach", "taskd.attach"]);
  await socket.receive({ id: 1, result: { state: "running", seq: 1 } });
  await socket.event({ task: "t1", seq: 1, event: "queued" });
  await socket.receive({ id: 2, result: { was: "attached" } }, { id: 3, result: { state: "running", seq: 1 } });
  await socket.event({ task: "t1", seq: 1, event: "queued" });
  assert.deepEqual(numbers(watched), [1]);
  assert.equal(socket.texts.length, 3);
});

test("an aborted watch ends at once with the signal's reason, and the task goes on", async () => {
  const aborting = new AbortController();
  const watched = collect(taskd.attach("t1", { signal: aborting.signal }));
  await settle();
  const socket = await network.open();
  await socket.answer({ state: "running", seq: 2 });
  aborting.abort(new Error("enough"));
  await settle();
  assert.equal(watched.error.message, "enough");
  assert.equal(socket.newest().method, "taskd.detach");
  const late = collect(taskd.attach("t1", { signal: aborting.signal }));
  await settle();
  assert.equal(late.error.message, "enough");
});

test("a task that does not exist, and a number that is none, are errors", async () => {
  const watched = collect(taskd.attach("nothing"));
  await settle();
  const socket = await network.open();
  await socket.refuse(-32602, "there is no task nothing");
  assert.equal(watched.error.name, "invalid params");
  await assert.rejects(taskd.attach("t1", { after: 1.5 }).next(), { name: "TypeError", message: /not 1.5/ });
  assert.equal(clock.timers.size, 0);
});

test("an attach that a restarting server refuses is sent again until it is taken", async () => {
  const watched = collect(taskd.attach("t1"));
  await settle();
  const socket = await network.open();
  for (let attempt = 0; attempt < 60; attempt++) {
    await socket.refuse(-32007, "gone");
    await clock.advance(1.5);
    assert.equal(socket.texts.length, attempt + 2);
  }
  await socket.answer({ state: "succeeded", seq: 1 });
  await socket.event({ task: "t1", seq: 1, event: "succeeded", result: 1 });
  assert.ok(watched.isOver);
});

test("what is watched waits for a server however long it is gone", async () => {
  const watched = collect(taskd.attach("t1"));
  await settle();
  const first = await network.open();
  await first.answer({ state: "running", seq: 0 });
  await first.drop();
  for (let attempt = 0; attempt < 20; attempt++) {
    await clock.advance(30);
    await network.socket.drop();
  }
  assert.equal(watched.isOver, false);
  const last = await reopen();
  await last.answer({ state: "running", seq: 0 });
  await last.event({ task: "t1", seq: 1, event: "succeeded", result: 1 });
  assert.deepEqual(names(watched), ["succeeded"]);
});

// --- results ---

test("a result is that of the last event, or of a task that has ended before", async () => {
  const task = taskd.task("t1");
  const result = task.result();
  await settle();
  const socket = await network.open();
  assert.deepEqual(socket.newest().params, { task: "t1", after: -1 });
  await socket.answer({ state: "running", seq: 2 });
  await socket.event({ task: "t1", seq: 3, event: "succeeded", result: { pages: 2 } });
  assert.deepEqual(await result, { pages: 2 });
  const again = task.result();
  await settle();
  await socket.answer({ state: "succeeded", seq: 3 }, "taskd.attach");
  await socket.answer({ task: "t1", state: "succeeded", result: { pages: 2 } }, "taskd.get");
  assert.deepEqual(await again, { pages: 2 });
});

test("a task that has not succeeded rejects its result with its error", async () => {
  for (const [event, code, name] of [
    ["failed", -32000, "task failed"],
    ["cancelled", -32002, "cancelled"],
    ["expired", -32001, "timed out"],
    ["set_aside", -32003, "worker lost"],
    ["detached", -32602, "invalid params"],
  ]) {
    const result = handled(taskd.task("t1").result());
    await settle();
    if (!network.socket.texts.length) await network.open();
    await network.socket.answer({ state: "running", seq: 2 }, "taskd.attach");
    await network.socket.event({ task: "t1", seq: 3, event, error: { code, message: "why", data: { a: 1 } } });
    const { error } = await stateOf(result);
    assert.deepEqual([error.name, error.message, error.data], [name, "why", { a: 1 }]);
  }
});

test("waiting for a result has a limit and a signal, and the task goes on", async () => {
  const late = handled(taskd.task("t1").result({ timeout: 5 }));
  const aborting = new AbortController();
  const aborted = handled(taskd.task("t2").result({ signal: aborting.signal }));
  await settle();
  const socket = await network.open();
  await clock.advance(4.9);
  aborting.abort();
  assert.equal((await stateOf(aborted)).error.name, "AbortError");
  assert.equal((await stateOf(late)).state, "pending");
  await clock.advance(0.1);
  const { error } = await stateOf(late);
  assert.deepEqual([error.name, error.data], ["timed out", { limit: "wait", seconds: 5 }]);
  assert.equal(socket.newest("taskd.cancel"), undefined);
});

test("a result is waited for over lost connections", async () => {
  const result = taskd.task("t1").result();
  await settle();
  const first = await network.open();
  await first.answer({ state: "running", seq: 2 });
  await first.drop();
  await clock.advance(100);
  await network.socket.drop();
  const second = await reopen();
  await second.answer({ state: "succeeded", seq: 3 }, "taskd.attach");
  await second.event({ task: "t1", seq: 3, event: "succeeded", result: 1 });
  assert.equal(await result, 1);
});
