import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { TaskdError, connect } from "../taskd.js";
import { Clock, Network, handled, settle, stateOf } from "./fakes.mjs";

let clock, network;

beforeEach(() => {
  clock = new Clock();
  clock.install();
  network = new Network();
});

afterEach(() => clock.uninstall());

// --- messages ---

test("a call connects, and is sent once the connection is open", async () => {
  const taskd = network.client();
  assert.equal(network.sockets.length, 0);
  const result = taskd.call("hello", { name: "Ann" });
  assert.equal(network.socket.url, "ws://gateway.example/");
  assert.deepEqual(network.socket.texts, []);
  const socket = await network.open();
  assert.deepEqual(socket.sent, [{ jsonrpc: "2.0", id: 1, method: "hello", params: { name: "Ann" } }]);
  await socket.answer("Hello, Ann!");
  assert.equal(await result, "Hello, Ann!");
});

test("answers belong to calls by their ids, in whatever order they come", async () => {
  const taskd = network.client();
  const results = [taskd.call("one"), taskd.call("two", [2])];
  const socket = await network.open();
  await socket.receive({ id: 2, result: null }, { id: 1, result: 1 });
  assert.deepEqual(await Promise.all(results), [1, null]);
  assert.equal(network.sockets.length, 1);
});

test("options have the names of the wire, and progress is asked for only if somebody wants it", async () => {
  const taskd = network.client();
  taskd.call("f", [], { timeout: 1, priority: 0, deadline: 2.5, onDisconnect: "cancel", signal: undefined });
  taskd.call("f", [], { onProgress: () => {} });
  const socket = await network.open();
  assert.deepEqual(socket.sent.map(message => message.options), [
    { timeout: 1, priority: 0, deadline: 2.5, on_disconnect: "cancel" },
    { progress: true },
  ]);
});

test("an error has its code, its name and its data", async () => {
  const taskd = network.client();
  const result = handled(taskd.call("report", []));
  const socket = await network.open();
  await socket.refuse(-32001, "too late", { limit: "timeout" });
  const { error } = await stateOf(result);
  assert.ok(error instanceof TaskdError);
  assert.ok(error instanceof Error);
  assert.deepEqual(
    [error.name, error.code, error.message, error.data, error.sent, String(error)],
    ["timed out", -32001, "too late", { limit: "timeout" }, undefined, "timed out: too late"],
  );
  const other = handled(taskd.call("report"));
  await socket.refuse(-31999, "what?");
  assert.deepEqual(await other.catch(({ name, data }) => [name, data]), ["error", {}]);
});

test("progress is reported before the result", async () => {
  const reports = [];
  const result = network.client().call("report", [], { onProgress: progress => reports.push(progress) });
  const socket = await network.open();
  const params = { id: 1, done: 1, total: 2, message: "page 1" };
  await socket.receive({ method: "taskd.progress", params }, { id: 1, result: "done" });
  assert.equal(await result, "done");
  assert.deepEqual(reports, [{ done: 1, total: 2, message: "page 1" }]);
});

test("what onProgress throws rejects the call and cancels its task", async () => {
  const onProgress = () => { throw new RangeError("no such page"); };
  const result = handled(network.client().call("report", [], { onProgress }));
  const socket = await network.open();
  await socket.receive({ method: "taskd.progress", params: { id: 1, done: 1 } });
  assert.equal((await stateOf(result)).error.message, "no such page");
  assert.deepEqual(socket.newest("taskd.cancel").params, { id: 1 });
});

test("a message that is no JSON, and an answer to nothing, change nothing", async () => {
  const result = network.client().call("f");
  const socket = await network.open();
  socket.onmessage({ data: "task complete" });
  await socket.receive({ id: 77, result: 1 }, { id: null, error: { code: -32700, message: "what?" } });
  await socket.receive({ id: 1, result: 5 });
  assert.equal(await result, 5);
});

test("at most 90 requests are in flight, so that cancels are still read", async () => {
  const taskd = network.client();
  const results = Array.from({ length: 100 }, (_, number) => handled(taskd.call("f", [number])));
  const socket = await network.open();
  assert.equal(socket.texts.length, 90);
  await socket.receive({ id: 5, result: null }, { id: 6, result: null });
  assert.deepEqual(socket.sent.slice(90).map(message => message.params), [[90], [91]]);
  await socket.drop();
  const states = await Promise.all(results.map(stateOf));
  assert.deepEqual(
    ["resolved", "rejected", "pending"].map(wanted => states.filter(({ state }) => state === wanted).length),
    [2, 90, 8],
  );
});

// --- what is wrong from the start ---

test("an address that is none is refused with an example of one", () => {
  for (const url of ["localhost:8080", "127.0.0.1:8080", "", "ftp://gateway.example"]) {
    assert.throws(() => connect(url), { name: "TypeError", message: /ws:\/\/HOST:PORT/ });
  }
});

test("an address of HTTP is that of the websocket on the same port", async () => {
  for (const [url, expected] of [
    ["http://gateway.example:8080", "ws://gateway.example:8080/"],
    [new URL("https://gateway.example/a?b#c"), "wss://gateway.example/a?b"],
  ]) {
    connect(url, { WebSocket: network.WebSocket }).call("f");
    assert.equal(network.socket.url, expected);
  }
});

