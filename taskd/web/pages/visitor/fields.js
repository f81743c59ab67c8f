/** The fields of a form: a label, what the parameter takes, a control, and what is wrong with what it has. */
import { h, newId, setAttribute, setText } from "../shared/dom.js";
import { title } from "../shared/format.js";
import { hasText, t } from "../shared/i18n.js";
import { choices, fromForm, Problem } from "./values.js";

/** Bytes of the longest file that is read into a form: the server takes no longer message, unless it was set up to. */
const LONGEST_FILE = 10 * 1024 * 1024;

const INPUT_TYPES = { secret: "password", number: "number", date: "date", moment: "datetime-local", time: "time" };

/** Controls that a file may be read into. */
const TAKE_FILES = new Set(["text", "list", "mixed", "json"]);

/** Return the sentence for a problem; anything but a `Problem` is a mistake of the page, and thrown again. */
export function problemText(problem) {
  if (!(problem instanceof Problem)) throw problem;
  const values = Object.entries(problem.values).map(([name, value]) => [
    name,
    value instanceof Problem ? problemText(value) : value,
  ]);
  return t(problem.key, Object.fromEntries(values));
}

/** One field of a form: `element`, and `read()`, which returns the argument or throws a `Problem` that the field shows. */
export class Field {
  #described;
  #control;
  #error;
  #encoded = "";

  constructor(name, described) {
    const id = newId("field");
    this.name = name;
    this.#described = described;
    this.#error = h("p", { class: "field-error", id: `${id}-error` });
    const hint = hintOf(described);
    this.#control = this.#newControl(id, hint ? `${id}-hint ${id}-error` : `${id}-error`);
    this.element = h(
      "div",
      { class: "field", "data-control": described.control },
      h(
        "label",
        { for: id },
        title(name),
        described.required ? null : h("span", { class: "optional" }, t("form.optional")),
      ),
      described.description && h("p", { class: "hint" }, described.description),
      this.#control,
      hint && h("p", { class: "hint", id: `${id}-hint` }, hint),
      TAKE_FILES.has(described.control) && this.#filePicker(),
      this.#error,
    );
  }

  /** Return the argument. Throws a `Problem`, which the field shows. */
  read() {
    try {
      const value = fromForm(this.#described.control === "file" ? this.#encoded : this.#control.value, this.#described);
      this.#show("");
      return value;
    } catch (problem) {
      this.#show(problemText(problem));
      throw problem;
    }
  }

  /** Show what the server has found wrong with the argument. */
  refuse(sentence) {
    this.#show(sentence);
  }

  focus() {
    this.#control.focus();
  }

  /** Empty what must not stay: a secret. */
  forget() {
    if (this.#described.control === "secret") this.#control.value = "";
  }

  #show(sentence) {
    setText(this.#error, sentence);
    setAttribute(this.#control, "aria-invalid", sentence ? "true" : null);
  }

  #newControl(id, describedBy) {
    const { control, required, types } = this.#described;
    const more = {
      id,
      required,
      "aria-describedby": describedBy,
      placeholder: placeholderOf(this.#described),
      oninput: () => this.#show(""),
    };
    if (control === "choice" || control === "truth") return selectOf(this.#described, more);
    if (control === "file") return h("input", { ...more, type: "file", onchange: event => this.#encode(event.target.files[0]) });
    if (control === "list" || control === "json") {
      return h("textarea", { ...more, rows: 3, spellcheck: "false", class: control === "json" ? "mono" : null });
    }
    if (control === "text" || control === "mixed") return this.#newText(more);
    const isWhole = !types.has("number");
    return h("input", {
      ...more,
      type: INPUT_TYPES[control],
      step: control === "number" ? (isWhole ? "1" : "any") : control === "moment" ? "1" : null,
      inputmode: control === "number" ? (isWhole ? "numeric" : "decimal") : null,
      autocomplete: control === "secret" ? "off" : null,
    });
  }

  /** Return a control of one line, which becomes one of several when a text of several is pasted. */
  #newText(more) {
    const paste = event => {
      const text = event.clipboardData.getData("text/plain");
      if (!text.trim().includes("\n")) return;
      event.preventDefault();
      this.#setText(text);
    };
    return h("input", { ...more, type: "text", autocomplete: "off", onpaste: paste });
  }

  #setText(text) {
    if (this.#control.tagName === "INPUT") {
      const { id, required } = this.#control;
      const area = h("textarea", {
        id,
        required,
        rows: 3,
        "aria-describedby": this.#control.getAttribute("aria-describedby"),
        oninput: () => this.#show(""),
      });
      this.#control.replaceWith(area);
      this.#control = area;
      area.focus();
    }
    this.#control.value = text;
    this.#show("");
  }

  #filePicker() {
    const input = h("input", {
      type: "file",
      class: "visually-hidden",
      tabindex: "-1",
      "aria-hidden": "true",
      onchange: async () => {
        const [file] = input.files;
        input.value = "";
        if (file && this.#isShort(file)) this.#setText(await file.text());
      },
    });
    const label = t("form.fromFileOf", { name: title(this.name) });
    const button = h(
      "button",
      { type: "button", class: "button quiet small from-file", "aria-label": label, onclick: () => input.click() },
      t("form.fromFile"),
    );
    return h("div", { class: "file-picker" }, button, input);
  }

  async #encode(file) {
    this.#encoded = "";
    if (!file || !this.#isShort(file)) return;
    const bytes = new Uint8Array(await file.arrayBuffer());
    let binary = "";
    for (let at = 0; at < bytes.length; at += 0x8000) binary += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
    this.#encoded = btoa(binary);
  }

  #isShort(file) {
    if (file.size <= LONGEST_FILE) return true;
    this.#show(t("problems.fileTooLong", { name: file.name, most: LONGEST_FILE / 1024 / 1024 }));
    return false;
  }
}

function hintOf({ control, types, isNullable, required, takesAnything }) {
  if (control === "json") {
    const names = [...types].map(type => t(`kinds.${type}`)).join(", ");
    return t("form.json", { kinds: names });
  }
  if (control === "mixed") return t(takesAnything ? "form.anything" : "form.mixed");
  if (isNullable && required && control !== "choice" && control !== "truth") return t("form.nullable");
  return hasText(`form.${control}`) ? t(`form.${control}`) : null;
}

function placeholderOf({ default: preset }) {
  if (preset === undefined || preset === null || preset === "" || typeof preset === "object") return null;
  return t("form.preset", { value: String(preset) });
}

function selectOf(described, { placeholder, required, ...more }) {
  const { control, isNullable, default: preset } = described;
  const shown = value => (typeof value === "boolean" ? t(value ? "form.yes" : "form.no") : String(value));
  const options = control === "truth" ? [true, false].map(value => [String(value), shown(value)]) : [];
  if (control === "choice") options.push(...choices(described).map((value, index) => [String(index), shown(value)]));
  let first = t("form.choose");
  if (!required) first = preset === undefined || preset === null ? t("form.unset") : t("form.preset", { value: shown(preset) });
  else if (isNullable) first = t("form.none");
  return h(
    "select",
    { ...more, required },
    h("option", { value: "" }, first),
    ...options.map(([value, text]) => h("option", { value }, text)),
  );
}
