/** Numbers, times and texts as an operator reads them. Times are in seconds, as on the wire. */
import { language, t } from "../shared/i18n.js";

const numbers = new Intl.NumberFormat(language);

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;

/** What stands for a value that is not known. */
export const NOTHING = "–";

/** Write how long something takes: "450 µs", "12 ms", "1.25 s", "2 min 5 s", "3 h 4 min", "2 d 3 h". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return NOTHING;
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 0.9995) return `${rounded(seconds * 1e3, 2)} ms`;
  if (seconds < 59.95) return `${rounded(seconds, 3)} s`;
  const whole = Math.round(seconds);
  if (whole < HOUR) return pair(whole, MINUTE, "min", 1, "s");
  if (whole < DAY) return pair(whole, HOUR, "h", MINUTE, "min");
  return pair(whole, DAY, "d", HOUR, "h");
}

/** Write a duration without fractions, for what counts up while one looks at it: "0 s", "7 s", "2 min 5 s". */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  return seconds < MINUTE ? `${Math.floor(Math.max(0, seconds))} s` : duration(Math.floor(seconds));
}

function pair(whole, size, unit, small, smallUnit) {
  const rest = Math.floor((whole % size) / small);
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smallUnit}` : ""}`;
}

/** Write a number with so many significant digits, and without zeros that say nothing. */
function rounded(value, digits) {
  return value >= 10 ** digits ? String(Math.round(value)) : String(Number(value.toPrecision(digits)));
}

/** Write a count in groups of thousands: "12,345". */
export function count(value) {
  if (value === null || value === undefined) return NOTHING;
  return numbers.format(Math.round(value));
}

/** Write a count for where there is little room: "999", "1.2k", "35k", "1.5M". */
export function compact(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value < 1000) return String(rounded(value, 3));
  if (value < 999_500) return `${rounded(value / 1000, 2)}k`;
  return `${rounded(value / 1e6, 2)}M`;
}

/** Write a rate: "0", "0.25", "4.5", "12", "1.2k". */
export function rate(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value > 0 && value < 0.01) return "<0.01";
  if (value < 1) return rounded(value, 2);
  return value < 10 ? String(Number(value.toFixed(1))) : compact(Math.round(value));
}

/** Write an amount of memory: "512 B", "3.4 MiB". */
export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let left = value;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${unit ? rounded(left, 3) : Math.round(left)} ${units[unit]}`;
}

/** Write a part as a percentage: "0 %", "<0.1 %", "3.4 %", "100 %"; it is not 0 or 100 if that is not all. */
export function percent(part, whole) {
  if (!whole) return NOTHING;
  const value = (part / whole) * 100;
  if (value > 0 && value < 0.1) return "<0.1 %";
  if (value < 100 && value > 99.9) return ">99.9 %";
  return `${rounded(value, 2)} %`;
}

/** Write a moment: the time alone if it is of today, else the day as well. */
export function moment(at, now, { timeZone } = {}) {
  if (at === null || at === undefined) return NOTHING;
  const time = inZone(at, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone });
  const day = { day: "numeric", month: "short", year: "numeric", timeZone };
  if (inZone(at, day) === inZone(now, day)) return time;
  const isThisYear = inZone(at, { year: "numeric", timeZone }) === inZone(now, { year: "numeric", timeZone });
  return `${inZone(at, isThisYear ? { ...day, year: undefined } : day)} ${time}`;
}

function inZone(at, options) {
  return formatter(options).format(at * 1000);
}

/** English writes the day before the month here: a table of times has no room for two orders. */
const LOCALE = language === "en" ? "en-GB" : language;

const formatters = new Map();

/** Return a formatter, made once: making one takes longer than a hundred uses. */
function formatter(options) {
  const key = JSON.stringify(options);
  if (!formatters.has(key)) formatters.set(key, new Intl.DateTimeFormat(LOCALE, options));
  return formatters.get(key);
}

/** Write a moment exactly, in UTC, as one finds it in a log. */
export function exact(at) {
  return new Date(at * 1000).toISOString().replace("T", " ").replace("Z", " UTC");
}

/** Write how far a moment is from now: "in 5 min", "3 s ago". */
export function relative(at, now) {
  if (at === null || at === undefined) return NOTHING;
  return at >= now ? t("ops.ahead", { time: age(at - now) }) : t("ops.ago", { time: age(now - at) });
}

/** Write the end of an id: those of neighbours begin alike. */
export function shortId(id) {
  const text = String(id);
  return text.length > 12 ? `…${text.slice(-8)}` : text;
}

/** Write a text on one line, cut at so many characters. */
export function oneLine(text, longest = 160) {
  const line = String(text ?? "").replace(/\s+/g, " ").trim();
  return line.length > longest ? `${line.slice(0, longest - 1)}…` : line;
}
