import assert from "node:assert/strict";
import { test } from "node:test";

import {
  age, bytes, compact, count, duration, exact, moment, oneLine, percent, rate, relative, shortId,
} from "../../../taskd/web/pages/ops/format.js";

const cases = (write, ...pairs) => {
  for (const [value, text] of pairs) assert.equal(write(...[value].flat()), text, `of ${value}`);
};

test("durations have two units at most, and no digits that say nothing", () => {
  cases(
    duration,
    ...[[null, "–"], [undefined, "–"], [0, "0 s"], [0.00045, "450 µs"], [0.0123, "12 ms"], [0.5, "500 ms"]],
    ...[[0.9996, "1 s"], [1, "1 s"], [1.2499, "1.25 s"], [59.96, "1 min"], [125, "2 min 5 s"], [3600, "1 h"]],
    ...[[11040, "3 h 4 min"], [86400, "1 d"], [183600, "2 d 3 h"], [-2, "-2 s"]],
  );
});

test("an age counts whole seconds", () => {
  cases(age, [0.9, "0 s"], [7.99, "7 s"], [61.5, "1 min 1 s"], [-1, "0 s"], [null, "–"]);
});

test("counts are grouped, or short where there is little room", () => {
  cases(count, [999, "999"], [1000, "1,000"], [1234567, "1,234,567"], [null, "–"]);
  cases(compact, [999, "999"], [1234, "1.2k"], [34_999, "35k"], [999_499, "999k"], [999_501, "1M"], [1_520_000, "1.5M"]);
  cases(rate, [0, "0"], [0.004, "<0.01"], [0.254, "0.25"], [4.46, "4.5"], [12.4, "12"], [1234, "1.2k"], [null, "–"]);
});

test("memory has the unit that makes it readable", () => {
  cases(bytes, [0, "0 B"], [1023, "1023 B"], [1024, "1 KiB"], [3565158, "3.4 MiB"], [2 ** 40, "1 TiB"], [null, "–"]);
});

test("a percentage is neither 0 nor 100 if that is not all", () => {
  cases(percent, [[0, 5], "0 %"], [[1, 3], "33 %"], [[1, 100_000], "<0.1 %"], [[99_999, 100_000], ">99.9 %"]);
  cases(percent, [[5, 5], "100 %"], [[0, 0], "–"]);
});

test("a moment of today is a time, another has its day", () => {
  const now = Date.UTC(2026, 10, 28, 12, 0, 0) / 1000;
  const written = at => moment(at, now, { timeZone: "UTC" });
  assert.equal(written(now - 60), "11:59:00");
  assert.equal(written(now - 86400), "27 Nov 12:00:00");
  assert.equal(written(now - 366 * 86400), "27 Nov 2025 12:00:00");
  assert.equal(written(null), "–");
  assert.equal(exact(now), "2026-11-28 12:00:00.000 UTC");
  cases(at => relative(at, now), [now + 300, "in 5 min"], [now - 3, "3 s ago"], [null, "–"]);
});

test("ids show their ends, and texts one line", () => {
  cases(shortId, ["01a21db2-8058-79d2-9352-569c3f87fcf5", "…3f87fcf5"], ["batch-7", "batch-7"]);
  assert.equal(oneLine(" a\n  b\tc "), "a b c");
  assert.equal(oneLine("abcdef", 4), "abc…");
  assert.equal(oneLine(undefined), "");
});
