/** The section of the audit log: who has done what, newest first. */
import { h, newId } from "../../shared/dom.js";
import { hasText, t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { count } from "../format.js";
import { Poll } from "../poll.js";
import { hashOf } from "../route.js";
import { Table } from "../table.js";

/** The actions that the log is searched for. */
const ACTIONS = ["submit", "cancel", "retry", "pause", "resume", "reload", "drain", "undrain", "stacks", "tokens", "refused", "revoked"];

/** Entries that are asked for at once, and the most that the page holds. */
const PAGE = 200;
const MOST_ROWS = 5000;

/** Seconds between two looks for newer entries, while the newest are in sight. */
const FOLLOW_SECONDS = 5;

/** Milliseconds without a key after which a search begins by itself. */
const PAUSE = 300;

export class Audit {
  #app;
  #table;
  #fields = {};
  #rows = [];
  #next = null;
  #isLoading = false;
  #searches = 0;
  #typed;
  #poll = new Poll(() => this.#followNow(), FOLLOW_SECONDS, { isVisible: () => document.visibilityState === "visible" });

  constructor(app) {
    this.#app = app;
    const now = () => app.live.at;
    this.#table = new Table({
      label: t("ops.sections.audit"),
      key: row => row.number,
      onEnd: () => this.#loadMore(),
      columns: [
        { name: "at", heading: t("ops.columns.at"), show: (cell, row) => cells.time(cell, row.at, now()) },
        { name: "owner", heading: t("ops.columns.who"), show: (cell, row) => cells.text(cell, row.owner || t("ops.audit.nobody"), row.owner) },
        { name: "action", heading: t("ops.columns.action"), show: (cell, row) => cells.text(cell, nameOf(row.action)) },
        { name: "function", heading: t("ops.columns.function"), show: (cell, row) => cells.text(cell, row.function ?? "") },
        { name: "count", heading: t("ops.columns.count"), isNumber: true, show: (cell, row) => cells.text(cell, row.task || row.count > 1 ? count(row.count ?? 1) : "") },
        { name: "detail", heading: t("ops.columns.detail"), isWide: true, show: (cell, row) => showDetail(cell, row) },
      ],
    });
    const field = (name, control) => {
      control.id = newId("field");
      this.#fields[name] = control;
      return h("div", { class: "field" }, h("label", { for: control.id }, t(`ops.audit.${name}`)), control);
    };
    const owner = h("input", { type: "search", autocomplete: "off", spellcheck: "false" });
    const actions = h("select", {}, ...["", ...ACTIONS].map(value => h("option", { value }, value ? nameOf(value) : t("ops.audit.any"))));
    const form = h("form", { class: "search", role: "search", "aria-label": t("ops.audit.label") }, field("owner", owner), field("action", actions));
    form.addEventListener("submit", event => event.preventDefault());
    form.addEventListener("input", () => {
      clearTimeout(this.#typed);
      this.#typed = setTimeout(() => this.#search(), PAUSE);
    });
    this.element = h("section", {}, h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.audit")), form, this.#table.element);
  }

  open() {
    this.#search();
    this.#poll.start();
  }

  close() {
    this.#poll.stop();
  }

  update() {
    this.#table.redraw();
  }

  #ask(after) {
    const params = { limit: PAGE };
    if (after) params.after = after;
    for (const [name, control] of Object.entries(this.#fields)) if (control.value.trim()) params[name] = control.value.trim();
    return this.#app.client.call("taskd.audit", params);
  }

  async #search() {
    await this.#load(++this.#searches);
  }

  /** Show the newest entries, or also those after the ones that are shown. */
  async #load(number, after) {
    this.#isLoading = true;
    try {
      const { entries, next } = await this.#ask(after);
      if (number !== this.#searches) return;
      this.#rows = after ? [...this.#rows, ...entries] : entries;
      this.#next = next;
      this.#table.show(this.#rows, t("ops.audit.none"));
    } catch (error) {
      if (number === this.#searches) this.#table.show(this.#rows, error.message);
    } finally {
      this.#isLoading = false;
    }
  }

  #loadMore() {
    if (this.#next && !this.#isLoading && this.#rows.length < MOST_ROWS) this.#load(this.#searches, this.#next);
  }

  /** Look for newer entries, if the newest are in sight. */
  async #followNow() {
    if (!this.#table.isAtTop || this.#isLoading || this.#rows.length > PAGE) return;
    await this.#search();
  }
}

function nameOf(action) {
  const key = `ops.audit.actions.${action}`;
  return hasText(key) ? t(key) : action;
}

function showDetail(cell, { task, text }) {
  if (task) return cells.link(cell, text || task, hashOf({ section: "audit", task }), task);
  cells.text(cell, text ?? "", text);
}
