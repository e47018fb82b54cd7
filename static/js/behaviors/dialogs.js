/** Dialogs: `[data-open="#id"]` opens one, `[data-close]` and a click beside it close it; an open `details.pop` closes on a click elsewhere. */
import { all, one } from "../dom.js";

/** Start the behaviour. */
export function startDialogs() {
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element)) return;
    const opener = /** @type {HTMLElement | null} */ (event.target.closest("[data-open]"));
    if (opener?.dataset.open) {
      const dialog = one(opener.dataset.open);
      if (dialog instanceof HTMLDialogElement) {
        dialog.showModal();
        dialog.dispatchEvent(new Event("opened"));
      }
    }
    event.target.closest("[data-close]")?.closest("dialog")?.close();
    if (event.target instanceof HTMLDialogElement) event.target.close();
    for (const pop of all("details.pop[open]")) if (!pop.contains(event.target)) pop.removeAttribute("open");
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const pop of all("details.pop[open]")) {
      pop.removeAttribute("open");
      one("summary", pop)?.focus();
    }
  });
}
