/** What fills the cells of tables: each function takes the cell, which may have an older content, and changes what differs. */
import { h, setAttribute, setText } from "../shared/dom.js";
import { t } from "../shared/i18n.js";
import { exact, moment, relative } from "./format.js";

/** Show a text, with a longer one for who points at it. */
export function text(cell, value, title) {
  setText(cell, value);
  setAttribute(cell, "title", title);
}

/** Return the only child of a cell, made by `create` if it is not there yet. */
export function only(cell, create) {
  if (!cell.firstElementChild) cell.replaceChildren(create());
  return cell.firstElementChild;
}

/** Show a link to a place of the page. */
export function link(cell, value, href, title) {
  const element = only(cell, () => h("a", {}));
  setText(element, value);
  setAttribute(element, "href", href);
  setAttribute(element, "title", title);
}

/** Show the state of a task, a worker or a function: a word, with a mark and a colour. */
export function badge(element, state, word = t(`states.${state}`)) {
  setAttribute(element, "class", "state");
  setAttribute(element, "data-state", state);
  setText(element, word);
}

export function badgeCell(cell, state, word) {
  badge(only(cell, () => h("span")), state, word);
}

/** Show a moment: as a time, or, with `isRelative`, by how far it is from now. */
export function time(cell, at, now, { isRelative = false } = {}) {
  if (at === null || at === undefined) return text(cell, "–");
  const element = only(cell, () => h("time"));
  setText(element, isRelative ? relative(at, now) : moment(at, now));
  setAttribute(element, "datetime", new Date(at * 1000).toISOString());
  setAttribute(element, "title", exact(at));
}

/** Show a part of a whole as a bar behind its text. */
export function share(cell, value, part) {
  const meter = only(cell, () => h("span", { class: "share" }, h("span", { class: "bar" }), h("span")));
  meter.firstElementChild.style.inlineSize = `${Math.round(part * 100)}%`;
  setText(meter.lastElementChild, value);
}

/** Show the buttons that a row has at present: `{ name, label, text, act, isHidden }`. */
export function buttons(cell, wanted) {
  const element = only(cell, () => h("span", { class: "actions" }));
  const names = wanted.map(({ name }) => name).join(" ");
  if (element.dataset.names !== names) {
    element.dataset.names = names;
    element.replaceChildren(
      ...wanted.map(({ kind }) => h("button", { type: "button", class: `button small ${kind ?? ""}` })),
    );
  }
  wanted.forEach(({ label, text: shown, act }, index) => {
    const button = element.children[index];
    setText(button, shown);
    setAttribute(button, "aria-label", label);
    button.onclick = act;
  });
}
