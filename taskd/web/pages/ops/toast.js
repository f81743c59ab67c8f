/** Short messages about what was done. Failures stay until they are closed; a screen reader reads all of them out. */
import { h } from "../shared/dom.js";
import { t } from "../shared/i18n.js";

/** Milliseconds for which a message of success stays. */
const STAYS = 6000;

/** Messages at once: older ones go. */
const MOST = 4;

/** Show a message; `kind` is "good" or "bad". */
export function toast(text, kind = "good") {
  const place = document.getElementById("toasts");
  const close = h("button", { type: "button", class: "button quiet small", onclick: () => element.remove() }, t("ops.close"));
  const element = h("div", { class: `toast ${kind}` }, h("p", {}, text), close);
  while (place.children.length >= MOST) place.firstElementChild.remove();
  place.append(element);
  if (kind === "good") setTimeout(() => element.remove(), STAYS);
}

/** Do something and show what came of it: `done(answer)` is the message, or null for none. Return whether it succeeded. */
export async function report(act, done) {
  try {
    const text = done(await act());
    if (text) toast(text);
    return true;
  } catch (error) {
    toast(error.message, "bad");
    return false;
  }
}
