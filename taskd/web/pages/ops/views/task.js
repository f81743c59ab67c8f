/** The drawer with one task: its facts, why it waits, its whole log with every attempt, and what can be done with it. */
import { h, inNextFrame, newId, setText, showEach } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { ACTIONS } from "../filter.js";
import { bytes, duration, exact, moment } from "../format.js";
import { partDone, readLog } from "../tasklog.js";
import { report, toast } from "../toast.js";

/** Events that are asked for at once, and the most that are read: a log of more is cut in the middle. */
const PAGE = 1000;
const MOST_EVENTS = 20_000;

/** Seconds after which the reason why a task waits is asked for again. */
const WHY_SECONDS = 2;

const WAITS = new Set(["scheduled", "waiting"]);
const NOT_FOUND = -32602;

export class TaskDrawer {
  #app;
  #id = null;
  #view = null;
  #args;
  #events = [];
  #watching = new AbortController();
  #isReading = false;
  #isStale = false;
  #whyTimer;
  #dialog;
  #parts;
  #draw = inNextFrame(() => this.#show());

  /** `app.closeTask()` is called when the reader closes the drawer. */
  constructor(app) {
    this.#app = app;
    const heading = newId("task");
    const part = (name, element = "div") => h(element, { class: name });
    this.#parts = {
      heading: h("h2", { id: heading }),
      state: h("span"),
      actions: part("drawer-actions"),
      facts: part("facts", "dl"),
      why: h("p", { class: "notice", role: "status" }),
      result: part("result"),
      attempts: part("attempts", "ol"),
      notes: part("notes", "ul"),
      args: part("args"),
    };
    const { heading: title, state, ...rest } = this.#parts;
    const close = h("button", { type: "button", class: "button quiet", autofocus: true, onclick: () => this.#dialog.close() }, t("ops.close"));
    this.#dialog = h(
      "dialog",
      { class: "drawer", "aria-labelledby": heading },
      h("header", {}, title, state, close),
      h(
        "div",
        { class: "drawer-content" },
        ...[rest.facts, rest.why, rest.actions, rest.result],
        h("h3", {}, t("ops.task.log")),
        ...[rest.attempts, rest.notes, rest.args],
      ),
    );
    this.#dialog.addEventListener("close", () => this.#closed());
    // A click beside the drawer is on the dialog's backdrop, which counts as the dialog.
    this.#dialog.addEventListener("click", event => event.target === this.#dialog && this.#dialog.close());
    document.body.append(this.#dialog);
  }

  /** Show a task, or none. */
  open(id) {
    if (id === this.#id) return;
    this.#forget();
    this.#id = id;
    if (id === null) return this.#dialog.close();
    this.#view = null;
    this.#show();
    if (!this.#dialog.open) this.#dialog.showModal();
    this.#watch(id);
  }

  #closed() {
    const wasOpen = this.#id !== null;
    this.#forget();
    this.#id = null;
    if (wasOpen) this.#app.closeTask();
  }

  #forget() {
    this.#watching.abort();
    this.#watching = new AbortController();
    clearTimeout(this.#whyTimer);
    this.#events = [];
    this.#args = undefined;
    setText(this.#parts.why, "");
    for (const name of ["attempts", "notes", "args", "result"]) this.#parts[name].replaceChildren();
  }

  // --- what is known of it ---

  /** Read the task and its log now, and again after each of its events. */
  async #watch(id) {
    const { signal } = this.#watching;
    await this.#read();
    if (!this.#view) return;
    try {
      for await (const event of this.#app.client.attach(id, { after: -1, signal })) if (event.task === id) this.#read();
    } catch (error) {
      if (!signal.aborted) toast(error.message, "bad");
    }
    if (!signal.aborted) this.#read();
  }

  /** Read the task and what is new of its log; once more if it is asked for meanwhile. */
  async #read() {
    this.#isStale = true;
    if (this.#isReading) return;
    this.#isReading = true;
    while (this.#isStale && this.#id !== null) {
      this.#isStale = false;
      await this.#readOnce(this.#id, this.#watching.signal);
    }
    this.#isReading = false;
  }

  async #readOnce(id, signal) {
    try {
      const view = await this.#app.client.call("taskd.get", { task: id });
      const events = await this.#readEvents(id, this.#events);
      if (signal.aborted) return void (this.#isStale = true);
      this.#view = view;
      this.#events = events;
      this.#draw();
      this.#askWhy();
    } catch (error) {
      if (signal.aborted) return;
      setText(this.#parts.why, error.message);
      if (error.code === NOT_FOUND) this.#view = null;
    }
  }

  async #readEvents(id, known) {
    // The newest of them may have been progress, in whose place there is another now.
    let events = known.at(-1)?.event === "progress" ? known.slice(0, -1) : known;
    for (;;) {
      const found = await this.#app.client.call("taskd.events", { task: id, after: events.at(-1)?.seq ?? 0, limit: PAGE });
      events = [...events, ...found];
      if (!found.length || events.length >= MOST_EVENTS) return events;
    }
  }

  async #askWhy() {
    clearTimeout(this.#whyTimer);
    const id = this.#id;
    if (!WAITS.has(this.#view?.state)) return setText(this.#parts.why, "");
    try {
      const { reason } = await this.#app.client.call("taskd.why", { task: id });
      if (id === this.#id) setText(this.#parts.why, t("ops.task.why", { reason }));
    } catch (error) {
      if (id === this.#id) setText(this.#parts.why, error.message);
    }
    if (id === this.#id) this.#whyTimer = setTimeout(() => this.#askWhy(), WHY_SECONDS * 1000);
  }

  // --- what is shown ---

  #show() {
    const { heading, state, why } = this.#parts;
    setText(heading, this.#view?.function ?? t("ops.task.heading"));
    state.hidden = !this.#view;
    why.hidden = !why.textContent;
    if (!this.#view) return this.#parts.facts.replaceChildren(h("div", {}, h("dt", {}, t("ops.columns.id")), h("dd", { class: "mono" }, this.#id ?? "")));
    cells.badge(state, this.#view.state);
    this.#showFacts();
    this.#showActions();
    this.#showResult();
    const { attempts, notes } = readLog(this.#events);
    this.#showAttempts(attempts);
    this.#showNotes(notes);
    this.#showArgs();
  }

  #showFacts() {
    const view = this.#view;
    const facts = [
      ["id", view.task],
      ["owner", view.owner],
      ["created", exact(view.created)],
      ["due", !view.ended && view.due > view.created ? exact(view.due) : null],
      ["ended", view.ended ? exact(view.ended) : null],
      ["took", view.ended ? duration(view.ended - view.created) : null],
      ["attempts", t("ops.task.attempts", { count: view.attempts, errors: view.errors, losses: view.losses })],
      ["key", view.key],
      ["batch", view.batch],
    ].filter(([, value]) => value);
    showEach(this.#parts.facts, facts, {
      key: ([name]) => name,
      create: ([name]) => h("div", { "data-fact": name }, h("dt", {}, t(`ops.facts.${name}`)), h("dd")),
      update: (element, [, value]) => setText(element.lastElementChild, value),
    });
  }

  #showActions() {
    const { state, task } = this.#view;
    const may = kind => this.#app.canOperate && ACTIONS[kind].has(state);
    cells.buttons(this.#parts.actions, [
      ...(may("retry") ? [{ name: "retry", kind: "primary", text: t("ops.retry.verb"), label: null, act: () => this.#act("retry", task) }] : []),
      ...(may("cancel") ? [{ name: "cancel", kind: "danger", text: t("ops.cancel.verb"), label: null, act: () => this.#act("cancel", task) }] : []),
      { name: "copy", text: t("ops.task.copy"), label: null, act: () => copy(task) },
      ...(this.#app.canOperate && !this.#args ? [{ name: "args", text: t("ops.task.showArgs"), label: null, act: () => this.#askArgs(task) }] : []),
    ]);
  }

  async #act(kind, task) {
    await this.#app.actions.each(kind, [task]);
    this.#read();
  }

  async #askArgs(task) {
    await report(async () => (this.#args = (await this.#app.client.call("taskd.get", { task, with_args: true })).args), () => null);
    this.#draw();
  }

  #showArgs() {
    if (this.#args === undefined || this.#parts.args.children.length) return;
    this.#parts.args.replaceChildren(h("h3", {}, t("ops.task.args")), block(JSON.stringify(this.#args, null, 2), t("ops.task.args")));
  }

  #showResult() {
    const { state, result, error } = this.#view;
    const wanted = state === "succeeded" ? JSON.stringify(result ?? null, null, 2) : (error?.message ?? "");
    const { result: place } = this.#parts;
    if (place.dataset.shown === `${state} ${wanted}` && place.children.length) return;
    place.dataset.shown = `${state} ${wanted}`;
    if (!wanted) return place.replaceChildren();
    const heading = t(state === "succeeded" ? "ops.task.result" : "ops.task.error");
    place.replaceChildren(h("h3", {}, heading), block(wanted, heading, state === "succeeded" ? "" : "error"));
  }

  #showAttempts(attempts) {
    showEach(this.#parts.attempts, [...attempts].reverse(), {
      key: attempt => attempt.number,
      create: attempt => newAttempt(attempt, attempts.length),
      update: (element, attempt) => showAttempt(element, attempt),
    });
  }

  #showNotes(notes) {
    const now = this.#app.live.at || Date.now() / 1000;
    showEach(this.#parts.notes, notes, {
      key: note => `${note.event}-${note.at}`,
      create: () => h("li", {}, h("time"), " ", h("span")),
      update: (element, note) => {
        const [time, text] = element.children;
        setText(time, moment(note.at, now));
        setText(text, note.error ? `${t(`ops.events.${note.event}`)}: ${note.error.message}` : t(`ops.events.${note.event}`));
      },
    });
  }
}

function newAttempt({ number }, newest) {
  const head = h("summary", {}, h("span", { class: "attempt" }, t("ops.task.attempt", { number })), h("span"), h("time"), h("span", { class: "took" }));
  const details = h("details", {}, head, h("div", { class: "attempt-content" }));
  details.open = number === newest;
  return h("li", {}, details);
}

/** Show an attempt; its blocks are made anew only if they have changed. */
function showAttempt(element, attempt) {
  const [head, content] = element.firstElementChild.children;
  const [, state, time, took] = head.children;
  cells.badge(state, attempt.outcome ?? "running", t(`ops.outcomes.${attempt.outcome ?? "running"}`));
  setText(time, exact(attempt.started));
  setText(took, attempt.ended ? duration(attempt.ended - attempt.started) : "");
  const shown = JSON.stringify([attempt.outcome, attempt.progress, attempt.partialCount, attempt.error, attempt.output]);
  if (content.dataset.shown === shown) return;
  content.dataset.shown = shown;
  content.replaceChildren(...blocksOf(attempt));
}

function blocksOf({ error, traceback, output, memory, due, progress, partials, partialCount, outcome }) {
  const part = partDone(progress);
  const bar = progress && h("progress", { "aria-label": t("ops.task.progress"), ...(part === null ? {} : { value: part }) });
  return [
    progress && h("p", {}, bar, t("ops.task.done", { done: progress.done, total: progress.total ?? "?", message: progress.message ?? "" })),
    error && h("p", { class: "error" }, error.message),
    traceback && labelled("ops.task.traceback", traceback),
    output && labelled("ops.task.output", output),
    memory && h("p", { class: "hint" }, t("ops.task.memory", { memory: bytes(memory * 1024) })),
    due && h("p", { class: "hint" }, t("ops.task.next", { at: exact(due) })),
    partialCount > 0 && labelled("ops.task.partials", partials.map(value => JSON.stringify(value)).join("\n"), { count: partialCount }),
    !error && !progress && !partialCount && !output && h("p", { class: "hint" }, t(outcome ? "ops.task.plain" : "ops.task.silent")),
  ].filter(Boolean);
}

function labelled(key, text, values = {}) {
  const heading = t(key, values);
  return h("div", {}, h("h4", {}, heading), block(text, heading));
}

/** Return a block of fixed text: it scrolls, and so can have the focus. */
function block(text, label, kind = "") {
  return h("pre", { tabindex: 0, role: "group", "aria-label": label, class: kind }, text);
}

async function copy(text) {
  await report(() => navigator.clipboard.writeText(text), () => t("ops.done.copied"));
}
