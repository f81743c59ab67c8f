import assert from "node:assert/strict";
import { test } from "node:test";

import { fromQuery, listParams, toQuery } from "../../../taskd/web/pages/ops/filter.js";
import { hashOf, parseHash } from "../../../taskd/web/pages/ops/route.js";

test("the fields of the search become the parameters of the list, blank ones none", () => {
  assert.deepEqual(
    listParams({ id: " fcf5 ", function: "send", owner: "", state: "failed", key: "", error: "refused" }, { limit: 100 }),
    { newest: true, limit: 100, like: "fcf5", function: "send", state: "failed", error: "refused" },
  );
  assert.deepEqual(listParams({}, { limit: 5, before: "x" }), { newest: true, limit: 5, before: "x" });
});

test("a search goes into the address and comes back; what is unknown is dropped", () => {
  const filter = { function: "a&b", state: "failed", error: "no = such ü" };
  assert.deepEqual(fromQuery(toQuery(filter)), filter);
  assert.deepEqual(fromQuery("state=flying&evil=1&owner=ann"), { owner: "ann" });
});

test("a place is a section, a search and a task, and an unknown section is the first", () => {
  const place = { section: "tasks", query: "state=failed", task: "01-2" };
  assert.deepEqual(parseHash(hashOf(place)), place);
  assert.deepEqual(parseHash(""), { section: "overview", query: "", task: null });
  assert.deepEqual(parseHash("#nowhere").section, "overview");
  assert.equal(hashOf({ section: "audit" }), "#audit");
});
