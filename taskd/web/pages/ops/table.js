/**
 * A table of any length, of which only the rows in sight are in the document.
 *
 * Its columns are `{ name, heading, show(cell, row), sortBy, isNumber, isWide, isMinor, isBare }`: `show` fills a cell, which may be
 * there already; with `sortBy(row)` the heading sorts by it; `isMinor` columns are left out on narrow screens,
 * the rest of the width goes to those that are `isWide`, and the heading of an `isBare` one is for screen readers alone. With a `selection` each row has a checkbox.
 *
 * The rows' links, buttons and boxes are one stop of the tab key: the arrow keys go from row to row.
 */
import { h, newId, setAttribute, setText, showEach } from "../shared/dom.js";
import { t } from "../shared/i18n.js";
import { scrolledTo, visible } from "./window.js";

/** The height of rows before the first one is there to be measured. */
const USUAL_HEIGHT = 34;

const CONTROLS = "a, button, input";

/** Row keys: how far each moves; the pages are filled in from the height. */
const MOVES = { ArrowDown: () => 1, ArrowUp: () => -1, PageDown: page => page, PageUp: page => -page };

export class Table {
  #columns;
  #key;
  #selection;
  #onEnd;
  #empty;
  #rows = [];
  #order;
  #active = 0;
  #isDue = false;
  #rowHeight = USUAL_HEIGHT;
  #head;
  #body = h("tbody");
  #above = spacer();
  #below = spacer();
  #table;
  #allBox;
  #note;

