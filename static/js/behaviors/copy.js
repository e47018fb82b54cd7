/** Copies to the clipboard: the text in `data-copy`, or that of the element `data-copy-from` names. */
import { one } from "../dom.js";
import { toast } from "./toasts.js";

/**
 * Put text on the clipboard; plain HTTP from another machine has no clipboard API, so a selected field is the way there.
 * @param {string} text
 */
async function put(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("no clipboard");
}

/** Start the behaviour. */
export function startCopy() {
  document.addEventListener("click", async (event) => {
    const button =
      event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest("[data-copy], [data-copy-from]")) : null;
    if (!button) return;
    try {
      const source = button.dataset.copyFrom;
      await put((source ? one(source)?.textContent : button.dataset.copy) ?? "");
      toast("Copied.");
    } catch {
      toast("This browser does not let the page copy. Select the text and copy it by hand.");
    }
  });
}
