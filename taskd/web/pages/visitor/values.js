/**
 * From texts to arguments: what a text in a form or in a cell of CSV becomes, by the kinds of values that a parameter takes.
 *
 * A text that does not fit is a `Problem`, whose key is that of a text for people.
 */

export class Problem extends Error {
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}

/** What an omitted argument is: it is left out, and the function uses its default. */
export const OMITTED = Symbol("omitted");

const TRUE = new Set(["true", "yes", "1"]);
const FALSE = new Set(["false", "no", "0"]);

const ANYTHING = new Set(["null", "boolean", "number", "string", "array", "object"]);

/** Return what a parameter takes, and how a form asks for it (`control`). */
export function describe(parameter) {
  const kinds = parameter.kinds.filter(kind => kind.type !== "null");
  const types = new Set(kinds.map(kind => kind.type));
  const format = kinds.length === 1 ? kinds[0].format : undefined;
  return {
    ...parameter,
    types,
    kinds,
    format,
    isNullable: kinds.length < parameter.kinds.length,
    takesAnything: parameter.kinds.length === ANYTHING.size && types.has("object") && types.has("string"),
    control: controlOf(parameter, kinds, types, format),
  };
}

function controlOf(parameter, kinds, types, format) {
  if (parameter.secret && types.has("string")) return "secret";
  if (kinds.length && kinds.every(kind => kind.enum)) return "choice";
  if (types.size === 1) {
    if (types.has("boolean")) return "truth";
    if (types.has("array")) return isListOfSimple(kinds[0]) ? "list" : "json";
    if (types.has("string")) return { date: "date", "date-time": "moment", time: "time", base64: "file" }[format] ?? "text";
  }
  if ([...types].every(type => type === "integer" || type === "number")) return "number";
  return types.has("string") ? "mixed" : "json";
}

function isListOfSimple({ items }) {
  return items?.length === 1 && ["string", "integer", "number"].includes(items[0].type);
}

/** Return the values among which a parameter's argument is chosen. */
export function choices(described) {
  return described.kinds.flatMap(kind => kind.enum);
}

/** Return the argument that the text of a form's control stands for. Throws a `Problem`. */
export function fromForm(text, described) {
  const { control, required, isNullable } = described;
  if (text.trim() === "" && control !== "list") {
    if (!required) return OMITTED;
    if (isNullable) return null;
    throw new Problem("problems.missing");
  }
  switch (control) {
    case "choice":
      return choices(described)[Number(text)];
    case "truth":
      return text === "true";
    case "number":
      return toNumber(text, described);
    case "moment":
      return new Date(text).toISOString();
    case "list":
      return toList(text, described);
    case "mixed":
      return toMixed(text, described);
    case "json":
      return toJson(text, described);
    default:
      return text;
  }
}

/** Return the argument that a cell of CSV stands for. Throws a `Problem`. */
export function fromCell(text, described) {
  const { types, kinds, required, isNullable } = described;
  if (types.has("string") && !kinds.find(kind => kind.type === "string").enum) return text;
  const chosen = kinds.filter(kind => kind.enum).flatMap(kind => kind.enum).find(value => String(value) === text);
  if (chosen !== undefined) return chosen;
  const bare = text.trim();
  if (isNullable && (bare === "" || bare === "null")) return null;
  if (bare === "") {
    if (!required) return OMITTED;
    throw new Problem("problems.missing");
  }
  if (kinds.every(kind => kind.enum)) throw new Problem("problems.choice", { text, choices: choices(described).join(", ") });
  if (types.has("boolean") && (!hasNumbers(types) || !/^[01]$/.test(bare))) {
    if (TRUE.has(bare.toLowerCase())) return true;
    if (FALSE.has(bare.toLowerCase())) return false;
    if (!hasNumbers(types)) throw new Problem("problems.truth", { text });
  }
  if (hasNumbers(types)) return toNumber(bare, described);
  return toJson(bare, described);
}

function hasNumbers(types) {
  return types.has("integer") || types.has("number");
}

function toNumber(text, { types }) {
  const value = Number(text.trim());
  const isWhole = !types.has("number");
  if (!/^\s*[-+]?(\d|\.\d)/.test(text) || !Number.isFinite(value)) {
    throw new Problem(isWhole ? "problems.integer" : "problems.number", { text });
  }
  if (isWhole && !Number.isInteger(value)) throw new Problem("problems.integer", { text });
  // Beyond it, a browser would send another number than the one that was written.
  if (Number.isInteger(value) && !Number.isSafeInteger(value)) throw new Problem("problems.large", { text });
  return value;
}

/** Return the elements of a list that are written one in a line. */
function toList(text, { kinds, required }) {
  const lines = text.split(/\r?\n/).map(line => line.trim()).filter(line => line !== "");
  if (!lines.length && !required) return OMITTED;
  const { type } = kinds[0].items[0];
  if (type === "string") return lines;
  return lines.map((line, index) => {
    try {
      return toNumber(line, { types: new Set([type]) });
    } catch (error) {
      throw new Problem("problems.line", { line: index + 1, problem: error });
    }
  });
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Return the JSON value that is written, if the parameter takes it, and otherwise the text itself. */
function toMixed(text, described) {
  const value = parsed(text);
  return value !== undefined && takes(described, value) ? value : text;
}

function toJson(text, described) {
  const value = parsed(text);
  if (value === undefined) throw new Problem("problems.json");
  if (!takes(described, value)) throw new Problem("problems.kind", { kinds: [...described.types].join(", ") });
  return value;
}

function takes({ types, isNullable, takesAnything }, value) {
  if (takesAnything) return true;
  if (value === null) return isNullable;
  if (Array.isArray(value)) return types.has("array");
  if (typeof value === "number") return types.has("number") || (types.has("integer") && Number.isInteger(value));
  return types.has(typeof value);
}

/**
 * Return arguments as they are sent: by name, or by position if there are further ones (`*args`).
 *
 * `given` has an argument, or `OMITTED`, for each of `parameters`, a map of what `describe` has returned. Throws a `Problem`.
 */
export function assemble(given, parameters) {
  const byName = {};
  const byPosition = [];
  let more = [];
  let gap;
  for (const [name, { passed }] of parameters) {
    const value = given.get(name) ?? (given.has(name) ? null : OMITTED);
    if (passed === "more_positions") {
      more = value === OMITTED ? [] : value;
    } else if (passed === "more_names") {
      if (value !== OMITTED) Object.assign(byName, value);
    } else if (value === OMITTED) {
      gap ??= name;
    } else {
      byName[name] = value;
      if (passed === "either") byPosition.push(value);
    }
  }
  if (!more.length) return byName;
  if (gap !== undefined) throw new Problem("problems.gap", { name: gap });
  if (Object.keys(byName).length > byPosition.length) throw new Problem("problems.byName");
  return [...byPosition, ...more];
}
