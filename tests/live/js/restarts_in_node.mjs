/** Runs `keepGoing` and writes its state as a line whenever it has changed: restarts_in_node.mjs CLIENT URL [WS]. */

import { keepGoing } from "./restarts.mjs";

const [client, url, ws] = process.argv.slice(2);
const { connect } = await import(client);
const options = ws ? { WebSocket: (await import(ws)).WebSocket } : {};

process.on("unhandledRejection", error => {
  console.error("unhandled rejection", error);
  process.exit(2);
});

const state = new Proxy({}, {
  set(target, name, value) {
    target[name] = value;
    console.log(JSON.stringify(target));
    return true;
  },
});
await keepGoing(connect, url, options, state);
