import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Clock, Network, collect, handled, settle, stateOf } from "./fakes.mjs";

const TOKEN = "taskd_" + "a".repeat(43);

let clock, network, dates;

beforeEach(() => {
  clock = new Clock();
  clock.install();
  network = new Network();
  dates = Date.now;
  Date.now = () => performance.now();
});

afterEach(() => {
  clock.uninstall();
  Date.now = dates;
});

/** A page that gives another token each time. */
class Page {
  asked = 0;

  token = async () => `token-${++this.asked}`;
}

const shown = socket => socket.protocols?.[1];

async function accept(socket, expires = null) {
  await socket.receive({ id: "whoami", result: { owner: "ann", role: "submit", expires } });
}

/** Go on by so many seconds, in which the server is not silent. */
async function live(socket, seconds) {
  for (let left = seconds; left > 0; left -= 10) {
    await clock.advance(Math.min(left, 10));
    await socket.receive({ id: "probe", result: null });
  }
}

test("a token is shown as a subprotocol, never in the address, and costs the first call no round trip", async () => {
  const taskd = network.client({ token: TOKEN });
  const answer = taskd.call("f");
  assert.deepEqual(network.socket.protocols, ["taskd", `taskd.token.${TOKEN}`]);
  assert.equal(network.socket.url, "ws://gateway.example/");
  const socket = await network.open();
  assert.deepEqual(socket.sent.map(({ method }) => method), ["taskd.whoami", "f"]);
  await accept(socket);
  await socket.answer(1, "f");
  assert.equal(await answer, 1);
});

test("without a token, no subprotocol is asked for and nothing but the call is sent", async () => {
  const taskd = network.client();
  handled(taskd.call("f"));
  assert.equal(network.socket.protocols, undefined);
  const socket = await network.open();
  assert.deepEqual(socket.sent.map(({ method }) => method), ["f"]);
});

test("a function is asked for a token for each connection", async () => {
  const page = new Page();
  const taskd = network.client({ token: page.token });
  handled(taskd.call("f"));
  assert.equal(network.sockets.length, 0);
  await settle();
  const first = await network.open();
  assert.equal(shown(first), "taskd.token.token-1");
  await first.drop();
  handled(taskd.call("g"));
  await clock.advance(1);
  assert.equal(shown(network.socket), "taskd.token.token-2");
});

test("what is no token is refused without being quoted", async () => {
  for (const token of ["a b", "ä", "a,b", 5, {}]) {
    assert.throws(() => network.client({ token }), error => error instanceof TypeError && !/a b|ä|a,b/.test(error.message));
  }
});

test("a page that has no token, since nobody has signed in, has all requests rejected at once", async () => {
  for (const none of [undefined, null, ""]) {
    const taskd = network.client({ token: async () => none });
    const { error } = await stateOf(taskd.call("f"));
    assert.deepEqual([error.code, error.data.reason], [-32008, "no token"]);
  }
  assert.equal(network.sockets.length, 0);
  assert.equal(clock.timers.size, 0);
});

test("a page that cannot be reached is asked again, until the calls have waited for too long", async () => {
  let isOnline = false;
  const token = async () => {
    if (!isOnline) throw new Error("Failed to fetch");
    return "good";
  };
  const taskd = network.client({ token, connectTimeout: 5 });
  const given = await (async () => {
    const call = handled(taskd.call("f"));
    await clock.advance(6);
    return stateOf(call);
  })();
  assert.match(given.error.message, /no connection within 5 s \(there is no token: Failed to fetch\)/);
  const answer = taskd.call("f");
  isOnline = true;
  await clock.advance(4);
  await (await network.open()).answer(2, "f");
  assert.equal(await answer, 2);
});

test("a page that does not answer is given up, and what it says later is dropped", async () => {
  const resolvers = [];
  const taskd = network.client({ token: () => new Promise(resolve => resolvers.push(resolve)), connectTimeout: 30 });
  handled(taskd.call("f"));
  await clock.advance(12);
  assert.equal(resolvers.length, 2);
  resolvers[0]("late");
  await settle();
  assert.equal(network.sockets.length, 0);
  resolvers[1]("good");
  await settle();
  assert.equal(shown(network.socket), "taskd.token.good");
});

test("a token that expires is replaced before, over the same connection", async () => {
  const page = new Page();
  const taskd = network.client({ token: page.token });
  const watched = collect(taskd.task("t1").events());
  await settle();
  const socket = await network.open();
  await accept(socket, 600);
  await live(socket, 569);
  assert.equal(page.asked, 1);
  await live(socket, 2);
  const auth = socket.newest("taskd.auth");
  assert.deepEqual([auth.id, auth.params], ["auth", { token: "token-2" }]);
  await socket.receive({ id: "auth", result: { owner: "ann", expires: 1200 } });
  assert.equal(network.sockets.length, 1);
  await live(socket, 600);
  assert.deepEqual(socket.newest("taskd.auth").params, { token: "token-3" });
  assert.equal(watched.isOver, false);
});

