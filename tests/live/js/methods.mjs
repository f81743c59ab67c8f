/** Every method of the client once, with a real server: methods.mjs CLIENT URL DIRECTORY. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";

const [client, url, directory] = process.argv.slice(2);
const { TaskdError, connect } = await import(client);
const states = [];
const taskd = connect(url.replace(/^ws/, "http"), { onConnection: isConnected => states.push(isConnected) });

async function collect(events) {
  const all = [];
  for await (const event of events) all.push(event);
  return all;
}

// Calls.
assert.deepEqual(await taskd.call("echo", [{ a: [1, null] }]), [{ a: [1, null] }, ""]);
assert.deepEqual(await taskd.call("echo", { value: "ü\u2028\n", from: "Ann" }), ["ü\u2028\n", "Ann"]);
assert.equal(await taskd.call("taskd.ping"), "pong");
const reports = [];
assert.equal(await taskd.call("report", { pages: 3 }, { onProgress: report => reports.push(report) }), 3);
assert.deepEqual(reports.at(-1), { done: 3, total: 3, message: "page 3" });
await assert.rejects(taskd.call("report", ["three"]), error => {
  assert.ok(error instanceof TaskdError);
  return error.name === "invalid params" && error.data.argument === "pages";
});
await assert.rejects(taskd.call("reprot", [3]), { name: "method not found", code: -32601 });
await assert.rejects(taskd.call("report", [1000], { timeout: 0.1 }), { name: "timed out" });
await assert.rejects(taskd.call("echo", ["x".repeat(11e6)]), { name: "too large" });
assert.equal((await Promise.all(Array.from({ length: 1000 }, (_, i) => taskd.call("echo", [i]))))[999][0], 999);

// Aborting a call ends its task.
const aborting = new AbortController();
const lingering = taskd.call("linger", [`${directory}/lingers`], { signal: aborting.signal });
while (!existsSync(`${directory}/lingers`)) await new Promise(resolve => setTimeout(resolve, 10));
aborting.abort();
await assert.rejects(lingering, { name: "AbortError" });
for (;;) {
  const { functions } = await taskd.call("taskd.status");
  if (functions.find(({ name }) => name === "linger")?.cancelled >= 1) break;
}

// Stored tasks.
const task = await taskd.submit("chapters", [2], { priority: 1, keep: 60, token: "only once" });
assert.equal(task.joined, false);
const [events, result] = await Promise.all([collect(task.events()), task.result({ timeout: 20 })]);
assert.equal(result, null);
assert.deepEqual(events.map(({ event, value }) => value ?? event), [
  "queued", "started", "Chapter 1", "Chapter 2", "succeeded",
]);
assert.deepEqual(await collect(taskd.attach(task.id, { after: events[2].seq })), events.slice(3));
assert.deepEqual(await collect(taskd.attach(task.id, { after: events.at(-1).seq })), []);
assert.equal(await task.result(), null);
assert.equal(await task.state(), "succeeded");
assert.equal(await task.cancel(), "done");
const again = await taskd.submit("chapters", [2], { token: "only once" });
assert.deepEqual([again.id, again.joined], [task.id, true]);

const later = await taskd.submit("chapters", { count: 1 }, { key: "k", at: new Date(Date.now() + 3600_000) });
assert.equal((await taskd.submit("chapters", { count: 1 }, { key: "k", delay: 3600 })).id, later.id);
assert.equal(await later.state(), "scheduled");
assert.match((await later.why()).reason, /./);
await assert.rejects(later.result({ timeout: 0.05 }), { name: "timed out", data: { limit: "wait", seconds: 0.05 } });
assert.equal(await later.cancel(), "scheduled");
await assert.rejects(later.result(), { name: "cancelled" });

const failing = await taskd.submit("fail_once", [`${directory}/failed`]);
await assert.rejects(failing.result(), { name: "task failed", message: /the first time/ });
await assert.rejects(failing.result(), { name: "task failed", message: /the first time/ });
assert.equal(await failing.retry(), "failed");
assert.equal(await taskd.task(failing.id).result(), "done");
assert.deepEqual((await collect(failing.events())).map(({ event }) => event), [
  "queued", "started", "failed", "queued", "started", "succeeded",
]);
await assert.rejects(taskd.task("nothing").result(), { name: "invalid params" });
await assert.rejects(taskd.submit("chapters", ["two"]), { name: "invalid params" });

// Batches.
const batch = await taskd.submitBatch("chapters", [[1], { count: 2 }], { then: "last_in_batch" });
assert.equal(batch.tasks.length, 2);
const counts = { done: 2, failed: 0, cancelled: 0, total: 2, state: "succeeded" };
const [ended, batchEvents] = await Promise.all([batch.result(), collect(batch.events())]);
assert.deepEqual(ended, counts);
assert.equal(batchEvents.at(-1).event, "ended");
assert.deepEqual(await taskd.batch(batch.id).result(), counts);
assert.equal(await batch.state(), "succeeded");
assert.equal(await batch.cancel(), "done");

taskd.close();
await assert.rejects(taskd.call("taskd.ping"), { name: "unreachable", sent: false });
assert.deepEqual(states, [true, false, true]); // the message that was too large has cost a connection
