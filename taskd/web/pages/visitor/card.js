/** One task or batch in the list: its state, its progress, its result or error, and what can be done with it. */
import { confirm } from "../shared/dialog.js";
import { h, newId, setAttribute, setText, showEach } from "../shared/dom.js";
import { clock, distance, duration, machineTime, moment, number, title } from "../shared/format.js";
import { hasText, t } from "../shared/i18n.js";
import { ENDED } from "./work.js";

/** Characters of a result, or an error, that is shown as it is; more is behind a button. */
const SHORT = 160;
const LONGEST_SHOWN = 20_000;

/** Failures of a batch that are shown. */
const MAX_FAILURES = 20;

const RETRIABLE = new Set(["failed", "set_aside"]);

export class Card {
  #work;
  #item;
  #id = newId("card");
  #state = h("span", { class: "state" });
  #time = h("time", { class: "hint" });
  #label = h("p", { class: "label-line" });
  #bar = h("progress");
  #progressText = h("p", { class: "hint progress-text" });
  #outcome = h("div", { class: "outcome", hidden: true });
  #problem = h("p", { class: "field-error", role: "alert" });
  #cancel;
  #retry;
  #details;
  #facts = h("dl", { class: "facts" });
  #events = h("ol", { class: "events" });
  #failures = h("ul", { class: "failures" });
  #shownOutcome;

