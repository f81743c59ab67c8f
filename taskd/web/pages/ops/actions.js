/** What an operator can do: each asks first if it cannot be undone, then does it and reports. */
import { ask, confirm } from "../shared/dialog.js";
import { h } from "../shared/dom.js";
import { t } from "../shared/i18n.js";
import { onEach, summed } from "./bulk.js";
import { age } from "./format.js";
import { report, toast } from "./toast.js";

/** Milliseconds between two updates of the dialog that shows how far a bulk action is. */
const SHOWN_EVERY = 100;

export class Actions {
  #client;
  #changed;

  /** `client()` returns the client; `changed` is called when something was done. */
  constructor(client, changed) {
    this.#client = client;
    this.#changed = changed;
  }

  #call(method, params) {
    return this.#client().call(method, params);
  }

  async #do(method, params, done) {
    const isDone = await report(() => this.#call(method, params), done);
    this.#changed();
    return isDone;
  }

  pause(name) {
    return this.#do("taskd.pause", { function: name }, () => t("ops.done.paused", { name }));
  }

  resume(name) {
    return this.#do("taskd.resume", { function: name }, () => t("ops.done.resumed", { name }));
  }

  async drain(isDraining) {
    if (isDraining) return this.#do("taskd.drain", { drained: false }, () => t("ops.done.undrained"));
    if (!(await confirm(t("ops.drain.heading"), t("ops.drain.text"), t("ops.drain.verb")))) return false;
    return this.#do("taskd.drain", { drained: true }, () => t("ops.done.drained"));
  }

  /** Have a node of the store claim nothing any more, or again. */
  async drainNode({ node, draining }) {
    if (draining) return this.#do("taskd.drain", { node, drained: false }, () => t("ops.nodes.undrained", { node }));
    if (!(await confirm(t("ops.nodes.drainHeading", { node }), t("ops.nodes.drainText"), t("ops.drain.verb")))) return false;
    return this.#do("taskd.drain", { node, drained: true }, () => t("ops.nodes.drained", { node }));
  }

  async reload() {
    if (!(await confirm(t("ops.reload.heading"), t("ops.reload.text"), t("ops.reload.verb")))) return false;
    return this.#do("taskd.reload", {}, ({ result }) => t("ops.done.reloaded", { result }));
  }

  async cancelRunning({ task, function: name, number }) {
    const text = t("ops.stop.text", { name, number });
    if (!(await confirm(t("ops.stop.heading"), text, t("ops.cancel.verb")))) return false;
    return this.#do("taskd.cancel", { task }, ({ was }) => t("ops.done.cancelled", { was }));
  }

  /** Cancel or put back (`kind` is "cancel" or "retry") stored tasks, and return whether it was done. */
  async each(kind, ids) {
    const count = ids.length;
    const verb = t(`ops.${kind}.verb`);
    const heading = t(`ops.${kind}.heading`, { count });
    if (!(await confirm(heading, t(`ops.${kind}.text`, { count }), verb))) return false;
    const outcome = await this.#followed(heading, progress => onEach(ids, id => this.#call(`taskd.${kind}`, { task: id }), progress));
    const { done, refused, reasons, stopped } = outcome;
    if (done) toast(t(`ops.${kind}.done`, { count: done }));
    if (stopped) toast(t("ops.bulk.stopped", { left: count - done - refused }), "bad");
    const [first, ...more] = summed(reasons);
    if (first) toast(t("ops.bulk.refused", { count: refused, reason: first[0], more: more.length }), "bad");
    this.#changed();
    return true;
  }

  /** Show how far an action on many is, with a button that stops it, and return its outcome. */
  async #followed(heading, act) {
    const stopping = new AbortController();
    const bar = h("progress", { "aria-label": heading, value: 0 });
    const line = h("p", { role: "status" });
    let shownAt = 0;
    const onProgress = ({ done, refused, total }) => {
      if (performance.now() - shownAt < SHOWN_EVERY) return;
      shownAt = performance.now();
      bar.value = (done + refused) / total;
      line.textContent = t("ops.bulk.progress", { done: done + refused, total });
    };
    const acting = act({ onProgress, signal: stopping.signal });
    const quick = await Promise.race([acting, new Promise(resolve => setTimeout(resolve, 300))]);
    if (quick) return quick;
    const buttons = [{ value: "stop", text: t("ops.bulk.stop"), kind: "danger" }];
    const asked = ask({ heading, content: [bar, line], buttons });
    asked.then(() => stopping.abort());
    const outcome = await acting;
    bar.closest("dialog")?.close();
    return outcome;
  }

  /** Show what a worker does right now, or all of them. */
  async stacks(worker) {
    const params = worker === undefined ? {} : { worker };
    let stacks;
    if (!(await report(async () => (stacks = await this.#call("taskd.stacks", params)), () => null))) return;
    const textOf = ({ stack }) => (stack === null ? t("ops.stacks.none") : stack || t("ops.stacks.waits"));
    const shown = stacks.map(each => [
      h("h3", {}, each.function ? t("ops.stacks.of", { ...each, time: age(each.seconds) }) : t("ops.stacks.ofIdle", each)),
      h("pre", { tabindex: 0, "aria-label": t("ops.stacks.label", { worker: each.worker }) }, textOf(each)),
    ]);
    const content = stacks.length ? shown.flat() : [h("p", {}, t("ops.stacks.none"))];
    await ask({ heading: t("ops.stacks.heading"), content, buttons: [{ value: "", text: t("ops.close") }], kind: "wide" });
  }
}
