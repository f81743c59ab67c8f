/** Many tasks at once: a table is pasted, dropped or chosen, its rows are shown, and then they are sent as one batch. */
import { h, newId, setText } from "../shared/dom.js";
import { t } from "../shared/i18n.js";
import { readRows } from "./csv.js";
import { problemText } from "./fields.js";

/** Rows of the table, and problems, that are shown. */
const SHOWN_ROWS = 10;
const SHOWN_PROBLEMS = 8;

/** Milliseconds after the last change until the text is read: a long one is not read for each letter. */
const PAUSE = 150;

/** Characters of the longest text that is shown for editing; a longer one would make the page slow. */
const LONGEST_SHOWN = 200_000;

export class Bulk {
  #info;
  #parameters;
  #startBatch;
  #text = "";
  #args = [];
  #area;
  #result = h("div", { class: "bulk-result", "aria-live": "polite" });
  #button = h("button", { class: "button primary", "aria-disabled": "true" });
  #timer;
  #isBusy = false;

  constructor(info, parameters, startBatch) {
    this.#info = info;
    this.#startBatch = startBatch;
    this.#parameters = new Map([...parameters].filter(([, { passed }]) => passed === "either" || passed === "by_name"));
    const id = newId("bulk");
    this.#area = h("textarea", {
      id,
      rows: 6,
      class: "mono",
      spellcheck: "false",
      wrap: "off",
      placeholder: [...this.#parameters.keys()].join(","),
      "aria-describedby": `${id}-hint`,
      oninput: () => this.#later(),
    });
    this.element = h(
      "form",
      {
        novalidate: true,
        class: "function-form bulk",
        onsubmit: event => this.#submit(event),
        ondragover: event => this.#drag(event, true),
        ondragleave: event => this.#drag(event, false),
        ondrop: event => this.#drop(event),
      },
      h(
        "div",
        { class: "field" },
        h("label", { for: id }, t("bulk.label")),
        h("p", { class: "hint", id: `${id}-hint` }, t("bulk.hint", { names: [...this.#parameters.keys()].join(", ") })),
        this.#area,
        this.#filePicker(),
      ),
      this.#result,
      h("div", { class: "form-buttons" }, this.#button),
    );
    this.#read("");
  }

  #filePicker() {
    const input = h("input", {
      type: "file",
      accept: ".csv,.tsv,.txt,text/csv,text/plain",
      class: "visually-hidden",
      tabindex: "-1",
      "aria-hidden": "true",
      onchange: () => {
        this.#load(input.files[0]);
        input.value = "";
      },
    });
    const button = h("button", { type: "button", class: "button quiet small from-file", onclick: () => input.click() }, t("bulk.file"));
    return h("div", { class: "file-picker" }, button, input);
  }

  #drag(event, isOver) {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    this.element.classList.toggle("is-over", isOver);
  }

  #drop(event) {
    if (!event.dataTransfer.files.length) return;
    this.#drag(event, false);
    this.#load(event.dataTransfer.files[0]);
  }

  async #load(file) {
    if (!file) return;
    const text = await file.text();
    const isShown = text.length <= LONGEST_SHOWN;
    this.#area.value = isShown ? text : "";
    this.#read(text);
    if (!isShown) this.#result.prepend(h("p", { class: "hint" }, t("bulk.longFile", { name: file.name })));
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#read(this.#area.value), PAUSE);
  }

  /** Read the text, and show its rows, or what is wrong with it. */
  #read(text) {
    clearTimeout(this.#timer);
    this.#text = text;
    const { header, rows, args, problems } = readRows(text, this.#parameters);
    this.#args = problems.length ? [] : args;
    setText(this.#button, this.#args.length ? t("bulk.start", { count: this.#args.length }) : t("bulk.startNone"));
    if (this.#args.length) this.#button.removeAttribute("aria-disabled");
    else this.#button.setAttribute("aria-disabled", "true");
    const found = problems.length ? [problemList(problems)] : [];
    if (rows.length) found.push(tableOf(header, rows));
    this.#result.replaceChildren(...found);
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#isBusy) return;
    if (this.#area.value && this.#area.value !== this.#text) this.#read(this.#area.value);
    if (!this.#args.length) {
      this.#area.focus();
      return;
    }
    this.#isBusy = true;
    this.#button.setAttribute("aria-disabled", "true");
    try {
      await this.#startBatch(this.#info.name, this.#args);
      this.#area.value = "";
      this.#read("");
    } catch (error) {
      this.#result.prepend(h("p", { class: "notice error", role: "alert" }, error.message));
      this.#button.removeAttribute("aria-disabled");
    }
    this.#isBusy = false;
  }
}

function problemList(problems) {
  const rest = problems.length - SHOWN_PROBLEMS;
  return h(
    "div",
    { class: "notice error" },
    h("p", {}, t("bulk.problems", { count: problems.length })),
    h(
      "ul",
      { class: "problems" },
      ...problems.slice(0, SHOWN_PROBLEMS).map(problem => h("li", {}, placeOf(problem), problemText(problem))),
      rest > 0 && h("li", {}, t("bulk.moreProblems", { count: rest })),
    ),
  );
}

function placeOf({ line, column }) {
  if (line === undefined) return "";
  return column === undefined ? t("bulk.line", { line }) : t("bulk.cell", { line, column });
}

function tableOf(header, rows) {
  const shown = rows.slice(0, SHOWN_ROWS);
  return h(
    "div",
    { class: "scroller", tabindex: "0", role: "region", "aria-label": t("bulk.table") },
    h(
      "table",
      {},
      h("caption", { class: "hint" }, t(rows.length > SHOWN_ROWS ? "bulk.first" : "bulk.rows", { count: rows.length, shown: SHOWN_ROWS })),
      h("thead", {}, h("tr", {}, ...header.map(name => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...shown.map(({ cells }) => h("tr", {}, ...cells.map(cell => h("td", {}, cell.length > 80 ? `${cell.slice(0, 79)}…` : cell))))),
    ),
  );
}
