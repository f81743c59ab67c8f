import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Clock, Network, handled, settle, stateOf } from "./fakes.mjs";

let clock, network, online;

beforeEach(() => {
  clock = new Clock();
  clock.install();
  network = new Network();
  online = new Set();
  globalThis.addEventListener = (name, act) => name === "online" && online.add(act);
  globalThis.removeEventListener = (name, act) => online.delete(act);
});

afterEach(() => {
  clock.uninstall();
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
});

/** Return the seconds until the next websocket is made. */
async function pause() {
  const count = network.sockets.length;
  for (let seconds = 0; seconds < 100; seconds += 0.25) {
    if (network.sockets.length > count) return seconds;
    await clock.advance(0.25);
  }
  return Infinity;
}

test("a call in flight is rejected with the connection and never sent again; others are sent on the next", async () => {
  const taskd = network.client();
  const sent = handled(taskd.call("one"));
  const first = await network.open();
  await first.drop(1001, "shutting down");
  const { error } = await stateOf(sent);
  assert.deepEqual([error.code, error.sent], [-32007, true]);
  assert.match(error.message, /may have run: shutting down/);
  const waiting = taskd.call("two");
  await clock.advance(1);
  const second = await network.open();
  assert.deepEqual(second.sent.map(({ method }) => method), ["two"]);
  await second.answer(2);
  assert.equal(await waiting, 2);
  assert.deepEqual(first.sent.map(({ method }) => method), ["one"]);
});

test("the pause before the next connection doubles up to 30 seconds, until something is received", async () => {
  const taskd = network.client({ connectTimeout: Infinity });
  const result = handled(taskd.call("f"));
  const pauses = [];
  for (let attempt = 0; attempt < 9; attempt++) {
    await network.socket.drop();
    pauses.push(await pause());
  }
  assert.deepEqual(pauses, [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]);
  const socket = await network.open();
  await socket.answer(1);
  assert.equal(await result, 1);
  handled(taskd.call("g"));
  await socket.drop();
  handled(taskd.call("h"));
  assert.equal(await pause(), 0.25);
});

test("the pause is random, so that all pages of a server do not come back at once", async () => {
  Math.random = () => 0.1;
  handled(network.client().call("f"));
  await network.socket.drop();
  await clock.advance(0.024);
  assert.equal(network.sockets.length, 1);
  await clock.advance(0.002);
  assert.equal(network.sockets.length, 2);
});

test("a browser that comes online connects at once", async () => {
  const taskd = network.client({ connectTimeout: Infinity });
  handled(taskd.call("f"));
  for (let attempt = 0; attempt < 8; attempt++) {
    await network.socket.drop();
    if (attempt < 7) await pause();
  }
  const count = network.sockets.length;
  for (const act of online) act();
  assert.equal(network.sockets.length, count + 1);
  await network.socket.drop();
  assert.equal(await pause(), 0.25);
  taskd.close();
  assert.equal(online.size, 0);
});

test("a websocket that does not open in ten seconds is given up for another", async () => {
  handled(network.client().call("f"));
  await clock.advance(10);
  assert.ok(network.sockets[0].isClosed);
  await clock.advance(0.25);
  assert.equal(network.sockets.length, 2);
  await network.open();
  assert.equal(network.socket.newest().method, "f");
});

test("an error before the connection is open is enough to lose it, and its text is passed on", async () => {
  const result = handled(network.client({ connectTimeout: 1 }).call("f"));
  for (let attempt = 0; attempt < 9 && (await stateOf(result)).state === "pending"; attempt++) {
    network.socket.onerror({ message: "connect ECONNREFUSED" });
    await pause();
  }
  assert.match((await stateOf(result)).error.message, /not sent: no connection within 1 s \(connect ECONNREFUSED\)/);
});

test("an error of an open connection waits for the close that follows", async () => {
  const result = handled(network.client().call("f"));
  const socket = await network.open();
  socket.onerror({});
  assert.equal((await stateOf(result)).state, "pending");
  await socket.drop();
  assert.equal((await stateOf(result)).error.sent, true);
});

test("a call that finds no server is rejected after a while, and was not sent", async () => {
  for (const [options, seconds] of [[{}, 30], [{ connectTimeout: 2 }, 2]]) {
    const taskd = network.client(options);
    const result = handled(taskd.call("f"));
    const refusing = async () => { await network.socket.drop(); };
    await refusing();
    await clock.advance(seconds - 1);
    const late = handled(taskd.call("g"));
    assert.equal((await stateOf(result)).state, "pending");
    await clock.advance(1.1);
    const { error } = await stateOf(result);
    assert.deepEqual([error.code, error.sent], [-32007, false]);
    assert.match(error.message, new RegExp(`no connection within ${seconds} s`));
    assert.equal((await stateOf(late)).state, "pending");
    await clock.advance(seconds);
    assert.equal((await stateOf(late)).state, "rejected");
    assert.equal(clock.timers.size, 0);
  }
});

