/** The functions that the visitor may call, each with its form. */
import { h, newId, setText } from "../shared/dom.js";
import { title } from "../shared/format.js";
import { t } from "../shared/i18n.js";
import { FunctionForm } from "./form.js";

/** From so many functions on, there is a field to search in them. */
const SEARCHED = 8;

/** Return the part of the page with the functions: `element`, and `show(functions)`, which may be called again. */
export function functionList({ fixed, start, startBatch }) {
  const searchId = newId("search");
  const list = h("div", { class: "function-list" });
  const none = h("p", { class: "notice", hidden: true });
  const search = h("input", { id: searchId, type: "search", autocomplete: "off", oninput: () => filter() });
  const searchField = h("div", { class: "field search", hidden: true }, h("label", { class: "visually-hidden", for: searchId }, t("functions.search")), search);
  search.placeholder = t("functions.search");
  let shown = "";
  let entries = [];

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const { element, text } of entries) element.hidden = !words.every(word => text.includes(word));
    none.hidden = entries.some(({ element }) => !element.hidden);
    if (!none.hidden) setText(none, t(entries.length ? "functions.notFound" : "functions.none"));
  }

  function show(functions) {
    const text = JSON.stringify(functions);
    if (text === shown) return;
    shown = text;
    entries = functions.map(info => ({
      text: `${info.name} ${title(info.name)} ${info.summary ?? ""}`.toLowerCase(),
      element: entry(info, functions.length === 1, { fixed, start, startBatch }),
    }));
    list.replaceChildren(...entries.map(({ element }) => element));
    searchField.hidden = functions.length < SEARCHED;
    filter();
  }

  const element = h("section", { class: "functions", "aria-labelledby": "functions" }, h("h1", { id: "functions" }, t("functions.heading")), searchField, none, list);
  return { element, show };
}

/** Return a function as a part that opens; its form is made when it is first opened. */
function entry(info, isOnly, actions) {
  const heading = [
    h("span", { class: "function-title" }, title(info.name)),
    h("code", { class: "function-name" }, info.name),
    info.summary && h("span", { class: "function-summary" }, info.summary),
  ];
  const details = h("details", { class: "function surface", name: "function" }, h("summary", {}, ...heading.filter(Boolean)));
  const opened = () => {
    if (!details.open) return;
    if (!details.querySelector("form")) details.append(new FunctionForm(info, actions).element);
    history.replaceState(null, "", `#${encodeURIComponent(info.name)}`);
  };
  details.addEventListener("toggle", opened);
  details.open = isOnly || location.hash === `#${encodeURIComponent(info.name)}`;
  return details;
}
