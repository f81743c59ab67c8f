/** The section of the workers: what each does and for how long, and a look at what it does right now; and the other nodes. */
import { h } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { age, bytes, count } from "../format.js";
import { workerRows } from "../shape.js";
import { Table } from "../table.js";
import { NodesPanel } from "./nodes.js";
import { stackButton } from "./overview.js";

export class Workers {
  #app;
  #table;
  #all;
  #nodes;
  #heading = h("h2", {}, t("ops.nodes.workersOfThis"));

  constructor(app) {
    this.#app = app;
    this.#table = new Table({
      label: t("ops.sections.workers"),
      key: row => row.number,
      empty: t("ops.workers.none"),
      columns: this.#columns(),
    });
    this.#nodes = new NodesPanel(app);
    this.#all = h("button", { type: "button", class: "button", onclick: () => app.actions.stacks() }, t("ops.stacks.all"));
    this.element = h(
      "section",
      {},
      h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.workers")),
      this.#nodes.element,
      this.#heading,
      h("div", { class: "toolbar" }, this.#all),
      this.#table.element,
    );
  }

  #columns() {
    const text = (name, write, more = {}) => ({ name, heading: t(`ops.columns.${name}`), show: (cell, row) => cells.text(cell, write(row)), ...more });
    const number = { isNumber: true };
    return [
      text("worker", row => String(row.number), number),
      { name: "state", heading: t("ops.columns.state"), show: (cell, row) => cells.badgeCell(cell, row.stopping ? "stopping" : row.state, stateOf(row)) },
      { name: "function", heading: t("ops.columns.function"), isWide: true, show: (cell, row) => cells.text(cell, row.function ?? "", row.function) },
      text("owner", row => row.owner ?? "", { isMinor: true }),
      text("seconds", row => age(row.seconds), number),
      text("memory", row => (row.memory_kib === null ? "–" : bytes(row.memory_kib * 1024)), number),
      text("ran", row => count(row.done), { isNumber: true, isMinor: true }),
      text("pid", row => String(row.pid ?? "–"), { isNumber: true, isMinor: true }),
      text("generation", row => String(row.generation), { isNumber: true, isMinor: true }),
      { name: "act", heading: t("ops.columns.act"), isBare: true, show: (cell, row) => cells.buttons(cell, this.#app.canOperate ? this.#buttons(row) : []) },
    ];
  }

  #buttons(row) {
    const cancel = {
      name: "cancel",
      kind: "danger",
      text: t("ops.cancel.verb"),
      label: t("ops.stop.verbOf", { worker: row.number }),
      act: () => this.#app.actions.cancelRunning({ ...row, number: row.number }),
    };
    return [stackButton(this.#app, row), ...(row.task !== null && !row.stopping ? [cancel] : [])];
  }

  update() {
    const { status } = this.#app.live;
    this.#nodes.update();
    this.#heading.hidden = this.#nodes.element.hidden;
    this.#all.hidden = !this.#app.canOperate;
    if (status) this.#table.show(workerRows(status));
  }
}

function stateOf({ state, stopping }) {
  return stopping ? t(`ops.workers.${stopping}`) : t(`ops.workerStates.${state}`);
}
