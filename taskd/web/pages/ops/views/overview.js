/** The first section: what an operator looks at in the morning, and at three at night. */
import { h, setAttribute, setText, showEach } from "../../shared/dom.js";
import { t } from "../../shared/i18n.js";
import * as cells from "../cells.js";
import { Chart } from "../chart.js";
import { age, bytes, count, duration, percent, rate } from "../format.js";
import { RANGES, columns, totals } from "../history.js";
import { functionRows, failuresOf, endedOf, workerCounts, workerRows } from "../shape.js";
import { Table } from "../table.js";
import { hashOf } from "../route.js";

/** Rows of the short lists. */
const LONGEST = 6;

/** The range of the charts that is not asked for: the last five minutes, from the answers of the page itself. */
const NOW = "now";

export class Overview {
  #app;
  #tiles = h("dl", { class: "tiles" });
  #range = "hour";
  #rangeBoxes;
  #functionBox;
  #throughput;
  #times;
  #waiting;
  #running;
  #failing;

  constructor(app) {
    this.#app = app;
    this.#throughput = new Chart({
      heading: t("ops.charts.throughput"),
      series: [
        { name: "done", label: t("ops.charts.done"), kind: "area" },
        { name: "failed", label: t("ops.charts.failed"), kind: "bars" },
      ],
      write: rate,
    });
    this.#times = new Chart({
      heading: t("ops.charts.times"),
      series: [
        { name: "wait", label: t("ops.charts.waitMean"), kind: "line" },
        { name: "run", label: t("ops.charts.runMean"), kind: "line" },
        { name: "wait95", label: t("ops.charts.waitP95"), kind: "line" },
        { name: "run95", label: t("ops.charts.runP95"), kind: "line" },
      ],
      write: duration,
    });
    this.#waiting = new Chart({
      heading: t("ops.charts.load"),
      series: [
        { name: "waiting", label: t("ops.charts.waiting"), kind: "area" },
        { name: "running", label: t("ops.charts.running"), kind: "line" },
      ],
      write: count,
    });
    this.#running = runningTable(app);
    this.#failing = failingTable();
    this.#rangeBoxes = this.#ranges();
    this.#functionBox = h("select", { id: "history-function", onchange: () => this.#askHistory() });
    this.element = h(
      "section",
      { class: "overview" },
      h("h1", { class: "visually-hidden", tabindex: -1 }, t("ops.sections.overview")),
      this.#tiles,
      h(
        "div",
        { class: "toolbar" },
        this.#rangeBoxes,
        h("label", { for: "history-function", class: "inline" }, t("ops.charts.of")),
        this.#functionBox,
      ),
      h("div", { class: "charts" }, this.#throughput.element, this.#times.element, this.#waiting.element),
      h(
        "div",
        { class: "columns" },
        h("div", {}, h("h2", {}, t("ops.overview.longest")), this.#running.element),
        h("div", {}, h("h2", {}, t("ops.overview.failing")), this.#failing.element),
      ),
    );
  }

  #ranges() {
    const choice = name => {
      const id = `range-${name}`;
      const box = h("input", { type: "radio", name: "range", id, value: name, onchange: () => this.#askHistory(name) });
      box.checked = name === this.#range;
      return [box, h("label", { for: id }, t(`ops.ranges.${name}`))];
    };
    const names = [NOW, ...Object.keys(RANGES)];
    return h("fieldset", { class: "segments" }, h("legend", { class: "visually-hidden" }, t("ops.ranges.legend")), ...names.map(choice));
  }

  #askHistory(range = this.#range) {
    this.#range = range;
    if (range !== NOW) this.#app.live.askHistory(range, this.#functionBox.value || null);
    this.update();
  }

  update() {
    const { status, functions, queue } = this.#app.live;
    if (!status) return;
    this.#showTiles(status);
    const rows = functionRows(status, functions, queue, this.#app.covers);
    this.#showFunctions(rows.map(({ name }) => name));
    this.#showCharts();
    this.#running.show(workerRows(status).filter(each => each.function !== null).slice(0, LONGEST));
    this.#failing.show(rows.filter(row => row.failures).sort((a, b) => b.failures - a.failures).slice(0, LONGEST));
  }

  // --- figures ---

  #showTiles(status) {
    showEach(this.#tiles, tilesOf(status, this.#app.live), {
      key: tile => tile.name,
      create: ({ name }) => h("div", {}, h("dt", {}, t(`ops.tiles.${name}`)), h("dd", { class: "figure" }), h("dd", { class: "more" })),
      update: (element, { value, more, level, href }) => {
        setAttribute(element, "class", level ? `tile ${level}` : "tile");
        if (href) cells.link(element.children[1], value, href);
        else setText(element.children[1], value);
        setText(element.children[2], more);
      },
    });
  }

  #showFunctions(names) {
    const shown = ["", ...names];
    if (this.#functionBox.options.length === shown.length) return;
    const { value } = this.#functionBox;
    this.#functionBox.replaceChildren(...shown.map(name => h("option", { value: name }, name || t("ops.charts.all"))));
    this.#functionBox.value = value;
  }

  // --- charts ---

  #showCharts() {
    const { live } = this.#app;
    this.#functionBox.disabled = this.#range === NOW;
    this.#waiting.element.hidden = this.#range !== NOW;
    this.#times.element.hidden = this.#range === NOW;
    if (this.#range === NOW) return this.#showNow(live.rates.course);
    if (!live.history) return;
    const found = columns(live.history, this.#range, live.at);
    const { succeeded, failures, waitMax, runMax } = totals(found);
    const perSecond = values => values.map((value, index) => value / found.seconds[index]);
    this.#throughput.show(
      [found.at, perSecond(found.succeeded.map((value, index) => value + found.failures[index])), perSecond(found.failures)],
      t("ops.charts.throughputSummary", { range: t(`ops.ranges.${this.#range}`), succeeded, failures }),
    );
    this.#times.show(
      [found.at, found.waitMean, found.runMean, found.waitP95, found.runP95],
      t("ops.charts.timesSummary", { range: t(`ops.ranges.${this.#range}`), wait: duration(waitMax), run: duration(runMax) }),
    );
  }

  #showNow({ at, ended, failed, waiting, running }) {
    const last = values => values.at(-1) ?? 0;
    const range = t("ops.ranges.now");
    this.#throughput.show([at, ended, failed], t("ops.charts.nowSummary", { range, ended: rate(last(ended)), failed: rate(last(failed)) }));
    this.#waiting.show([at, waiting, running], t("ops.charts.loadSummary", { waiting: last(waiting), running: last(running) }));
  }
}

