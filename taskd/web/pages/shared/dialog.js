/** Questions to the reader, as modal dialogs: Escape answers no, and the focus goes back where it was. */
import { h, newId } from "./dom.js";
import { t } from "./i18n.js";

/**
 * Show a dialog, and return what its form was answered with: the value of the button, or "" if it was closed.
 *
 * `buttons` are `{ value, text, kind }`, `kind` being "primary" or "danger"; the first has the focus unless an element of the
 * content has `autofocus`. `check(value)` may return an element to put the focus back on, and then the dialog stays.
 */
export function ask({ heading, content = [], buttons, check = () => null, kind = "" }) {
  const id = newId("dialog");
  const dialog = h(
    "dialog",
    { "aria-labelledby": id, class: `dialog ${kind}` },
    h(
      "form",
      { method: "dialog", novalidate: true },
      h("h2", { id }, heading),
      h("div", { class: "dialog-content" }, ...content),
      h(
        "div",
        { class: "dialog-buttons" },
        ...buttons.map(({ value, text, kind }) => h("button", { value, class: kind ? `button ${kind}` : "button" }, text)),
      ),
    ),
  );
  dialog.querySelector("form").addEventListener("submit", event => {
    const wrong = check(event.submitter?.value ?? "");
    if (!wrong) return;
    event.preventDefault();
    wrong.focus();
  });
  document.body.append(dialog);
  dialog.showModal();
  return new Promise(resolve => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

/** Ask whether to go on with something that cannot be undone, and return whether the answer was yes. */
export async function confirm(heading, text, verb) {
  const buttons = [
    { value: "", text: t("shared.no") },
    { value: "yes", text: verb, kind: "danger" },
  ];
  return (await ask({ heading, content: [h("p", {}, text)], buttons })) === "yes";
}
