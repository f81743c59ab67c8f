/** Numbers, times and durations, as they are written for people. */
import { language, t } from "./i18n.js";

const numbers = new Intl.NumberFormat(language);
const shortNumbers = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
const times = new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const distances = new Intl.RelativeTimeFormat(language, { numeric: "auto", style: "short" });

const STEPS = [["second", 60], ["minute", 60], ["hour", 24], ["day", 30], ["month", 12], ["year", Infinity]];

export function number(value) {
  return numbers.format(value);
}

/** Return a duration in seconds as people write it: "350 ms", "4.2 s", "3 min 5 s". */
export function duration(seconds) {
  if (seconds < 1) return t("units.milliseconds", { value: Math.round(seconds * 1000) });
  if (seconds < 60) return t("units.seconds", { value: shortNumbers.format(seconds) });
  const whole = Math.round(seconds);
  if (whole < 3600) return t("units.minutes", { minutes: Math.floor(whole / 60), seconds: whole % 60 });
  return t("units.hours", { hours: Math.floor(whole / 3600), minutes: Math.floor((whole % 3600) / 60) });
}

/** Return how far a time (in seconds since 1970) is away: "3 min. ago", "in 2 hr." */
export function distance(at, now = Date.now() / 1000) {
  let value = at - now;
  if (Math.abs(value) < 5) return t("units.now");
  for (const [unit, size] of STEPS) {
    if (Math.abs(value) < size) return distances.format(Math.round(value), unit);
    value /= size;
  }
  return "";
}

/** Return the time of day of a moment in seconds since 1970. */
export function clock(at) {
  return times.format(at * 1000);
}

/** Return the date and time of a moment in seconds since 1970. */
export function moment(at) {
  return dates.format(at * 1000);
}

/** Return a function's or a parameter's name as a title: "send_invoice" as "Send invoice". */
export function title(name) {
  const words = name.split(".").at(-1).replaceAll("_", " ").trim() || name;
  return words[0].toUpperCase() + words.slice(1);
}

/** Return a time as a <time> element's attribute has it. */
export function machineTime(at) {
  return new Date(at * 1000).toISOString();
}
