/** The search over tasks: from the fields of its form to the parameters of `taskd.list`, and to an address. */

/** The states of a task, unfinished ones first. */
export const STATES = [
  ...["scheduled", "waiting", "running"],
  ...["succeeded", "failed", "cancelled", "expired", "set_aside"],
];

/** What can be done with tasks of a state. */
export const ACTIONS = {
  cancel: new Set(["scheduled", "waiting", "running"]),
  retry: new Set(["failed", "set_aside"]),
};

/** The fields of the form, with the parameter of each. */
const FIELDS = { id: "like", function: "function", owner: "owner", state: "state", key: "key", error: "error" };

export const FIELD_NAMES = Object.keys(FIELDS);

/** Return the filter with its blank fields left out. */
export function cleaned(filter) {
  const found = {};
  for (const name of FIELD_NAMES) {
    const text = String(filter[name] ?? "").trim();
    if (text) found[name] = text;
  }
  if (filter.batch) found.batch = filter.batch;
  return found;
}

/** Return the parameters of `taskd.list` for a filter: newest first, those before the task `before`. */
export function listParams(filter, { limit, before } = {}) {
  const params = { newest: true, limit };
  for (const [name, text] of Object.entries(cleaned(filter))) params[FIELDS[name] ?? name] = text;
  if (before) params.before = before;
  return params;
}

/** Return the filter as the query of an address, "" if it is empty. */
export function toQuery(filter) {
  return new URLSearchParams(cleaned(filter)).toString();
}

/** Return the filter of an address's query; what is not known is left out. */
export function fromQuery(query) {
  const found = cleaned(Object.fromEntries(new URLSearchParams(query)));
  if (found.state && !STATES.includes(found.state)) delete found.state;
  return found;
}