test("a call that waits behind others is not rejected for it, and has its time again when the connection is lost", async () => {
  const taskd = network.client();
  const results = Array.from({ length: 91 }, () => handled(taskd.call("f")));
  const socket = await network.open();
  for (let minute = 0; minute < 2; minute++) {
    for (let part = 0; part < 6; part++) {
      await clock.advance(10);
      await socket.receive({ method: "taskd.progress", params: { id: 1, done: part } });
    }
  }
  assert.equal((await stateOf(results[90])).state, "pending");
  await socket.drop();
  assert.equal((await stateOf(results[90])).state, "pending");
  await clock.advance(29);
  assert.equal((await stateOf(results[90])).state, "pending");
  await clock.advance(2);
  assert.equal((await stateOf(results[90])).error.sent, false);
});

test("the page learns when the connection is open and when it is lost", async () => {
  const states = [];
  const taskd = network.client({ onConnection: isConnected => states.push(isConnected) });
  handled(taskd.call("f"));
  await network.socket.drop();
  await pause();
  await network.socket.drop();
  await pause();
  const socket = await network.open();
  await socket.drop();
  assert.deepEqual(states, [false, true, false]);
});

// --- silence ---

test("a gateway that is silent while something is awaited is asked for a sign of life", async () => {
  handled(network.client().call("f"));
  const socket = await network.open();
  await clock.advance(19);
  assert.equal(socket.texts.length, 1);
  await clock.advance(1);
  assert.deepEqual(socket.newest(), {
    jsonrpc: "2.0", id: "probe", method: "taskd.cancel", params: { id: "nothing" },
  });
  await socket.receive({ id: "probe", result: { was: "done" } });
  await clock.advance(19);
  assert.equal(socket.texts.length, 2);
  await socket.receive({ method: "taskd.progress", params: { id: 1, done: 1 } });
  await clock.advance(19);
  assert.equal(socket.texts.length, 2);
  await clock.advance(1);
  assert.equal(socket.texts.length, 3);
});

test("a gateway that gives no sign of life is lost", async () => {
  const taskd = network.client();
  const result = handled(taskd.call("f"));
  const socket = await network.open();
  await clock.advance(29.9);
  assert.equal((await stateOf(result)).state, "pending");
  await clock.advance(0.2);
  const { error } = await stateOf(result);
  assert.deepEqual([error.code, error.sent], [-32007, true]);
  assert.match(error.message, /no answer for 30 s/);
  assert.ok(socket.isClosed);
  taskd.call("g");
  await clock.advance(1);
  assert.equal(network.sockets.length, 2);
});

test("after a machine's sleep the gateway has its time for a sign of life again", async () => {
  const result = handled(network.client().call("f"));
  const socket = await network.open();
  await clock.advance(25);
  await clock.sleep(3600);
  assert.equal(socket.texts.length, 3);
  await clock.advance(9);
  assert.equal((await stateOf(result)).state, "pending");
  await socket.receive({ id: "probe", result: { was: "done" } });
  await clock.advance(9);
  assert.equal((await stateOf(result)).state, "pending");
});

test("a connection that nobody waits for is left alone", async () => {
  const taskd = network.client();
  const result = taskd.call("f");
  const socket = await network.open();
  await socket.answer(1);
  await result;
  await clock.advance(3600);
  handled(taskd.call("g"));
  await clock.advance(19);
  assert.deepEqual(socket.sent.map(({ method }) => method), ["f", "g"]);
  assert.equal(network.sockets.length, 1);
});

test("a browser that comes online asks an open connection for a sign of life", async () => {
  handled(network.client().call("f"));
  const socket = await network.open();
  for (const act of online) act();
  assert.equal(socket.newest().id, "probe");
});

test("without a WebSocket of its own, Node uses the package ws, or names it", async () => {
  const own = globalThis.WebSocket;
  globalThis.WebSocket = undefined;
  try {
    const taskd = network.client({ WebSocket: undefined });
    const result = handled(taskd.call("f"));
    await new Promise(resolve => { result.then(resolve, resolve); settle().then(() => settle()).then(resolve); });
    taskd.close();
    const { error } = await stateOf(result);
    assert.match(error.message, /npm install ws|the client was closed/);
  } finally {
    globalThis.WebSocket = own;
  }
});

test("nothing is sent into a websocket that is closing", async () => {
  const taskd = network.client();
  handled(taskd.call("f"));
  const socket = await network.open();
  socket.readyState = 2;
  const result = taskd.call("g");
  assert.equal(socket.texts.length, 1);
  await socket.drop(1001);
  await clock.advance(1);
  const next = await network.open();
  await next.answer("g");
  assert.equal(await result, "g");
});

test("a call that a gateway could not send to a task server is sent again for a while", async () => {
  const taskd = network.client({ connectTimeout: 3 });
  const result = handled(taskd.call("f"));
  const other = handled(taskd.call("g"));
  const socket = await network.open();
  await socket.receive({ id: 2, error: { code: -32007, message: "lost", data: { sent: true } } });
  assert.equal((await stateOf(other)).error.sent, true);
  for (let attempt = 0; attempt < 2; attempt++) {
    await socket.receive({ id: 1, error: { code: -32007, message: "no server", data: { sent: false } } });
    await clock.advance(1.5);
  }
  assert.deepEqual(socket.sent.map(({ method }) => method), ["f", "g", "f", "f"]);
  await clock.advance(1);
  await socket.receive({ id: 1, error: { code: -32007, message: "no server", data: { sent: false } } });
  const { error } = await stateOf(result);
  assert.deepEqual([error.message, error.sent], ["no server", false]);
  assert.equal(clock.timers.size, 0);
});
