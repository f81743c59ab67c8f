/** Single keys for those who use the page all day; they can be switched off, since voice control types them by accident. */
import { ask } from "../shared/dialog.js";
import { h, newId } from "../shared/dom.js";
import { t } from "../shared/i18n.js";
import { SECTIONS } from "./route.js";

const STORED = "taskd.ops.keys";

/** The keys and their texts, for the list. */
const LIST = [
  ["1 – 7", "digit"],
  ["/", "search"],
  ["?", "help"],
  ["↓ ↑ PgDn PgUp Home End", "arrows"],
  ["Enter", "enter"],
  ["Space", "space"],
  ["Ctrl A", "all"],
  ["Esc", "escape"],
];

/** Have single keys go to sections, to the search and to the list of keys. */
export function listenToKeys(app) {
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyped(event.target) || areOff() || document.querySelector("dialog[open]")) return;
    const section = SECTIONS[Number(event.key) - 1];
    if (section) app.go({ section });
    else if (event.key === "/") app.searchTasks();
    else if (event.key === "?") app.showKeys();
    else return;
    event.preventDefault();
  });
}

function isTyped(element) {
  return element.matches("input:not([type=checkbox], [type=radio]), textarea, select");
}

function areOff() {
  return localStorage.getItem(STORED) === "off";
}

/** Show the list of keys. */
export async function showKeys() {
  const id = newId("keys");
  const box = h("input", { type: "checkbox", id, onchange: () => localStorage.setItem(STORED, box.checked ? "on" : "off") });
  box.checked = !areOff();
  const list = h("dl", { class: "keys" }, ...LIST.map(([key, name]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, t(`ops.keys.${name}`)))));
  const use = h("label", { class: "inline", for: id }, box, t("ops.keys.use"));
  await ask({ heading: t("ops.keys.heading"), content: [list, use], buttons: [{ value: "", text: t("ops.close") }] });
}
