/** The panel of the nodes that share the store: what each has and does, and a button to drain it. */
import { h } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { age, count } from "../format.js";
import { nodeRows } from "../shape.js";
import { Table } from "../table.js";

/** The marks of the states of nodes, which are those of servers. */
const MARKS = { ready: "ready", draining: "draining", silent: "unready" };

export class NodesPanel {
  #app;
  #table;

  constructor(app) {
    this.#app = app;
    this.#table = new Table({
      label: t("ops.nodes.heading"),
      key: row => row.node,
      kind: "short",
      columns: this.#columns(),
    });
    this.element = h("div", { hidden: true }, h("h2", {}, t("ops.nodes.heading")), this.#table.element);
  }

  #columns() {
    const text = (name, write, more = {}) => ({ name, heading: t(`ops.columns.${name}`), show: (cell, row) => cells.text(cell, write(row)), ...more });
    const number = (name, write) => text(name, write, { isNumber: true });
    const listed = (name, values) => ({
      name,
      heading: t(`ops.columns.${name}`),
      isMinor: true,
      show: (cell, row) => cells.text(cell, name === "functions" ? count(values(row).length) : values(row).join(", "), values(row).join(", ")),
    });
    return [
      number("node", row => String(row.node)),
      { name: "name", heading: t("ops.columns.name"), isWide: true, show: (cell, row) => cells.text(cell, row.this ? t("ops.nodes.this", row) : row.name, row.name) },
      { name: "state", heading: t("ops.columns.state"), show: (cell, row) => cells.badgeCell(cell, MARKS[row.state], t(`ops.nodes.states.${row.state}`)) },
      listed("labels", row => row.labels),
      { ...listed("functions", row => row.functions), isNumber: true },
      number("workers", row => count(row.workers)),
      number("running", row => count(row.running)),
      number("claimed", row => count(row.claimed)),
      text("version", row => row.version, { isMinor: true }),
      { name: "since", heading: t("ops.columns.since"), isMinor: true, show: (cell, row) => cells.time(cell, row.started, this.#app.live.at) },
      number("seen", row => t("ops.nodes.ago", { time: age(row.seen_ago) })),
      { name: "act", heading: t("ops.columns.act"), isBare: true, show: (cell, row) => cells.buttons(cell, this.#app.canOperate ? [this.#drainButton(row)] : []) },
    ];
  }

  #drainButton(row) {
    return {
      name: row.draining ? "undo" : "drain",
      text: t(row.draining ? "ops.drain.undo" : "ops.drain.button"),
      label: t(row.draining ? "ops.nodes.undoOf" : "ops.nodes.drainOf", { node: row.node }),
      act: () => this.#app.actions.drainNode(row),
    };
  }

  update() {
    const rows = nodeRows(this.#app.live.nodes);
    this.element.hidden = rows.length === 0;
    this.#table.show(rows);
  }
}
