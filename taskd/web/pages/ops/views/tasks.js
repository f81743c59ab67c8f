/** The section of the stored tasks: a search, a long table of what it has found, and what can be done with many of them. */
import { h, newId, setAttribute, setText } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { ACTIONS, STATES, fromQuery, listParams, toQuery } from "../filter.js";
import { age, count, duration, oneLine, shortId } from "../format.js";
import { Poll } from "../poll.js";
import { hashOf } from "../route.js";
import { Selection } from "../selection.js";
import { Table } from "../table.js";
import { report } from "../toast.js";

/** Tasks that are asked for at once. */
const PAGE = 100;

/** Seconds between two looks for newer tasks, while the first ones are in sight. */
const FOLLOW_SECONDS = 2;

/** Tasks that the page holds: with more of them one narrows the search. */
const MOST_ROWS = 5000;

/** Tasks that "select all that match" selects, and the most that the server lists at once. */
const MOST_SELECTED = 20_000;
const LARGEST_PAGE = 1000;

/** Milliseconds without a key after which a search begins by itself. */
const PAUSE = 300;

export class Tasks {
  #app;
  #fields = {};
  #functions = h("datalist", { id: newId("functions") });
  #filter = {};
  #selection = new Selection(() => this.#showBar());
  #table;
  #bar;
  #count = h("span", { class: "hint", role: "status" });
  #follow;
  #poll = new Poll(() => this.#followNow(), FOLLOW_SECONDS, { isVisible: () => document.visibilityState === "visible" });
  #rows = [];
  #isAll = false;
  #isLoading = false;
  /** Counts the searches, so that the answer to an older one is recognised. */
  #searches = 0;
  #typed;