  /** `onEnd` is called when the last rows are in sight; `order` is `{ name, isDown }`, the first order. */
  constructor({ label, columns, key, selection, onEnd = () => {}, order = null, empty, kind = "" }) {
    this.#columns = columns;
    this.#key = key;
    this.#selection = selection;
    this.#onEnd = onEnd;
    this.#order = order;
    this.#empty = empty;
    this.#head = h("tr", {}, selection && this.#selectAllHeading(), ...columns.map(column => this.#heading(column)));
    this.#table = h("table", { class: `rows ${kind}` }, h("thead", {}, this.#head), this.#above, this.#body, this.#below);
    setAttribute(this.#table, "aria-label", label);
    this.#note = h("p", { class: "empty", id: newId("empty") });
    this.element = h("div", { class: "table", role: "region", tabindex: 0, "aria-label": label }, this.#table, this.#note);
    this.element.addEventListener("scroll", () => this.#draw(), { passive: true });
    this.element.addEventListener("keydown", event => this.#pressed(event));
    this.element.addEventListener("focusin", event => this.#focused(event));
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  get rows() {
    return this.#rows;
  }

  /** Whether the first row is in sight: otherwise new ones above would move what is being read. */
  get isAtTop() {
    return this.element.scrollTop < this.#rowHeight;
  }

  /** Show these rows; the place that is in sight stays. `empty` says why there are none. */
  show(rows, empty = this.#empty) {
    this.#empty = empty;
    this.#rows = this.#sorted(rows);
    this.#draw();
  }

  /** Draw the rows again in the next frame, since what their cells show has changed. */
  #draw() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#drawNow();
    });
  }

  redraw() {
    this.#draw();
  }

  #drawNow() {
    const { scrollTop: top, clientHeight: height } = this.element;
    if (!height) return; // not in sight
    const count = this.#rows.length;
    this.#active = Math.max(0, Math.min(this.#active, count - 1));
    const { first, last, above, below } = visible({ count, rowHeight: this.#rowHeight, top, height });
    const shown = this.#rows.slice(first, last).map((row, index) => ({ row, index: first + index }));
    showEach(this.#body, shown, {
      key: ({ row }) => this.#key(row),
      create: () => this.#newRow(),
      update: (element, { row, index }) => this.#fill(element, row, index),
    });
    setHeight(this.#above, above);
    setHeight(this.#below, below);
    setAttribute(this.#table, "aria-rowcount", count + 1);
    this.#note.hidden = count > 0;
    setText(this.#note, count ? "" : (this.#empty ?? ""));
    this.#showSelectAll();
    this.#measure();
    if (last === count && count) this.#onEnd();
  }

  #measure() {
    const height = this.#body.firstElementChild?.offsetHeight;
    if (!height || height === this.#rowHeight) return;
    this.#rowHeight = height;
    this.#draw();
  }

  #newRow() {
    const cells = this.#columns.map(column => h("td", { class: classOf(column) }));
    if (!this.#selection) return h("tr", {}, ...cells);
    const box = h("input", { type: "checkbox", onclick: event => this.#boxClicked(event) });
    return h("tr", {}, h("td", { class: "box" }, h("label", {}, box)), ...cells);
  }

  #fill(element, row, index) {
    setAttribute(element, "aria-rowindex", index + 2);
    const cells = [...element.children];
    if (this.#selection) {
      const isSelected = this.#selection.has(this.#key(row));
      const box = cells.shift().querySelector("input");
      box.checked = isSelected;
      setAttribute(box, "aria-label", t("ops.table.select", { row: this.#key(row) }));
      element.classList.toggle("selected", isSelected);
    }
    this.#columns.forEach((column, place) => column.show(cells[place], row));
    for (const control of element.querySelectorAll(CONTROLS)) {
      const stop = index === this.#active ? 0 : -1;
      if (control.tabIndex !== stop) control.tabIndex = stop;
    }
  }

  // --- the order ---

  #heading(column) {
    const { name, sortBy, isBare } = column;
    const attributes = { scope: "col", class: classOf(column) };
    const heading = isBare ? h("span", { class: "visually-hidden" }, column.heading) : column.heading;
    if (!sortBy) return h("th", attributes, heading);
    const element = h("th", attributes, h("button", { type: "button", onclick: () => this.#sortBy(name) }, heading));
    setAttribute(element, "data-name", name);
    this.#showOrder([element]);
    return element;
  }

  #sortBy(name) {
    const isSame = this.#order?.name === name;
    // Numbers are looked at from the greatest down, names from A on.
    const { isNumber } = this.#columns.find(column => column.name === name);
    this.#order = { name, isDown: isSame ? !this.#order.isDown : Boolean(isNumber) };
    this.#showOrder(this.#head.children);
    this.show(this.#rows);
  }

  #showOrder(headings) {
    for (const each of headings) {
      const isOrder = each.dataset.name && each.dataset.name === this.#order?.name;
      setAttribute(each, "aria-sort", isOrder && (this.#order.isDown ? "descending" : "ascending"));
    }
  }

  #sorted(rows) {
    const column = this.#order && this.#columns.find(({ name }) => name === this.#order.name);
    if (!column) return rows;
    const sign = this.#order.isDown ? -1 : 1;
    return [...rows].sort((a, b) => sign * compare(column.sortBy(a), column.sortBy(b)));
  }

  // --- the selection ---

  #selectAllHeading() {
    this.#allBox = h("input", { type: "checkbox", "aria-label": t("ops.table.selectAll"), onclick: () => this.#toggleAll() });
    return h("th", { scope: "col", class: "box" }, h("label", {}, this.#allBox));
  }

  #toggleAll() {
    if (this.#areAllSelected) this.#selection.clear();
    else this.#selection.add(this.#rows.map(this.#key));
    this.#draw();
  }

  get #areAllSelected() {
    return this.#rows.length > 0 && this.#rows.every(row => this.#selection.has(this.#key(row)));
  }

  #showSelectAll() {
    if (!this.#selection) return;
    this.#allBox.checked = this.#areAllSelected;
    this.#allBox.indeterminate = this.#selection.size > 0 && !this.#allBox.checked;
  }

  #boxClicked(event) {
    const key = event.target.closest("tr").dataset.key;
    if (event.shiftKey) this.#selection.extend(key, this.#rows.map(row => String(this.#key(row))));
    else this.#selection.toggle(key);
    this.#draw();
  }

  // --- the keyboard ---

  #focused(event) {
    const element = event.target.closest("tbody tr");
    if (!element?.dataset.key) return;
    this.#active = this.#rows.findIndex(row => String(this.#key(row)) === element.dataset.key);
    this.#draw();
  }

  #pressed(event) {
    if (event.altKey || event.metaKey || !this.#rows.length) return;
    if (event.ctrlKey) return this.#pressedWithControl(event);
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.#rowHeight) - 2);
    const isInRow = Boolean(event.target.closest("tbody tr"));
    let to = this.#active;
    if (event.key in MOVES) to += isInRow ? MOVES[event.key](page) : 0;
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = this.#rows.length - 1;
    else return;
    event.preventDefault();
    const place = isInRow ? [...event.target.closest("tr").querySelectorAll(CONTROLS)].indexOf(event.target) : -1;
    this.#goTo(Math.max(0, Math.min(to, this.#rows.length - 1)), place, event.shiftKey);
  }

  #pressedWithControl(event) {
    if (event.key !== "a" || !this.#selection) return;
    event.preventDefault();
    this.#selection.add(this.#rows.map(this.#key));
    this.#draw();
  }

  #goTo(index, place, isExtended) {
    this.#active = index;
    const key = String(this.#key(this.#rows[index]));
    if (isExtended && this.#selection) this.#selection.extend(key, this.#rows.map(row => String(this.#key(row))));
    const { scrollTop: top, clientHeight: height } = this.element;
    const header = this.#head.offsetHeight;
    this.element.scrollTop = scrolledTo(index, { rowHeight: this.#rowHeight, top, height, header });
    this.#drawNow();
    const element = [...this.#body.children].find(each => each.dataset.key === key);
    const controls = element.querySelectorAll(CONTROLS);
    (controls[place] ?? controls[0] ?? this.element).focus({ preventScroll: true });
  }
}

function spacer() {
  return h("tbody", { "aria-hidden": "true", class: "spacer" }, h("tr", {}, h("td")));
}

function setHeight(element, height) {
  element.hidden = !height;
  element.firstElementChild.firstElementChild.style.height = `${height}px`;
}

function classOf({ isNumber, isWide, isMinor }) {
  return [isNumber && "number", isWide && "wide", isMinor && "minor"].filter(Boolean).join(" ");
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return a < b ? -1 : 1;
}
