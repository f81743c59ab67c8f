/** The list of the visitor's tasks and batches. */
import { h, inNextFrame, setText, showEach } from "../shared/dom.js";
import { title } from "../shared/format.js";
import { t } from "../shared/i18n.js";
import { Card } from "./card.js";
import { ENDED } from "./work.js";

/** Milliseconds between two looks at the times that are shown as "3 minutes ago". */
const TICK = 15_000;

/** Return the part of the page with the tasks: `element`, `changed(item)` and `show(work)`, which come from and show `Work`. */
export function taskList({ isOwn }) {
  const list = h("ul", { class: "cards" });
  const empty = h("p", { class: "empty", hidden: true }, t("tasks.empty"));
  const note = h("p", { class: "hint" }, t(isOwn ? "tasks.own" : "tasks.here"));
  const news = h("p", { class: "visually-hidden", role: "status" });
  const more = h("button", { type: "button", class: "button", hidden: true, onclick: () => loadMore() }, t("tasks.more"));
  const tidy = h("button", { type: "button", class: "button quiet small", hidden: true, onclick: () => work.forgetEnded() }, t("tasks.forget"));
  const cards = new Map();
  const states = new Map();
  let changed = new Set();
  let work;

  const draw = inNextFrame(() => {
    const items = work.items;
    showEach(list, items, {
      key: ({ id }) => id,
      create: item => {
        const card = new Card(work, item);
        cards.set(item.id, card);
        changed.add(item.id);
        return card.element;
      },
      update: (_, item) => {
        if (changed.has(item.id)) cards.get(item.id).update(item);
      },
    });
    changed = new Set();
    empty.hidden = items.length > 0;
    more.hidden = !work.hasMore;
    tidy.hidden = isOwn || !items.some(({ state }) => ENDED.has(state));
    const running = items.filter(({ state }) => !ENDED.has(state)).length;
    document.title = running ? t("tasks.titleRunning", { count: running }) : t("tasks.title");
  });

  /** Have a screen reader say how a task has ended that was not over before. */
  function announce({ id, state, function: name }) {
    const before = states.get(id);
    states.set(id, state);
    if (before !== undefined && before !== state && ENDED.has(state)) {
      setText(news, t("tasks.news", { name: title(name), state: t(`states.${state}`) }));
    }
  }

  async function loadMore() {
    more.setAttribute("aria-disabled", "true");
    await work.more();
    more.removeAttribute("aria-disabled");
    draw();
  }

  setInterval(() => cards.forEach(card => card.tick()), TICK);

  const element = h(
    "section",
    { class: "tasks", "aria-labelledby": "tasks" },
    h("div", { class: "tasks-head" }, h("h2", { id: "tasks", tabindex: "-1" }, t("tasks.heading")), tidy),
    note,
    news,
    empty,
    list,
    more,
  );
  return {
    element,
    show(shown) {
      work = shown;
      draw();
    },
    changed(item) {
      changed.add(item.id);
      if (item.isRemoved) cards.delete(item.id);
      else announce(item);
      draw();
    },
  };
}
