/** Asks before what cannot be undone: forms and buttons with `data-confirm`, and htmx's own `hx-confirm`, in one dialog. */
import { one } from "../dom.js";

/**
 * Ask a question.
 * @param {string} question
 * @param {string} yes - What the button says.
 * @returns {Promise<boolean>}
 */
function ask(question, yes) {
  const dialog = /** @type {HTMLDialogElement} */ (one("#confirm"));
  /** @type {HTMLElement} */ (one("#confirm-h")).textContent = question;
  /** @type {HTMLElement} */ (one("[data-yes]", dialog)).textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** Start the behaviour. */
export function startConfirm() {
  const confirmed = new WeakSet();
  document.addEventListener(
    "submit",
    async (event) => {
      const form = /** @type {HTMLFormElement} */ (event.target);
      const button = event.submitter;
      const words = button?.dataset.confirm ?? form.dataset.confirm;
      if (!words || confirmed.has(form)) {
        confirmed.delete(form);
        return;
      }
      event.preventDefault();
      event.stopImmediatePropagation();
      if (!(await ask(words, button?.dataset.confirmYes ?? form.dataset.confirmYes ?? "Go on"))) return;
      confirmed.add(form);
      form.requestSubmit(button);
    },
    { capture: true },
  );
  document.addEventListener("htmx:confirm", async (event) => {
    const { ctx, issueRequest, dropRequest } = /** @type {CustomEvent} */ (event).detail;
    event.preventDefault();
    const button = /** @type {SubmitEvent} */ (ctx.sourceEvent)?.submitter;
    if (await ask(ctx.confirm, button?.textContent.trim() || "Go on")) issueRequest();
    else dropRequest();
  });
}
