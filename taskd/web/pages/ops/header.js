/** What is around the sections: the server and its state, what can be done with it, the sections, and what one should know. */
import { h, setAttribute, setText, showEach } from "../shared/dom.js";
import { t } from "../shared/i18n.js";
import * as cells from "./cells.js";
import { age, duration } from "./format.js";
import { SECTIONS, hashOf } from "./route.js";
import { alarms, isDraining } from "./shape.js";

/** The commands that let one act, as an operator types them. */
const COMMANDS = ["taskd token new operator --role operate --tokens tokens.toml", "taskd serve APP --tokens tokens.toml"];

export class Header {
  #app;
  #name = h("strong");
  #state = h("span");
  #up = h("span", { class: "hint" });
  #drain;
  #reload;
  #links = new Map();

  constructor(app) {
    this.#app = app;
    const button = act => h("button", { type: "button", class: "button small", onclick: act });
    this.#drain = button(() => app.actions.drain(isDraining(app.live.status)));
    this.#reload = button(() => app.actions.reload());
    const keys = button(() => app.showKeys());
    setText(keys, t("ops.keys.button"));
    keys.classList.add("for-keyboards");
    setText(this.#reload, t("ops.reload.button"));
    document.getElementById("server").append(this.#name, this.#state, this.#up);
    document.getElementById("server-actions").append(this.#drain, this.#reload, keys);
    for (const section of SECTIONS) this.#links.set(section, h("a", { href: location.pathname + hashOf({ section }) }, t(`ops.sections.${section}`)));
    const sections = document.getElementById("sections");
    setAttribute(sections, "aria-label", t("ops.navigation"));
    sections.append(h("ul", {}, ...[...this.#links.values()].map(link => h("li", {}, link))));
  }

  /** Mark the section that is shown. */
  show(section) {
    for (const [name, link] of this.#links) setAttribute(link, "aria-current", name === section && "page");
    const link = this.#links.get(section);
    link.parentElement.parentElement.scrollLeft = link.offsetLeft - link.parentElement.parentElement.clientWidth / 3;
  }

  update() {
    const { status, isRefused } = this.#app.live;
    this.#drain.hidden = this.#reload.hidden = !this.#app.canOperate || !status;
    showEach(document.getElementById("notices"), this.#notices(status, isRefused), {
      key: notice => notice.key,
      create: notice => h("div", { class: `notice ${notice.kind}` }, h("p"), ...notice.commands.map(command => h("pre", {}, h("code", {}, command)))),
      update: (element, notice) => setText(element.firstElementChild, notice.text),
    });
    if (!status) return;
    setText(this.#name, status.name);
    document.title = t("ops.title", { name: status.name });
    const state = status.unready ? (isDraining(status) ? "draining" : "unready") : "ready";
    cells.badge(this.#state, state, t(state === "ready" ? "ops.ready" : "ops.notReady"));
    setText(this.#up, `${status.version}, ${t("ops.up", { time: age(status.uptime) })}`);
    setText(this.#drain, t(isDraining(status) ? "ops.drain.undo" : "ops.drain.button"));
  }

  #notices(status, isRefused) {
    const notice = (key, text, kind = "", commands = []) => ({ key, text, kind, commands });
    const { caller } = this.#app.session;
    const shown = [];
    if (isRefused) shown.push(notice("refused", t("ops.readOnly.refused"), "warning"));
    else if (caller.anonymous && !this.#app.canOperate) shown.push(notice("anonymous", t("ops.readOnly.anonymous"), "", COMMANDS));
    else if (!this.#app.canOperate) shown.push(notice("role", t("ops.readOnly.role"), "warning"));
    for (const alarm of status ? alarms(status) : []) {
      const { kind, level, seconds, ...values } = alarm;
      const text = t(`ops.alarms.${kind}`, { ...values, seconds: duration(seconds) });
      shown.push(notice(kind, text, level === "bad" ? "error" : "warning"));
    }
    return shown;
  }
}
