/** A chart over time, drawn by uPlot, with a legend and a sentence for who does not see it. Colours come from the style. */
import { h, setAttribute, setText } from "../shared/dom.js";

/** The height of the drawing, in pixels. */
const HEIGHT = 190;

const scheme = matchMedia("(prefers-color-scheme: dark)");

export class Chart {
  #series;
  #write;
  #plot = null;
  #data = null;
  #canvas;
  #legend;
  #values;

  /**
   * `series` are `{ name, label, kind }`, `kind` being "line", "area" or "bars"; the colour of each is that of the
   * custom property `--chart-NAME`. `write` turns a value into a text.
   */
  constructor({ heading, series, write }) {
    this.#series = series;
    this.#write = write;
    this.#values = series.map(() => h("span", { class: "value" }));
    this.#legend = h(
      "ul",
      { class: "legend", "aria-hidden": "true" },
      ...series.map(({ name, label }, index) => h("li", {}, h("span", { class: `swatch ${name}` }), label, this.#values[index])),
    );
    this.#canvas = h("div", { class: "plot", role: "img" });
    this.element = h("figure", { class: "chart" }, h("figcaption", {}, h("h2", {}, heading), this.#legend), this.#canvas);
    new ResizeObserver(() => this.#resize()).observe(this.#canvas);
    scheme.addEventListener("change", () => this.#build());
  }

  /** Show columns: the times and then one for each series; `summary` says the same in a sentence. */
  show(data, summary) {
    const isAlike = this.#data !== null;
    this.#data = data;
    setAttribute(this.#canvas, "aria-label", summary);
    if (this.#plot && isAlike) this.#plot.setData(data);
    else this.#build();
    this.#showValues(null);
  }

  #resize() {
    const width = this.#canvas.clientWidth;
    if (!width) return;
    if (this.#plot) this.#plot.setSize({ width, height: HEIGHT });
    else this.#build();
  }

  #build() {
    this.#plot?.destroy();
    this.#plot = null;
    const width = this.#canvas.clientWidth;
    if (!this.#data || !width) return; // not in sight: the observer calls again
    this.#plot = new globalThis.uPlot(this.#options(width), this.#data, this.#canvas);
  }

  #options(width) {
    const color = name => resolved(this.#canvas, name);
    const axis = {
      stroke: color("--muted"),
      grid: { stroke: color("--line"), width: 1 },
      ticks: { show: false },
      font: `11px ${getComputedStyle(this.#canvas).fontFamily}`,
    };
    return {
      width,
      height: HEIGHT,
      padding: [8, 20, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 } },
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map(tickTime), space: 70, size: 26 },
        { ...axis, values: (_, ticks) => ticks.map(this.#write), size: 56 },
      ],
      series: [{}, ...this.#series.map(each => drawn(each, color(`--chart-${each.name}`)))],
      hooks: { setCursor: [plot => this.#showValues(plot.cursor.idx)] },
    };
  }

  /** Show the values at a place in the legend; at the end of the course if there is none. */
  #showValues(index) {
    const at = index ?? this.#data[0].length - 1;
    this.#values.forEach((element, place) => {
      const value = this.#data[place + 1][at];
      setText(element, value === undefined || value === null ? "–" : this.#write(value));
    });
  }
}

function drawn({ kind }, stroke) {
  const line = { stroke, width: 1.5, points: { show: false }, spanGaps: false };
  if (kind === "area") return { ...line, fill: faded(stroke, 0.18) };
  if (kind === "bars") return { ...line, width: 0, fill: stroke, paths: globalThis.uPlot.paths.bars({ size: [0.8, 24] }) };
  // A single point between two gaps has no line.
  return { ...line, points: { show: true, size: 3, fill: stroke, width: 0 } };
}

/** Return the colour that a custom property has at present: the property itself may have one for each scheme. */
function resolved(element, name) {
  element.style.color = `var(${name})`;
  const { color } = getComputedStyle(element);
  element.style.color = "";
  return color;
}

function faded(color, part) {
  return `color-mix(in srgb, ${color} ${part * 100}%, transparent)`;
}

function tickTime(at) {
  const when = new Date(at * 1000);
  const two = number => String(number).padStart(2, "0");
  if (when.getHours() === 0 && when.getMinutes() === 0) {
    return when.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  }
  const seconds = when.getSeconds() ? `:${two(when.getSeconds())}` : "";
  return `${two(when.getHours())}:${two(when.getMinutes())}${seconds}`;
}
