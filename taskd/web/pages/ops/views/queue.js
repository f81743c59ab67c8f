/** The section of the queue: what waits, of which function and owner, and for how long. */
import { h } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { age, count } from "../format.js";
import { hashOf } from "../route.js";
import { queueBy } from "../shape.js";
import { Table } from "../table.js";
import { pauseButton } from "./functions.js";

export class Queue {
  #app;
  #byFunction;
  #byOwner;
  #parties;

  constructor(app) {
    this.#app = app;
    this.#byFunction = this.#table("function", [{ name: "act", heading: t("ops.columns.act"), isBare: true, show: (cell, row) => this.#showPause(cell, row) }]);
    this.#byOwner = this.#table("owner");
    this.#parties = new Table({
      label: t("ops.queue.parties"),
      key: row => row.party,
      empty: t("ops.queue.noParties"),
      kind: "short",
      columns: [
        { name: "party", heading: t("ops.columns.party"), isWide: true, show: (cell, row) => cells.text(cell, row.party, row.party) },
        { name: "waiting", heading: t("ops.columns.waiting"), isNumber: true, show: (cell, row) => cells.text(cell, count(row.waiting)) },
        { name: "connections", heading: t("ops.columns.connections"), isNumber: true, show: (cell, row) => cells.text(cell, count(row.connections)) },
      ],
    });
    this.element = h(
      "section",
      { class: "queue" },
      h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.queue")),
      h(
        "div",
        { class: "columns" },
        h("div", {}, h("h2", {}, t("ops.queue.byFunction")), this.#byFunction.element),
        h("div", {}, h("h2", {}, t("ops.queue.byOwner")), this.#byOwner.element),
      ),
      h("div", {}, h("h2", {}, t("ops.queue.parties")), h("p", { class: "hint" }, t("ops.queue.partiesHint")), this.#parties.element),
    );
  }

  #table(member, more = []) {
    const tasksOf = (row, state) => hashOf({ section: "tasks", query: new URLSearchParams({ [member]: row.name, state }).toString() });
    const number = name => ({
      name,
      heading: t(`ops.columns.${name}`),
      isNumber: true,
      sortBy: row => row[name],
      show: (cell, row) => cells.text(cell, count(row[name])),
    });
    return new Table({
      label: t(member === "owner" ? "ops.queue.byOwner" : "ops.queue.byFunction"),
      key: row => (row.name === null ? "others" : `of ${row.name}`),
      empty: t("ops.queue.empty"),
      kind: "short",
      columns: [
        {
          name: "name",
          heading: t(`ops.columns.${member}`),
          isWide: true,
          sortBy: row => row.name,
          show: (cell, row) => (row.name ? cells.link(cell, row.name, tasksOf(row, "waiting"), row.name) : cells.text(cell, t(row.name === "" ? "ops.queue.nobody" : "ops.queue.others"))),
        },
        number("waiting"),
        { ...number("oldest"), show: (cell, row) => cells.text(cell, row.oldest === null ? "–" : age(row.oldest)) },
        number("running"),
        { ...number("scheduled"), isMinor: true },
        ...more,
      ],
    });
  }

  #showPause(cell, { name }) {
    const isPaused = this.#app.live.status?.store?.paused.includes(name);
    cells.buttons(cell, name && this.#app.mayPause(name) ? [pauseButton(this.#app, { name, isPaused })] : []);
  }

  update() {
    const { queue, status } = this.#app.live;
    const missing = t("ops.notAnswered");
    this.#byFunction.show(queueBy("function", queue ?? []), queue ? t("ops.queue.empty") : missing);
    this.#byOwner.show(queueBy("owner", queue ?? []), queue ? t("ops.queue.empty") : missing);
    this.#parties.show(status?.parties ?? []);
  }
}