test("unknown options and arguments that are none are refused with what is possible", async () => {
  const taskd = network.client();
  for (const [wrong, words] of [
    [taskd.call("f", [], { key: "k" }), /call has no option key; there are timeout, priority/],
    [taskd.submit("f", [], { onProgress: 1 }), /submit has no option onProgress; there are .*key/],
    [taskd.submitBatch("f", [[1]], { key: "k" }), /submitBatch has no option key/],
    [taskd.call("f", "Ann"), /f: arguments are an array .* or an object .*, not Ann/],
    [taskd.submit("f", null), /not null/],
  ]) {
    await assert.rejects(wrong, { name: "TypeError", message: words });
  }
  assert.throws(() => network.client({ tokens: 1 }), { name: "TypeError", message: /connect has no option tokens/ });
  assert.equal(network.sockets.length, 0);
});

test("what the server could not read is not sent: its error would not name the message", async () => {
  const taskd = network.client();
  let deep = [];
  for (let level = 0; level < 254; level++) deep = [deep];
  taskd.call("f", deep);
  await assert.rejects(taskd.call("f", [deep]), { name: "TypeError", message: /256 levels/ });
  if ("".isWellFormed) {
    await assert.rejects(taskd.call("f", ["\ud800"]), { name: "TypeError", message: /surrogate/ });
    await assert.rejects(taskd.submit("f", [{ "\ud800": 1 }]), { name: "TypeError" });
  }
  await assert.rejects(taskd.call("f", [1n]), { name: "TypeError" });
  const socket = await network.open();
  assert.equal(socket.texts.length, 1);
});

test("a websocket that cannot be made rejects what waits for it with the reason", async () => {
  class Refusing {
    constructor() {
      throw new DOMException("mixed content", "SecurityError");
    }
  }
  const taskd = network.client({ WebSocket: Refusing });
  await assert.rejects(taskd.call("f"), { name: "SecurityError" });
  await assert.rejects(taskd.submit("f"), { name: "SecurityError" });
  await assert.rejects(taskd.task("x").result(), { name: "SecurityError" });
});

// --- aborting ---

test("a call that is aborted before it is sent is never sent", async () => {
  const taskd = network.client();
  const aborting = new AbortController();
  const result = handled(taskd.call("f", [], { signal: aborting.signal }));
  aborting.abort();
  assert.equal((await stateOf(result)).error.name, "AbortError");
  await assert.rejects(taskd.call("f", [], { signal: aborting.signal }), { name: "AbortError" });
  assert.ok(network.socket.isClosed);
  assert.equal(clock.timers.size, 0);
  handled(taskd.call("g"));
  const socket = await network.open();
  assert.deepEqual(socket.sent.map(({ method }) => method), ["g"]);
});

test("a call that is aborted is cancelled, and its late answer is ignored", async () => {
  const taskd = network.client();
  const aborting = new AbortController();
  const result = handled(taskd.call("f", [], { signal: aborting.signal }));
  const socket = await network.open();
  aborting.abort(new Error("enough"));
  assert.equal((await stateOf(result)).error.message, "enough");
  assert.deepEqual(socket.newest(), { jsonrpc: "2.0", method: "taskd.cancel", params: { id: 1 } });
  await socket.receive({ id: 1, error: { code: -32002, message: "cancelled" } });
  assert.equal(clock.timers.size, 0);
});

test("a signal that is aborted after the end does nothing", async () => {
  const aborting = new AbortController();
  const result = network.client().call("f", [], { signal: aborting.signal });
  const socket = await network.open();
  await socket.answer(1);
  aborting.abort();
  assert.equal(await result, 1);
  assert.equal(socket.texts.length, 1);
});

// --- the end ---

test("closing rejects what is awaited, says what was sent, and lets nothing follow", async () => {
  const taskd = network.client();
  const sent = handled(taskd.call("f"));
  const socket = await network.open();
  const events = handled(taskd.attach("x").next());
  taskd.close();
  taskd.close();
  const { error } = await stateOf(sent);
  assert.deepEqual([error.code, error.name, error.sent], [-32007, "unreachable", true]);
  assert.equal((await stateOf(events)).error.code, -32007);
  assert.ok(socket.isClosed);
  const late = [taskd.call("f"), taskd.submit("f"), taskd.task("x").result(), taskd.attach("x").next()].map(handled);
  for (const each of late) {
    assert.deepEqual(await each.catch(({ code, sent }) => [code, sent]), [-32007, false]);
  }
  await settle();
  assert.equal(network.sockets.length, 1);
  assert.equal(clock.timers.size, 0);
});

test("no timer is left while nothing is awaited", async () => {
  const taskd = network.client();
  const result = taskd.call("f");
  assert.ok(clock.timers.size);
  const socket = await network.open();
  assert.ok(clock.timers.size);
  await socket.answer(1);
  await result;
  assert.equal(clock.timers.size, 0);
  await socket.drop();
  assert.equal(clock.timers.size, 0);
  assert.equal(network.sockets.length, 1);
});
