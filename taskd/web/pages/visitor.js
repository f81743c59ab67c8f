/** The visitor's page: what may be started, and what has become of it. */
import { h } from "./shared/dom.js";
import { askToken, connectionNotice, fillTexts, showCaller } from "./shared/frame.js";
import { t } from "./shared/i18n.js";
import { Session } from "./shared/session.js";
import { functionList } from "./visitor/functions.js";
import { taskList } from "./visitor/tasks.js";
import { Work } from "./visitor/work.js";

const notice = connectionNotice();
let again = () => {};
const session = new Session({
  askToken,
  onConnection(isConnected) {
    notice(isConnected);
    // It is sent as soon as there is a connection again: so there is one soon, even if nothing else needs it.
    if (!isConnected) again();
  },
});

fillTexts();
await session.open();
showCaller(session);
document.querySelector(".wordmark").after(h("a", { class: "to-tasks", href: "#tasks" }, t("tasks.heading")));

const { caller } = session;
const main = document.getElementById("main");
const tasks = taskList({ isOwn: !caller.anonymous });
const work = new Work(session, tasks.changed);
const functions = functionList({
  fixed: caller.args,
  start: (name, args, options) => work.start(name, args, options),
  startBatch: (name, rows) => work.startBatch(name, rows),
});
tasks.show(work);
const onlyWatches = caller.role === "watch";
main.classList.toggle("only-tasks", onlyWatches);
main.replaceChildren(...(onlyWatches ? [tasks.element] : [functions.element, tasks.element]));

/** Show the functions and the tasks as the server has them now: it may be another one after a restart. */
async function refresh() {
  // The server leaves out what the token does not cover.
  functions.show(onlyWatches ? [] : await session.client.call("taskd.functions"));
  await work.look();
}

again = () => refresh().catch(() => {});
try {
  await Promise.all([refresh(), work.open()]);
} catch (error) {
  main.prepend(h("p", { class: "notice error", role: "alert" }, t("visitor.failed", { message: error.message })));
}