  constructor(work, item) {
    this.#work = work;
    this.#item = item;
    const name = title(item.function);
    setAttribute(this.#bar, "aria-label", t("card.progressOf", { name }));
    this.#cancel = this.#button("card.cancel", "danger", () => this.#doCancel());
    this.#retry = this.#button("card.retry", "", () => this.#work.retry(this.#item));
    this.#details = h(
      "details",
      { class: "card-details", ontoggle: () => this.#opened() },
      h("summary", { "aria-label": t("card.detailsOf", { name }) }, t("card.details")),
      this.#facts,
      this.#failures,
      this.#events,
    );
    this.element = h(
      "li",
      {},
      h(
        "article",
        { class: "card surface", "aria-labelledby": this.#id },
        h("div", { class: "card-head" }, h("h3", { id: this.#id }, name), this.#state, this.#time),
        this.#label,
        h("div", { class: "card-progress" }, this.#bar, this.#progressText),
        this.#outcome,
        this.#problem,
        h("div", { class: "card-foot" }, this.#details, h("div", { class: "card-buttons" }, this.#cancel, this.#retry)),
      ),
    );
  }

  /** Show the item as it is now. */
  update(item) {
    this.#item = item;
    const hasEnded = ENDED.has(item.state);
    setAttribute(this.#state, "data-state", item.state);
    setText(this.#state, t(`states.${item.state}`));
    this.tick();
    setText(this.#label, item.label ?? "");
    this.#showProgress(hasEnded);
    this.#showOutcome(hasEnded);
    this.#cancel.hidden = hasEnded;
    this.#retry.hidden = item.kind === "batch" || !RETRIABLE.has(item.state);
    if (this.#details.open) this.#showDetails();
  }

  /** Show how long ago it was. */
  tick() {
    const at = this.#item.ended ?? this.#item.created;
    setAttribute(this.#time, "datetime", machineTime(at));
    setAttribute(this.#time, "title", moment(at));
    setText(this.#time, distance(at));
  }

  #button(key, kind, act) {
    const button = h("button", { type: "button", class: `button small ${kind}`.trim(), hidden: true }, t(key));
    button.setAttribute("aria-label", t(`${key}Of`, { name: title(this.#item.function) }));
    button.addEventListener("click", async () => {
      if (button.getAttribute("aria-disabled")) return;
      setText(this.#problem, "");
      button.setAttribute("aria-disabled", "true");
      try {
        await act();
      } catch (error) {
        setText(this.#problem, error.message);
      }
      button.removeAttribute("aria-disabled");
    });
    return button;
  }

  async #doCancel() {
    const { kind, total, done, failed } = this.#item;
    if (kind === "batch") {
      const count = total - done - failed;
      if (!(await confirm(t("card.cancelBatch"), t("card.cancelBatchText", { count }), t("card.cancelBatchVerb")))) return;
    }
    await this.#work.cancel(this.#item);
  }

  #showProgress(hasEnded) {
    const { kind, state, progress, total, done, failed, cancelled } = this.#item;
    const isShown = !hasEnded && (kind === "batch" || state === "running");
    this.#bar.hidden = !isShown;
    this.#progressText.hidden = !isShown && kind === "task";
    if (kind === "batch") {
      this.#setBar(done + failed + cancelled, total);
      setText(this.#progressText, countsText(this.#item));
    } else {
      this.#setBar(progress?.done, progress?.total);
      setText(this.#progressText, progress ? progressText(progress) : "");
    }
  }

  #setBar(done, total) {
    setAttribute(this.#bar, "max", total || null);
    setAttribute(this.#bar, "value", total ? done : null);
  }

  #showOutcome(hasEnded) {
    const { kind, result, error, state } = this.#item;
    const shown = !hasEnded || kind === "batch" ? undefined : state === "succeeded" ? `result ${JSON.stringify(result)}` : `error ${error?.message}`;
    if (shown === this.#shownOutcome) return;
    this.#shownOutcome = shown;
    const isShown = shown !== undefined && (state === "succeeded" || Boolean(error));
    this.#outcome.hidden = !isShown;
    if (!isShown) return;
    if (state === "succeeded") this.#outcome.replaceChildren(resultElement(this.#item));
    else this.#outcome.replaceChildren(h("p", { class: state === "cancelled" ? "hint" : "notice error" }, error.message));
  }

  async #opened() {
    if (!this.#details.open) return;
    this.#showDetails();
    try {
      if (this.#item.kind === "task") await this.#work.loadEvents(this.#item);
      else if (this.#item.failed) this.#showFailures(await this.#work.failuresOf(this.#item, MAX_FAILURES));
    } catch (error) {
      setText(this.#problem, error.message);
    }
  }

  #showDetails() {
    const { id, function: name, created, ended, attempts, events, kind, due, state } = this.#item;
    const facts = [
      ["card.function", h("code", {}, name)],
      [`card.${kind}Id`, h("code", { class: "id" }, id)],
      ["card.created", moment(created)],
      state === "scheduled" && due && ["card.due", moment(due)],
      ended && ["card.ended", t("card.endedAfter", { at: moment(ended), duration: duration(Math.max(0, ended - created)) })],
      attempts > 1 && ["card.attempts", number(attempts)],
    ].filter(Boolean);
    this.#facts.replaceChildren(...facts.flatMap(([key, value]) => [h("dt", {}, t(key)), h("dd", {}, value)]));
    showEach(this.#events, events, {
      key: ({ seq, event }) => (event === "progress" ? "progress" : seq),
      create: () => h("li", {}, h("time"), h("span")),
      update: (line, event) => {
        setText(line.firstChild, clock(event.at));
        setText(line.lastChild, eventText(event));
      },
    });
  }

  #showFailures(failures) {
    const rest = this.#item.failed - failures.length;
    this.#failures.replaceChildren(
      ...failures.map(({ task, error }) => h("li", {}, h("code", { class: "id" }, task), h("span", {}, error?.message ?? ""))),
      rest > 0 ? h("li", {}, t("card.moreFailures", { count: rest })) : "",
    );
  }
}

function countsText({ done, failed, cancelled, total }) {
  return [
    t("card.counts", { done: done + failed + cancelled, total }),
    failed && t("card.failed", { count: failed }),
    cancelled && t("card.cancelled", { count: cancelled }),
  ].filter(Boolean).join(" · ");
}

function progressText({ done, total, message }) {
  const counted = total ? t("card.counts", { done, total }) : number(done);
  return message ? `${counted} · ${message}` : counted;
}

function eventText({ event, ...more }) {
  const key = `events.${event}`;
  if (!hasText(key)) return event;
  const { error, attempt, message, value, due } = more;
  if (event === "progress") return progressText(more);
  const shown = value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
  return t(key, {
    attempt: attempt ?? "",
    error: error?.message ?? "",
    message: message ?? "",
    value: shown.length > SHORT ? `${shown.slice(0, SHORT)}…` : shown,
    due: due ? clock(due) : "",
  });
}

/** Return how a result is shown: a short one as it is, a long one in a box of its own, each with a way to save it. */
function resultElement({ id, result }) {
  if (result === null || result === undefined) return h("p", { class: "hint" }, t("card.noResult"));
  const isText = typeof result === "string";
  const text = isText ? result : JSON.stringify(result, null, 2);
  const flat = isText ? text : JSON.stringify(result);
  if (flat.length <= SHORT && !flat.includes("\n")) {
    return h("p", { class: isText || typeof result === "number" ? "result" : "result mono" }, flat);
  }
  const isWhole = text.length <= LONGEST_SHOWN;
  return h(
    "div",
    {},
    h(
      "pre",
      { class: "result-box", tabindex: "0", role: "region", "aria-label": t("card.result") },
      isWhole ? text : `${text.slice(0, LONGEST_SHOWN)}…`,
    ),
    h("button", { type: "button", class: "button quiet small", onclick: () => save(`${id}.${isText ? "txt" : "json"}`, text) }, t("card.save")),
  );
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text]));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