test("a short-lived token is replaced after half of its time", async () => {
  const page = new Page();
  const taskd = network.client({ token: page.token });
  collect(taskd.task("t1").events());
  await settle();
  const socket = await network.open();
  await accept(socket, 10);
  await clock.advance(4.9);
  assert.equal(page.asked, 1);
  await clock.advance(0.2);
  assert.equal(page.asked, 2);
});

test("no timer is left for a token while nothing is awaited", async () => {
  const taskd = network.client({ token: new Page().token });
  const answer = taskd.call("f");
  await settle();
  const socket = await network.open();
  await accept(socket, 600);
  await socket.answer(1, "f");
  await answer;
  assert.equal(clock.timers.size, 0);
});

test("after an expired token, the client asks its page for a new one at once, and goes on watching", async () => {
  const page = new Page();
  const taskd = network.client({ token: page.token });
  const watched = collect(taskd.task("t1").events());
  await settle();
  const first = await network.open();
  await accept(first);
  await first.answer({ task: "t1", seq: 1, state: "running" }, "taskd.attach");
  await first.event({ event: "queued", task: "t1", seq: 1 });
  await first.drop(4401, "the token has expired");
  const second = await network.open();
  assert.equal(shown(second), "taskd.token.token-2");
  assert.deepEqual(second.newest("taskd.attach").params, { task: "t1", after: 1 });
  assert.equal(watched.isOver, false);
});

test("a call that stood behind an expired token was read by nobody, and is sent again with a new one", async () => {
  const page = new Page();
  const taskd = network.client({ token: page.token });
  const answer = taskd.call("f");
  await settle();
  await (await network.open()).drop(4401, "the token has expired");
  const second = await network.open();
  await accept(second);
  await second.answer(3, "f");
  assert.equal(await answer, 3);
});

test("a call in flight when the token expires may have run, and is not sent again", async () => {
  const taskd = network.client({ token: new Page().token });
  const call = handled(taskd.call("f"));
  await settle();
  const socket = await network.open();
  await accept(socket);
  await socket.drop(4401, "the token has expired");
  const { error } = await stateOf(call);
  assert.deepEqual([error.code, error.sent], [-32007, true]);
});

test("a page that gives one expired token after the other is asked twice, and no more", async () => {
  const page = new Page();
  const taskd = network.client({ token: page.token });
  const call = handled(taskd.call("f"));
  for (let time = 0; time < 2; time++) {
    await settle();
    await (await network.open()).drop(4401, "the token has expired");
  }
  const { error } = await stateOf(call);
  assert.deepEqual([error.code, error.message, error.data.reason], [-32008, "the token has expired", "expired"]);
  assert.equal(error.sent, false);
  assert.equal(page.asked, 2);
  assert.equal(clock.timers.size, 0);
});

test("a text that has expired is an error at once, since there will be no other", async () => {
  const taskd = network.client({ token: TOKEN });
  const call = handled(taskd.call("f"));
  await (await network.open()).drop(4401, "the token has expired");
  assert.equal((await stateOf(call)).error.data.reason, "expired");
  assert.equal(network.sockets.length, 1);
});

test("a refused token is an error of everything that is awaited, and is not shown again by itself", async () => {
  const states = [];
  const taskd = network.client({ token: new Page().token, onConnection: is => states.push(is) });
  const call = handled(taskd.call("f"));
  const watched = collect(taskd.task("t1").events());
  await settle();
  await (await network.open()).drop(4403, "the token is unknown");
  const { error } = await stateOf(call);
  assert.deepEqual([error.code, error.name, error.message], [-32008, "not allowed", "the token is unknown"]);
  assert.equal(error.sent, false);
  assert.equal(watched.error.code, -32008);
  await clock.advance(100);
  assert.equal(network.sockets.length, 1);
  assert.deepEqual(states, [true, false]);
});

test("a call in flight when its token is revoked may have run", async () => {
  const taskd = network.client({ token: TOKEN });
  const call = handled(taskd.call("f"));
  const socket = await network.open();
  await accept(socket);
  await socket.drop(4403, "the token was revoked");
  const { error } = await stateOf(call);
  assert.deepEqual([error.code, error.sent], [-32008, true]);
});

test("after a refusal, the next request tries again", async () => {
  const taskd = network.client({ token: new Page().token });
  handled(taskd.call("f"));
  await settle();
  await (await network.open()).drop(4403, "the token is unknown");
  const answer = taskd.call("g");
  await settle();
  const second = await network.open();
  assert.equal(shown(second), "taskd.token.token-2");
  await second.answer(1, "g");
  assert.equal(await answer, 1);
});

test("a server without tokens, which knows no taskd.whoami, is used as before", async () => {
  const taskd = network.client({ token: TOKEN });
  const answer = taskd.call("f");
  const socket = await network.open();
  await socket.receive({ id: "whoami", error: { code: -32601, message: "there is no function taskd.whoami" } });
  await socket.answer(1, "f");
  assert.equal(await answer, 1);
});
