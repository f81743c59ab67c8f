/** CSV: texts from spreadsheets, cut into cells, and the arguments that the rows stand for. */
import { OMITTED, Problem, assemble, fromCell } from "./values.js";

/** The most rows of one batch: as many as the server takes. */
export const MAX_ROWS = 200_000;

/** Problems that are kept of a text: nobody reads more. */
const MAX_PROBLEMS = 100;

/**
 * Cut a text into rows, each with the number of its `line` and its `cells`. The cells are separated by commas; if the first
 * line has none, by its semicolons or tabs. Blank lines are no rows. Throws a `Problem` for a quotation mark that is not closed.
 */
export function parse(text) {
  const source = text.replace(/^\ufeff/, "");
  const delimiter = delimiterOf(source);
  const rows = [];
  let cells = [];
  let at = 0;
  let line = 1;
  let first = 1;
  const endRow = () => {
    if (cells.length > 1 || cells[0].trim() !== "") rows.push({ line: first, cells });
    cells = [];
    first = ++line;
  };
  while (at < source.length || cells.length) {
    let cell;
    if (source[at] === '"') {
      const end = closing(source, at + 1, line);
      cell = source.slice(at + 1, end).replaceAll('""', '"');
      line += count(cell, "\n");
      at = end + 1;
      const rest = upTo(source, at, delimiter);
      if (source.slice(at, rest).trim()) throw new Problem("problems.afterQuote", { line });
      at = rest;
    } else {
      const end = upTo(source, at, delimiter);
      cell = source.slice(at, end);
      at = end;
    }
    cells.push(cell);
    if (source[at] === delimiter) {
      at += 1;
      if (at < source.length) continue;
      cells.push("");
    }
    if (source[at] === "\r" && source[at + 1] === "\n") at += 1;
    at += 1;
    endRow();
  }
  return { delimiter, rows };
}

function delimiterOf(text) {
  const first = text.slice(0, upTo(text, 0, "\n"));
  return [",", ";", "\t"].find(mark => first.includes(mark)) ?? ",";
}

/** Return where the next delimiter or line end is, or the end of the text. */
function upTo(text, at, delimiter) {
  while (at < text.length && text[at] !== delimiter && text[at] !== "\n" && text[at] !== "\r") at += 1;
  return at;
}

/** Return where the quotation mark is that closes a cell. */
function closing(text, at, line) {
  for (;;) {
    const end = text.indexOf('"', at);
    if (end < 0) throw new Problem("problems.quote", { line });
    if (text[end + 1] !== '"') return end;
    at = end + 2;
  }
}

function count(text, mark) {
  return text.split(mark).length - 1;
}

/**
 * Return the arguments of each row, and the problems: what is wrong with the text as a whole, or with single cells (`line`,
 * `column`). If there is any, nothing should be sent.
 *
 * The first row has the names of the `parameters`, a map of what `describe` has returned.
 */
export function readRows(text, parameters) {
  let table;
  try {
    table = parse(text);
  } catch (error) {
    return { header: [], rows: [], args: [], problems: [error] };
  }
  const [header, ...rows] = table.rows;
  if (!header) return { header: [], rows: [], args: [], problems: [] };
  const names = header.cells.map(cell => cell.trim());
  const columns = names.map(name => nameOf(name, parameters));
  const problems = headerProblems(names, columns, parameters);
  if (rows.length > MAX_ROWS) problems.push(new Problem("problems.tooMany", { count: rows.length, most: MAX_ROWS }));
  const args = problems.length ? [] : rows.map(row => argsOf(row, columns, parameters, problems));
  return { header: names, rows, args, problems };
}

/** Return the name of the parameter that a column is for: written the same, or but for capitals and spaces. */
function nameOf(column, parameters) {
  if (parameters.has(column)) return column;
  const plain = column.toLowerCase().replace(/[\s-]+/g, "_");
  return [...parameters.keys()].find(name => name.toLowerCase() === plain);
}

function headerProblems(names, columns, parameters) {
  const problems = [];
  names.forEach((name, index) => {
    if (columns[index] === undefined) problems.push(new Problem("problems.column", { name, names: [...parameters.keys()].join(", ") }));
    else if (columns.indexOf(columns[index]) < index) problems.push(new Problem("problems.twice", { name }));
  });
  for (const [name, { required }] of parameters) {
    if (required && !columns.includes(name)) problems.push(new Problem("problems.noColumn", { name }));
  }
  return problems;
}

function argsOf({ line, cells }, columns, parameters, problems) {
  const note = (problem, column) => {
    if (problems.length < MAX_PROBLEMS) problems.push(Object.assign(problem, { line, column }));
  };
  if (cells.length !== columns.length) {
    note(new Problem("problems.cells", { count: cells.length, wanted: columns.length }));
    return undefined;
  }
  const given = new Map();
  columns.forEach((name, index) => {
    try {
      given.set(name, fromCell(cells[index], parameters.get(name)));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      given.set(name, OMITTED);
      note(problem, name);
    }
  });
  return assemble(given, parameters);
}
