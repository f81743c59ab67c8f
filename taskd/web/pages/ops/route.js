/** The places of the page, in the part of the address after #: a section, its search, and the task that is open. */

export const SECTIONS = ["overview", "tasks", "queue", "workers", "functions", "schedules", "audit"];

/** Return `{ section, query, task }` of a hash: "#tasks?state=failed", "#tasks?state=failed&task=ID". */
export function parseHash(hash) {
  const [name, query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const params = new URLSearchParams(query);
  const task = params.get("task");
  params.delete("task");
  return { section: SECTIONS.includes(name) ? name : SECTIONS[0], query: params.toString(), task };
}

/** Return the hash of a place. */
export function hashOf({ section, query = "", task = null }) {
  const params = new URLSearchParams(query);
  if (task) params.set("task", task);
  const text = params.toString();
  return `#${section}${text ? `?${text}` : ""}`;
}
