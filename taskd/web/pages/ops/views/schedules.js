/** The section of the schedules: what the server runs by itself, and when next. */
import { h } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { Table } from "../table.js";
import { pauseButton } from "./functions.js";
import { tasksOf } from "./overview.js";

export class Schedules {
  #app;
  #table;

  constructor(app) {
    this.#app = app;
    const now = () => app.live.at;
    const time = (name, isRelative) => ({
      name: isRelative ? `${name}In` : name,
      heading: t(`ops.columns.${isRelative ? `${name}In` : name}`),
      isMinor: !isRelative && name === "next",
      sortBy: row => row[name],
      show: (cell, row) => cells.time(cell, row[name], now(), { isRelative }),
    });
    this.#table = new Table({
      label: t("ops.sections.schedules"),
      key: row => row.function,
      empty: t("ops.schedules.none"),
      columns: [
        {
          name: "function",
          heading: t("ops.columns.function"),
          isWide: true,
          sortBy: row => row.function,
          show: (cell, row) => cells.link(cell, row.function, tasksOf(row.function)),
        },
        { name: "schedule", heading: t("ops.columns.schedule"), show: (cell, row) => cells.text(cell, row.schedule) },
        time("next", true),
        time("next", false),
        time("last", true),
        { name: "act", heading: t("ops.columns.act"), isBare: true, show: (cell, row) => this.#showPause(cell, row) },
      ],
    });
    this.element = h("section", {}, h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.schedules")), this.#table.element);
  }

  #showPause(cell, { function: name }) {
    const isPaused = this.#app.live.status.store?.paused.includes(name);
    cells.buttons(cell, this.#app.mayPause(name) ? [pauseButton(this.#app, { name, isPaused })] : []);
  }

  update() {
    const { status } = this.#app.live;
    if (status) this.#table.show(status.schedules);
  }
}