  constructor(app) {
    this.#app = app;
    this.#table = new Table({
      label: t("ops.sections.tasks"),
      columns: this.#columns(),
      key: row => row.task,
      selection: this.#selection,
      onEnd: () => this.#loadMore(),
    });
    this.#follow = h("input", { type: "checkbox", id: newId("follow"), checked: true });
    this.#bar = h("div", { class: "bulk", role: "group", "aria-label": t("ops.bulk.label") });
    this.element = h(
      "section",
      { class: "tasks" },
      h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.tasks")),
      this.#form(),
      this.#bar,
      this.#table.element,
    );
    this.#showBar();
  }

  #form() {
    const field = (name, control, kind = "") => {
      control.id = newId("field");
      this.#fields[name] = control;
      return h("div", { class: `field ${kind}` }, h("label", { for: control.id }, t(`ops.search.${name}`)), control);
    };
    const text = (name, more = {}) => h("input", { type: "search", autocomplete: "off", spellcheck: "false", name, ...more });
    const states = h("select", { name: "state" }, ...["", ...STATES].map(state => h("option", { value: state }, state ? t(`states.${state}`) : t("ops.search.any"))));
    const more = h("button", { type: "button", class: "button quiet small more-fields", "aria-expanded": "false" }, t("ops.search.more"));
    const form = h(
      "form",
      { class: "search", role: "search", "aria-label": t("ops.search.label") },
      field("state", states),
      field("function", text("function", { list: this.#functions.id })),
      field("owner", text("owner"), "rare"),
      field("error", text("error"), "rare"),
      field("key", text("key"), "rare"),
      field("id", text("id"), "rare"),
      this.#functions,
      h("div", { class: "follow" }, h("label", { class: "inline" }, this.#follow, t("ops.search.follow")), more, this.#count),
    );
    more.addEventListener("click", () => {
      const isFull = form.classList.toggle("is-full");
      setAttribute(more, "aria-expanded", String(isFull));
      setText(more, t(isFull ? "ops.search.fewer" : "ops.search.more"));
    });
    form.addEventListener("input", event => event.target !== this.#follow && this.#edited(event.target));
    form.addEventListener("submit", event => {
      event.preventDefault();
      this.#goToSearch();
    });
    return form;
  }

  #columns() {
    const now = () => this.#app.live.at;
    return [
      { name: "state", heading: t("ops.columns.state"), show: (cell, row) => cells.badgeCell(cell, row.state) },
      {
        name: "function",
        heading: t("ops.columns.function"),
        isWide: true,
        show: (cell, row) => {
          const place = { section: "tasks", query: toQuery(this.#filter), task: row.task };
          cells.link(cell, row.function, hashOf(place), row.function);
        },
      },
      { name: "error", heading: t("ops.columns.error"), isWide: true, isMinor: true, show: (cell, row) => cells.text(cell, errorOf(row), row.error?.message) },
      { name: "owner", heading: t("ops.columns.owner"), isMinor: true, show: (cell, row) => cells.text(cell, row.owner ?? "", row.owner) },
      { name: "created", heading: t("ops.columns.created"), show: (cell, row) => cells.time(cell, row.created, now()) },
      { name: "took", heading: t("ops.columns.took"), isNumber: true, isMinor: true, show: (cell, row) => cells.text(cell, tookOf(row, now())) },
      { name: "attempts", heading: t("ops.columns.attempts"), isNumber: true, isMinor: true, show: (cell, row) => cells.text(cell, String(row.attempts)) },
      { name: "key", heading: t("ops.columns.key"), isMinor: true, show: (cell, row) => cells.text(cell, row.key ?? "", row.key) },
      { name: "id", heading: t("ops.columns.id"), isMinor: true, show: (cell, row) => cells.text(cell, shortId(row.task), row.task) },
    ];
  }

  // --- the place ---

  /** Show what the query of the address asks for. */
  open(query) {
    const filter = fromQuery(query);
    const isSame = toQuery(filter) === toQuery(this.#filter) && this.#searches > 0;
    this.#filter = filter;
    for (const [name, control] of Object.entries(this.#fields)) {
      if (document.activeElement !== control) control.value = filter[name] ?? "";
    }
    if (!isSame) this.#search();
    this.#poll.start();
  }

  close() {
    this.#poll.stop();
  }

  focusSearch() {
    this.#fields.function.focus();
  }

  #edited(control) {
    clearTimeout(this.#typed);
    this.#typed = setTimeout(() => this.#goToSearch(), control === this.#fields.state ? 0 : PAUSE);
  }

  #goToSearch() {
    clearTimeout(this.#typed);
    const filter = Object.fromEntries(Object.entries(this.#fields).map(([name, control]) => [name, control.value]));
    if (this.#filter.batch) filter.batch = this.#filter.batch;
    this.#app.go({ section: "tasks", query: toQuery(filter) }, { isReplaced: true });
  }

  // --- rows ---

  async #search() {
    const number = ++this.#searches;
    this.#rows = [];
    this.#isAll = false;
    this.#selection.clear();
    this.#table.show([], t("ops.search.searching"));
    this.#table.element.scrollTop = 0;
    await this.#load(number);
  }

  async #list(params) {
    return this.#app.client.call("taskd.list", listParams(this.#filter, params));
  }

  async #load(number, before) {
    this.#isLoading = true;
    try {
      const rows = await this.#list({ limit: PAGE, before });
      if (number !== this.#searches) return;
      this.#isAll = rows.length < PAGE;
      this.#rows.push(...rows);
      this.#show();
    } catch (error) {
      if (number === this.#searches) this.#table.show(this.#rows, error.message);
      this.#isAll = true;
    } finally {
      this.#isLoading = false;
    }
  }

  #loadMore() {
    if (this.#isAll || this.#isLoading || !this.#rows.length || this.#rows.length >= MOST_ROWS) return;
    this.#load(this.#searches, this.#rows.at(-1).task);
  }

  /** Look for newer tasks, and for what has become of those that are in sight. */
  async #followNow() {
    if (!this.#follow.checked || !this.#table.isAtTop || this.#isLoading) return;
    await this.refresh();
  }

  async refresh() {
    const number = this.#searches;
    try {
      const newest = await this.#list({ limit: PAGE });
      if (number !== this.#searches || this.#isLoading) return;
      this.#merge(newest);
      this.#show();
    } catch {
      // The page shows that the connection is lost; any other error has been shown by the search.
    }
  }

  /** Put the newest page before what is older than its last row. What was in between has left the search. */
  #merge(newest) {
    const last = newest.at(-1)?.task;
    const older = newest.length < PAGE ? [] : this.#rows.filter(({ task }) => task < last);
    this.#isAll = newest.length < PAGE || (this.#isAll && older.length > 0);
    this.#rows = [...newest, ...older].slice(0, MOST_ROWS);
  }

  #show() {
    this.#table.show(this.#rows, t("ops.search.nothing"));
    setText(this.#count, t(this.#isAll ? "ops.search.found" : "ops.search.loaded", { count: this.#rows.length }));
    this.#showBar();
  }

  update() {
    const names = (this.#app.live.functions ?? []).map(({ name }) => name);
    if (this.#functions.children.length !== names.length) {
      this.#functions.replaceChildren(...names.map(value => h("option", { value })));
    }
    this.#table.redraw();
  }

  // --- many at once ---

  #showBar() {
    const { size } = this.#selection;
    this.#bar.hidden = !size || !this.#app.canOperate;
    if (this.#bar.hidden) return;
    const selected = this.#selected();
    const can = kind => selected.filter(row => !row || ACTIONS[kind].has(row.state)).length;
    const button = (text, act, kind = "") => h("button", { type: "button", class: `button small ${kind}`, onclick: act }, text);
    const hadFocus = this.#bar.contains(document.activeElement);
    this.#bar.replaceChildren(
      h("strong", {}, t("ops.bulk.selected", { count: size })),
      ...(can("retry") ? [button(t("ops.retry.button", { number: count(can("retry")) }), () => this.#act("retry"), "primary")] : []),
      ...(can("cancel") ? [button(t("ops.cancel.button", { number: count(can("cancel")) }), () => this.#act("cancel"), "danger")] : []),
      ...(this.#isAll ? [] : [button(t("ops.bulk.selectAll"), () => this.#selectAll())]),
      button(t("ops.bulk.clear"), () => this.#clear(), "quiet"),
    );
    if (hadFocus) this.#bar.querySelector("button").focus();
  }

  /** Return the rows that are selected; undefined for one that is not loaded. */
  #selected() {
    const known = new Map(this.#rows.map(row => [row.task, row]));
    return this.#selection.keys.map(key => known.get(key));
  }

  #clear() {
    this.#selection.clear();
    this.#table.redraw();
    this.#table.element.focus();
  }

  async #act(kind) {
    const known = new Map(this.#rows.map(row => [row.task, row]));
    const ids = this.#selection.keys.filter(key => !known.has(key) || ACTIONS[kind].has(known.get(key).state));
    if (await this.#app.actions.each(kind, ids)) this.#clear();
    await this.refresh();
  }

  /** Select all that match the search, loaded or not. */
  async #selectAll() {
    const number = this.#searches;
    await report(async () => {
      let before;
      for (let size = LARGEST_PAGE; size === LARGEST_PAGE && this.#selection.size < MOST_SELECTED; ) {
        const rows = await this.#list({ limit: LARGEST_PAGE, before });
        if (number !== this.#searches) return;
        this.#selection.add(rows.map(({ task }) => task));
        size = rows.length;
        before = rows.at(-1)?.task;
      }
    }, () => null);
    this.#table.redraw();
  }
}

function errorOf({ error }) {
  return error ? oneLine(error.message) : "";
}

/** Return how long a task took from when it was accepted to its end; and one that has not ended, since it was due. */
function tookOf({ due, created, ended }, now) {
  if (ended) return duration(ended - created);
  return now > due ? age(now - due) : "–";
}
