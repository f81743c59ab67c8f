/**
 * `<taskd-progress task="…">`: the progress of a stored task, or of a batch, in any page.
 *
 *     <script type="module" src="https://tasks.example/taskd-progress.js"></script>
 *     <taskd-progress task="01a21e4f-…"></taskd-progress>
 *
 * Attributes: `task` or `batch`, an id; `server`, the gateway's address (by default that of this module); `label`, what a
 * screen reader calls it; `cancellable`, to have a button. Properties: `token`, a text or a function that returns one (also
 * asynchronously), never an attribute; `state`; `result`, a promise of the task's result.
 * Events: `taskd-progress` (`detail` is the event of the task), and `taskd-end` (`detail` has `state`, `result` and `error`).
 * Parts for CSS: `bar`, `state`, `message`, `cancel`. Its colour is the page's `accent-color` or `--taskd-accent`.
 */
import { setAttribute, setText } from "./pages/shared/dom.js";
import { number } from "./pages/shared/format.js";
import { t } from "./pages/shared/i18n.js";
import { connect } from "./taskd.js";

const STATES = { queued: "waiting", started: "running", retrying: "scheduled", returned: "waiting", lost: "waiting" };
const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "set_aside"]);

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
  :host { display: block; font: inherit; --accent: var(--taskd-accent, #0a6a5b) }
  :host([hidden]) { display: none }
  div { display: flex; flex-wrap: wrap; align-items: center; gap: 0.25em 0.75em }
  progress { flex: 1 0 100%; box-sizing: border-box; width: 100%; height: 0.5em; accent-color: var(--accent) }
  progress[hidden], button[hidden] { display: none }
  [part="state"] { font-weight: 600 }
  [part="message"] { flex: 1; min-width: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
  button { font: inherit }
`);

/** The clients of this page: elements for the same server with the same token share a connection. */
const clients = new Map();

function share(server, token) {
  const ofServer = clients.get(server) ?? clients.set(server, new Map()).get(server);
  let shared = ofServer.get(token);
  if (!shared) {
    shared = { client: connect(server, { connectTimeout: Infinity, ...(token === undefined ? {} : { token }) }), users: 0 };
    ofServer.set(token, shared);
  }
  shared.users += 1;
  const leave = () => {
    shared.users -= 1;
    if (shared.users) return;
    shared.client.close();
    ofServer.delete(token);
  };
  return { client: shared.client, leave };
}

function part(name, element) {
  const made = document.createElement(element);
  made.setAttribute("part", name);
  return made;
}

export class TaskdProgress extends HTMLElement {
  static observedAttributes = ["task", "batch", "server", "label", "cancellable"];

  #bar = part("bar", "progress");
  #state = part("state", "span");
  #message = part("message", "span");
  #cancel = part("cancel", "button");
  #token;
  #watching;
  #isDue = false;

  /** The state of the task, like "running"; undefined as long as it is unknown. */
  state;

  /** A promise of the task's result. */
  result = Promise.reject(new Error("there is no task yet"));

  constructor() {
    super();
    this.result.catch(() => {});
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [STYLE];
    const row = document.createElement("div");
    const live = document.createElement("span");
    live.setAttribute("role", "status");
    live.append(this.#state);
    this.#cancel.type = "button";
    this.#cancel.addEventListener("click", () => this.cancel().catch(error => setText(this.#message, error.message)));
    row.append(this.#bar, live, this.#message, this.#cancel);
    root.append(row);
  }

  get token() {
    return this.#token;
  }

  set token(token) {
    this.#token = token;
    this.#later();
  }

  connectedCallback() {
    if (Object.hasOwn(this, "token")) {
      const { token } = this; // it was set before this module was there
      delete this.token;
      this.token = token;
    }
    this.#later();
  }

  disconnectedCallback() {
    this.#later();
  }

  attributeChangedCallback() {
    this.#later();
  }

  /** Cancel the task; return what it was. */
  async cancel() {
    return this.#watching?.handle.cancel();
  }

  /** Begin once the page has set whatever it sets: attributes and the token come one by one. */
  #later() {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => {
      this.#isDue = false;
      this.#begin();
    });
  }

  #begin() {
    const kind = this.hasAttribute("task") ? "task" : "batch";
    const id = this.getAttribute(kind);
    const server = this.getAttribute("server") ?? new URL(".", import.meta.url).href;
    setAttribute(this.#bar, "aria-label", this.getAttribute("label") ?? t("progress.label"));
    setText(this.#cancel, t("card.cancel"));
    const wanted = this.isConnected && id ? JSON.stringify([kind, id, server]) : undefined;
    if (wanted === this.#watching?.wanted && this.#token === this.#watching?.token) {
      this.#show({});
      return;
    }
    this.#watching?.end();
    this.#watching = undefined;
    this.state = undefined;
    if (!wanted) return;
    const { client, leave } = share(server, this.#token);
    const stop = new AbortController();
    const handle = kind === "task" ? client.task(id) : client.batch(id);
    const watching = { wanted, token: this.#token, handle, end: () => stop.abort() };
    this.#watching = watching;
    this.#show({ state: "waiting" });
    this.result = this.#watch(watching, kind, client, id, stop.signal).finally(leave);
    this.result.catch(() => {});
  }

  async #watch(watching, kind, client, id, signal) {
    const show = change => watching === this.#watching && this.#show(change);
    try {
      for await (const event of watching.handle.events({ signal })) {
        if (kind === "batch") show({ state: event.state ?? "running", ...event, done: sum(event) });
        else if (event.event === "progress") show({ state: "running", ...event });
        else if (event.event in STATES) show({ state: STATES[event.event], message: "" });
        if (watching === this.#watching) this.dispatchEvent(new CustomEvent("taskd-progress", { detail: event }));
      }
      const result = await watching.handle.result({ signal });
      this.#end(watching, { state: result?.state && kind === "batch" ? result.state : "succeeded", result });
      return result;
    } catch (error) {
      if (!signal.aborted) this.#end(watching, { state: await stateOf(client, kind, id), error });
      throw error;
    }
  }

  #end(watching, detail) {
    if (watching !== this.#watching) return;
    this.#show({ state: detail.state, message: detail.error?.message ?? "" });
    this.dispatchEvent(new CustomEvent("taskd-end", { detail, bubbles: true }));
  }

  #show({ state = this.state, done, total, message }) {
    this.state = state;
    const hasEnded = ENDED.has(state) || state === "unknown";
    setText(this.#state, state ? t(`states.${state}`) : "");
    setAttribute(this, "state", state);
    this.#bar.hidden = hasEnded;
    this.#cancel.hidden = hasEnded || !this.hasAttribute("cancellable");
    if (done !== undefined) {
      setAttribute(this.#bar, "max", total || null);
      setAttribute(this.#bar, "value", total ? done : null);
      const counted = total ? t("card.counts", { done, total }) : number(done);
      setText(this.#message, message ? `${counted} · ${message}` : counted);
    } else if (message !== undefined) {
      setText(this.#message, message);
    }
  }
}

function sum({ done = 0, failed = 0, cancelled = 0 }) {
  return done + failed + cancelled;
}

/** Return the state in which a task has ended, "unknown" if the server does not tell. */
async function stateOf(client, kind, id) {
  try {
    return (await client.call("taskd.get", { [kind]: id })).state;
  } catch {
    return "unknown";
  }
}

if (!customElements.get("taskd-progress")) customElements.define("taskd-progress", TaskdProgress);
