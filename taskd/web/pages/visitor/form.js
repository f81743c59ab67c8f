/** The form of one function: a task, or many of them from the rows of a table. */
import { h, newId, setText } from "../shared/dom.js";
import { title } from "../shared/format.js";
import { t } from "../shared/i18n.js";
import { Bulk } from "./bulk.js";
import { Field, problemText } from "./fields.js";
import { assemble, describe, Problem } from "./values.js";

const INVALID_PARAMS = -32602;

/**
 * The form of the function `info`, as `taskd.functions` describes it. `fixed` are the arguments that the token sets.
 *
 * `start(name, args, options)` and `startBatch(name, rows)` have the tasks stored.
 */
export class FunctionForm {
  #info;
  #start;
  #fields;
  #parameters;
  #error = h("p", { class: "notice error", role: "alert", hidden: true });
  #at;
  #button = h("button", { class: "button primary" }, t("form.start"));
  #isBusy = false;

  constructor(info, { fixed, start, startBatch }) {
    this.#info = info;
    this.#start = start;
    const own = Object.entries(info.parameters).filter(([name]) => !Object.hasOwn(fixed, name));
    this.#parameters = new Map(own.map(([name, parameter]) => [name, describe(asField(parameter))]));
    this.#fields = [...this.#parameters].map(([name, described]) => new Field(name, described));
    const atId = newId("at");
    this.#at = h("input", { id: atId, type: "datetime-local", "aria-describedby": `${atId}-hint` });
    const form = h(
      "form",
      { novalidate: true, class: "function-form", onsubmit: event => this.#submit(event) },
      ...this.#fields.map(field => field.element),
      ...fixedNotice(info, fixed),
      h(
        "details",
        { class: "more" },
        h("summary", {}, t("form.later")),
        h("div", { class: "field" }, h("label", { for: atId }, t("form.at")), this.#at, h("p", { class: "hint", id: `${atId}-hint` }, t("form.atHint"))),
      ),
      this.#error,
      h("div", { class: "form-buttons" }, this.#button),
    );
    const bulk = this.#parameters.size ? new Bulk(info, this.#parameters, startBatch) : null;
    this.element = bulk ? tabs([[t("form.one"), form], [t("form.many"), bulk.element]]) : form;
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#isBusy) return;
    this.#refuse("");
    const args = this.#read();
    if (args === undefined) return;
    this.#isBusy = true;
    this.#button.setAttribute("aria-disabled", "true");
    try {
      const at = this.#at.value ? new Date(this.#at.value) : undefined;
      const secrets = [...this.#parameters].filter(([, { control }]) => control === "secret").map(([name]) => name);
      await this.#start(this.#info.name, args, { at, secrets });
      for (const field of this.#fields) field.forget();
    } catch (error) {
      this.#showError(error);
    }
    this.#isBusy = false;
    this.#button.removeAttribute("aria-disabled");
  }

  /** Return the arguments, or undefined if a field has shown that something is wrong. */
  #read() {
    const given = new Map();
    let wrong;
    for (const field of this.#fields) {
      try {
        given.set(field.name, field.read());
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        wrong ??= field;
      }
    }
    wrong?.focus();
    if (wrong) return undefined;
    try {
      return assemble(given, this.#parameters);
    } catch (problem) {
      this.#refuse(problemText(problem));
      return undefined;
    }
  }

  #showError(error) {
    const field = error.code === INVALID_PARAMS && this.#fields.find(({ name }) => name === error.data?.argument);
    if (field) {
      field.refuse(error.message);
      field.focus();
    } else {
      this.#refuse(error.message);
    }
  }

  #refuse(sentence) {
    this.#error.hidden = !sentence;
    setText(this.#error, sentence);
  }
}

/** Return a parameter as a form asks for it: any number of arguments are a list, or an object. */
function asField(parameter) {
  const { passed, kinds } = parameter;
  if (passed === "more_positions") return { ...parameter, required: false, kinds: [{ type: "array", items: kinds }] };
  if (passed === "more_names") return { ...parameter, required: false, kinds: [{ type: "object" }] };
  return parameter;
}

function fixedNotice(info, fixed) {
  return Object.entries(fixed)
    .filter(([name]) => Object.hasOwn(info.parameters, name))
    .map(([name, value]) => h("p", { class: "hint" }, t("form.fixed", { name: title(name), value: JSON.stringify(value) })));
}

/** Return two panels of which one is shown, with the buttons that choose it. */
function tabs(panels) {
  const group = newId("tabs");
  const buttons = panels.map(([text, panel], index) => {
    panel.id = `${group}-${index}`;
    return h("button", { type: "button", class: "tab", "aria-controls": panel.id, onclick: () => show(index) }, text);
  });
  const show = chosen => {
    panels.forEach(([, panel], index) => {
      panel.hidden = index !== chosen;
      buttons[index].setAttribute("aria-pressed", String(index === chosen));
    });
  };
  show(0);
  return h("div", {}, h("div", { class: "tabs", role: "group", "aria-label": t("form.howMany") }, ...buttons), ...panels.map(([, panel]) => panel));
}