/** Return the figures at the top: `{ name, value, more, level }`. */
function tilesOf(status, live) {
  const { present } = live.rates;
  const { counts, budget, store } = status;
  const failures = failuresOf(counts);
  const busy = status.workers.filter(({ state }) => state === "busy").length;
  const parts = workerCounts(status).filter(([state]) => state !== "busy");
  const scheduled = live.queue?.reduce((sum, row) => sum + row.scheduled, 0) ?? 0;
  const stored = live.queue?.reduce((sum, row) => sum + row.waiting, 0) ?? 0;
  const waiting = Math.max(status.waiting, stored);
  return [
    {
      name: "throughput",
      value: t("ops.perSecond", { rate: rate(present?.ended ?? null) }),
      more: t("ops.tiles.sinceStart", { number: endedOf(counts), time: age(status.uptime) }),
    },
    {
      name: "failures",
      value: t("ops.perSecond", { rate: rate(present?.failures ?? null) }),
      more: t("ops.tiles.ofAll", { number: failures, part: percent(failures, endedOf(counts)) }),
      level: present?.failures ? "bad" : null,
      href: hashOf({ section: "tasks", query: "state=failed" }),
    },
    {
      name: "waiting",
      value: count(waiting),
      more: waiting ? t("ops.tiles.oldest", { time: age(oldestOf(status, live.queue)) }) : t("ops.tiles.noneWaits"),
      level: status.waiting >= status.max_queue ? "bad" : null,
      href: hashOf({ section: "queue" }),
    },
    {
      name: "running",
      value: count(status.running),
      more: scheduled ? t("ops.tiles.scheduled", { count: scheduled }) : t("ops.tiles.noneScheduled"),
      href: hashOf({ section: "tasks", query: "state=running" }),
    },
    {
      name: "workers",
      value: t("ops.tiles.busy", { busy, all: status.workers.length }),
      more: parts.map(([state, number]) => t("ops.tiles.inState", { number, state: t(`ops.workerStates.${state}`) })).join(", ") || t("ops.tiles.allBusy"),
      href: hashOf({ section: "workers" }),
    },
    {
      name: "memory",
      value: bytes(budget.held),
      more: t("ops.tiles.ofBudget", { part: percent(budget.held, budget.limit), limit: bytes(budget.limit) }),
      level: budget.held > budget.limit * 0.9 ? "warn" : null,
    },
    {
      name: "store",
      value: store ? count(store.claimed) : "–",
      more: store ? t(store.lasting ? "ops.tiles.lasting" : "ops.tiles.inMemory") : t("ops.tiles.noStore"),
      level: store?.fault ? "bad" : null,
    },
  ];
}

