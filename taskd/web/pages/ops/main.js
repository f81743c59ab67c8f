/**
 * The operator's page.
 *
 * Above are the server and its state (header.js), below one section at a time (views/), and over them a drawer with a task
 * (views/task.js). Where one is, is in the address (route.js). What the sections show is asked for in one place (live.js)
 * and made into rows and figures by pure functions (shape.js, history.js, tasklog.js); they are drawn once a frame at most.
 * What an operator does goes through actions.js.
 */
import { inNextFrame } from "../shared/dom.js";
import { askToken, connectionNotice, fillTexts, showCaller } from "../shared/frame.js";
import { covers, Session } from "../shared/session.js";
import { Actions } from "./actions.js";
import { Header } from "./header.js";
import { listenToKeys, showKeys } from "./keys.js";
import { Live } from "./live.js";
import { hashOf, parseHash } from "./route.js";
import { Audit } from "./views/audit.js";
import { Functions } from "./views/functions.js";
import { Overview } from "./views/overview.js";
import { Queue } from "./views/queue.js";
import { Schedules } from "./views/schedules.js";
import { TaskDrawer } from "./views/task.js";
import { Tasks } from "./views/tasks.js";
import { Workers } from "./views/workers.js";

const VIEWS = {
  overview: Overview,
  tasks: Tasks,
  queue: Queue,
  workers: Workers,
  functions: Functions,
  schedules: Schedules,
  audit: Audit,
};

class App {
  #views = {};
  #header;
  #drawer;
  #place = { section: null, query: "", task: null };
  #content = document.getElementById("content");
  #draw = inNextFrame(() => this.#drawNow());

  constructor(session) {
    this.session = session;
    const client = () => this.client;
    this.live = new Live(client);
    this.actions = new Actions(client, () => this.#changed());
    this.#header = new Header(this);
    this.#drawer = new TaskDrawer(this);
  }

  get client() {
    return this.session.client;
  }

  /** Whether the reader may act, so that the page offers it. */
  get canOperate() {
    return this.session.caller.role === "operate";
  }

  /** Return whether the reader's token covers a function. */
  covers = name => covers(this.session.caller, name);

  /** Return whether the reader may pause a function and resume it, so that the page offers it. */
  mayPause(name) {
    return this.canOperate && this.covers(name);
  }

  start() {
    addEventListener("hashchange", () => this.#show(parseHash(location.hash)));
    listenToKeys(this);
    this.live.subscribe(this.#draw);
    this.#show(parseHash(location.hash));
    this.live.start();
  }

  /** Go to a place; the one before it is kept in the browser's history unless `isReplaced`. */
  go(place, { isReplaced = false } = {}) {
    const hash = hashOf(place);
    if (hash === location.hash) return;
    if (!isReplaced) {
      location.hash = hash;
      return;
    }
    history.replaceState(null, "", hash);
    this.#show(parseHash(hash));
  }

  closeTask() {
    this.go({ ...this.#place, task: null });
  }

  searchTasks() {
    this.go({ section: "tasks" });
    requestAnimationFrame(() => this.#views.tasks?.focusSearch());
  }

  showKeys() {
    return showKeys();
  }

  get #view() {
    return this.#views[this.#place.section];
  }

  #show(place) {
    const before = this.#place;
    const isOther = place.section !== before.section;
    if (isOther) this.#view?.close?.();
    this.#place = place;
    this.#views[place.section] ??= new VIEWS[place.section](this);
    if (isOther) {
      this.#content.replaceChildren(this.#view.element);
      this.#header.show(place.section);
      scrollTo(0, 0);
      if (before.section) this.#content.querySelector("h1").focus({ preventScroll: true });
    }
    if (isOther || place.query !== before.query) this.#view.open?.(place.query);
    this.#drawer.open(place.task);
    this.#drawNow();
  }

  /** Show at once what an action has changed. */
  #changed() {
    this.live.now();
    this.#view.refresh?.();
  }

  #drawNow() {
    this.#header.update();
    this.#view.update();
  }
}

fillTexts();
const session = new Session({ askToken, onConnection: connectionNotice() });
await session.open();
showCaller(session);
new App(session).start();
