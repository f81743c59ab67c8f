/** What all pages have around their content: who is signed in, whether there is a connection, and the sign-in. */
import { ask } from "./dialog.js";
import { h, newId, setAttribute, setText } from "./dom.js";
import { hasText, t } from "./i18n.js";

/** The characters of a token: a websocket could not carry others. */
const TOKEN = /^[\w.~+-]+$/;

/** Ask for a token until there is one, and return it. */
export async function askToken(reason) {
  const id = newId("token");
  const input = h("input", {
    id,
    type: "password",
    autocomplete: "off",
    spellcheck: "false",
    autofocus: true,
    required: true,
    "aria-describedby": `${id}-help ${id}-error`,
  });
  const error = h("p", { class: "field-error", id: `${id}-error`, role: "alert" });
  const why = `signIn.reasons.${reason}`;
  const check = () => {
    const isGood = TOKEN.test(input.value.trim());
    setText(error, isGood ? "" : t("signIn.reasons.malformed"));
    setAttribute(input, "aria-invalid", isGood ? null : "true");
    return isGood ? null : input;
  };
  for (;;) {
    await ask({
      heading: t("signIn.heading"),
      content: [
        hasText(why) && h("p", { class: "notice warning" }, t(why)),
        h("label", { for: id }, t("signIn.label")),
        input,
        error,
        h("p", { id: `${id}-help`, class: "hint" }, t("signIn.help")),
      ].filter(Boolean),
      buttons: [{ value: "in", text: t("signIn.verb"), kind: "primary" }],
      check,
    });
    if (!check()) return input.value.trim();
  }
}

/** Show whether the page is connected: nothing while it is, and a line otherwise. */
export function connectionNotice() {
  const element = document.getElementById("connection");
  let later;
  return isConnected => {
    clearTimeout(later);
    document.body.dataset.connected = isConnected;
    if (isConnected) setText(element, "");
    // A short break is none that a reader must know of.
    else later = setTimeout(() => setText(element, t("shared.disconnected")), 600);
  };
}

/** Show who is signed in, and the button to sign out. */
export function showCaller(session) {
  const element = document.getElementById("caller");
  if (!session.hasToken) return;
  element.replaceChildren(
    h("span", { class: "owner" }, session.caller.owner),
    h("button", { type: "button", class: "button quiet", onclick: () => session.signOut() }, t("signIn.out")),
  );
}

/** Give each element with `data-text` its text, and the document its language. */
export function fillTexts(root = document) {
  for (const element of root.querySelectorAll("[data-text]")) setText(element, t(element.dataset.text));
}
