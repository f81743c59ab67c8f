/**
 * The texts of the pages in the reader's language: all of them are in texts.js.
 *
 *     t("visitor.rows", { count: 3 })
 *
 * A text with a number in it may be an object with a text for each plural form, chosen by `count`.
 */
import texts from "../texts.js";

const plurals = new Intl.PluralRules(texts.language);
const numbers = new Intl.NumberFormat(texts.language);

export const language = texts.language;

/** Return the text with this key, its placeholders filled in. An unknown key is returned as it is. */
export function t(key, values = {}) {
  let text = key.split(".").reduce((found, name) => found?.[name], texts);
  if (typeof text === "object") text = text[plurals.select(values.count)] ?? text.other;
  if (typeof text !== "string") return key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(values, name) ? shown(values[name]) : whole));
}

/** Return whether there is a text with this key. */
export function hasText(key) {
  return t(key) !== key;
}

function shown(value) {
  return typeof value === "number" ? numbers.format(value) : String(value);
}
