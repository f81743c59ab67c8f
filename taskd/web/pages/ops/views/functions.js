/** The section of the functions: what they cost, how often they fail, and a button to pause each. */
import { h } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { count, duration, percent } from "../format.js";
import { functionRows } from "../shape.js";
import { Table } from "../table.js";
import { failedTasksOf, tasksOf } from "./overview.js";

export class Functions {
  #app;
  #table;

  constructor(app) {
    this.#app = app;
    this.#table = new Table({
      label: t("ops.sections.functions"),
      key: row => row.name,
      empty: t("ops.functions.none"),
      order: { name: "name", isDown: false },
      columns: this.#columns(),
    });
    this.element = h("section", {}, h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.functions")), this.#table.element);
  }

  #columns() {
    const number = (name, write, more = {}) => ({
      name,
      heading: t(`ops.columns.${name}`),
      isNumber: true,
      sortBy: row => row[name],
      show: (cell, row) => cells.text(cell, write(row[name])),
      ...more,
    });
    return [
      {
        name: "name",
        heading: t("ops.columns.function"),
        isWide: true,
        sortBy: row => row.name,
        show: (cell, row) => cells.link(cell, row.name, tasksOf(row.name), row.name),
      },
      { name: "summary", heading: t("ops.columns.summary"), isWide: true, isMinor: true, show: (cell, row) => cells.text(cell, row.summary, row.summary) },
      {
        name: "status",
        heading: t("ops.columns.state"),
        show: (cell, row) => (row.isPaused || row.isGone ? cells.badgeCell(cell, row.isPaused ? "paused" : "gone", t(row.isPaused ? "ops.functions.paused" : "ops.functions.gone")) : cells.text(cell, "")),
      },
      number("ended", count),
      {
        name: "failures",
        heading: t("ops.columns.failures"),
        isNumber: true,
        sortBy: row => row.failures / (row.ended || 1),
        show: (cell, row) => (row.failures ? cells.link(cell, `${count(row.failures)} (${percent(row.failures, row.ended)})`, failedTasksOf(row.name)) : cells.text(cell, "0")),
      },
      number("run_p50", duration),
      number("run_p95", duration),
      number("longest", duration, { isMinor: true }),
      number("wait_p50", duration, { isMinor: true }),
      number("wait_p95", duration),
      number("running", count, { isMinor: true }),
      number("waiting", count),
      { name: "act", heading: t("ops.columns.act"), isBare: true, show: (cell, row) => cells.buttons(cell, this.#app.mayPause(row.name) && (row.isDurable || row.isPaused) ? [pauseButton(this.#app, row)] : []) },
    ];
  }

  update() {
    const { status, functions, queue } = this.#app.live;
    if (status) this.#table.show(functionRows(status, functions, queue, this.#app.covers));
  }
}

/** Return the button that pauses a function, or lets it go on. */
export function pauseButton(app, { name, isPaused }) {
  const verb = isPaused ? "resume" : "pause";
  return {
    name: verb,
    kind: isPaused ? "primary" : "",
    text: t(`ops.functions.${verb}`),
    label: t(`ops.functions.${verb}Of`, { name }),
    act: () => app.actions[verb](name),
  };
}
