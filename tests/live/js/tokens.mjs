// Shows tokens to the gateway at the first argument: of the others, one has expired and one is good.
import { connect } from "./taskd.js";

const [url, old, good] = process.argv.slice(2);
const states = [];
const given = [old, good];
const taskd = connect(url, { token: async () => given.shift(), onConnection: is => states.push(is) });
const { owner } = await taskd.call("taskd.whoami");
const task = await taskd.submit("hello", { name: "Ann" });
const result = await task.result();
taskd.close();

const reasons = [];
for (const token of [old, `${good}x`, async () => null]) {
  const refused = connect(url, { token });
  const error = await refused.call("hello").catch(each => each);
  reasons.push([error.code, error.sent ?? null]);
  refused.close();
}
console.log(JSON.stringify({ owner, result, left: given.length, reasons }));
