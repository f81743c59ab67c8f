/** The section of the audit log: who has done what, newest first. */
import { h, newId } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { Poll } from "../poll.js";
import { hashOf } from "../route.js";
import { Table } from "../table.js";

const PAGE = 200;
const MOST_ROWS = 5000;
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
      key: row => row.id,
      onEnd: () => this.#loadMore(),
      columns: [
        { name: "at", heading: t("ops.columns.at"), show: (cell, row) => cells.time(cell, row.at, now()) },
        { name: "owner", heading: t("ops.columns.who"), show: (cell, row) => cells.text(cell, row.owner || t("ops.audit.nobody"), row.owner) },
        { name: "action", heading: t("ops.columns.action"), show: (cell, row) => cells.text(cell, row.action) },
        { name: "function", heading: t("ops.columns.function"), show: (cell, row) => cells.text(cell, row.function ?? "") },
        { name: "detail", heading: t("ops.columns.detail"), isWide: true, show: (cell, row) => showDetail(cell, row) },
      ],
    });
    const field = name => {
      const id = newId("field");
      this.#fields[name] = h("input", { type: "search", id, autocomplete: "off", spellcheck: "false" });
      return h("div", { class: "field" }, h("label", { for: id }, t(`ops.audit.${name}`)), this.#fields[name]);
    };
    const form = h("form", { class: "search", role: "search", "aria-label": t("ops.audit.label") }, field("owner"), field("action"));
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
    const number = ++this.#searches;
    this.#rows = [];
    this.#next = null;
    await this.#load(number);
  }

  async #load(number, after) {
    this.#isLoading = true;
    try {
      const { entries, next } = await this.#ask(after);
      if (number !== this.#searches) return;
      this.#rows.push(...entries);
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
    if (!this.#table.isAtTop || this.#isLoading || !this.#rows.length || this.#rows.length > PAGE) return;
    await this.#search();
  }
}

function showDetail(cell, row) {
  if (row.task) return cells.link(cell, row.detail || row.task, hashOf({ section: "audit", task: row.task }), row.task);
  cells.text(cell, row.detail ?? "", row.detail);
}
