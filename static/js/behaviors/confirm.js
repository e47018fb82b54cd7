/** Asks before what cannot be undone: forms and buttons with `data-confirm`, and htmx's own `hx-confirm`, in one dialog. */
import { one } from "../dom.js";
import { toast } from "./toasts.js";

const CHANGED = "This has changed meanwhile, so nothing was done. Look again.";

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
      const asked = [words, form.action, button?.value];
      if (!(await ask(words, button?.dataset.confirmYes ?? form.dataset.confirmYes ?? "Go on"))) return;
      // The stream may have taken the form away, or made another of it, while the question was open.
      const now = [button?.dataset.confirm ?? form.dataset.confirm, form.action, button?.value];
      if (!form.isConnected || now.join() !== asked.join()) {
        toast(CHANGED);
        return;
      }
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