function oldestOf(status, queue) {
  const ages = (queue ?? []).map(({ oldest }) => oldest ?? 0);
  return Math.max(status.oldest_waiting ?? 0, ...ages);
}

// --- short lists ---

function runningTable(app) {
  return new Table({
    label: t("ops.overview.longest"),
    key: row => row.number,
    empty: t("ops.overview.idle"),
    kind: "short",
    columns: [
      { name: "function", heading: t("ops.columns.function"), isWide: true, show: (cell, row) => cells.text(cell, row.function, row.function) },
      { name: "owner", heading: t("ops.columns.owner"), isMinor: true, show: (cell, row) => cells.text(cell, row.owner ?? "") },
      { name: "worker", heading: t("ops.columns.worker"), isNumber: true, show: (cell, row) => cells.text(cell, String(row.number)) },
      { name: "seconds", heading: t("ops.columns.runs"), isNumber: true, show: (cell, row) => cells.text(cell, age(row.seconds)) },
      {
        name: "act",
        heading: t("ops.columns.act"),
        isBare: true,
        show: (cell, row) => cells.buttons(cell, app.canOperate ? [stackButton(app, row)] : []),
      },
    ],
  });
}

/** Return the button that shows what a worker does right now. */
export function stackButton(app, { number }) {
  return {
    name: "stack",
    text: t("ops.stacks.verb"),
    label: t("ops.stacks.verbOf", { worker: number }),
    act: () => app.actions.stacks(number),
  };
}

function failingTable() {
  return new Table({
    label: t("ops.overview.failing"),
    key: row => row.name,
    empty: t("ops.overview.noFailures"),
    kind: "short",
    columns: [
      {
        name: "function",
        heading: t("ops.columns.function"),
        isWide: true,
        show: (cell, row) => cells.link(cell, row.name, failedTasksOf(row.name), row.name),
      },
      { name: "failures", heading: t("ops.columns.failures"), isNumber: true, show: (cell, row) => cells.text(cell, count(row.failures)) },
      {
        name: "share",
        heading: t("ops.columns.share"),
        show: (cell, row) => cells.share(cell, percent(row.failures, row.ended), row.failures / (row.ended || 1)),
      },
    ],
  });
}

/** Return the place with the tasks of a function. */
export function tasksOf(name, more = {}) {
  return hashOf({ section: "tasks", query: new URLSearchParams({ ...more, function: name }).toString() });
}

/** Return the place with the failed tasks of a function. */
export function failedTasksOf(name) {
  return tasksOf(name, { state: "failed" });
}
