/** Short notes for what the page does not show by itself: a request that failed, or a word from the server. */
import { one } from "../dom.js";

const SHOWN_MS = 6000;

/**
 * Show a note.
 * @param {string} text
 */
export function toast(text) {
  const note = document.createElement("div");
  note.textContent = text;
  one("#toasts")?.append(note);
  setTimeout(() => note.remove(), SHOWN_MS);
}

/** Start the behaviour. */
export function startToasts() {
  document.addEventListener("htmx:error", () => toast("The server could not be reached. Nothing was lost; try again."));
  document.addEventListener("toast", (event) => toast(String(/** @type {CustomEvent} */ (event).detail?.value ?? "")));
  document.addEventListener("htmx:after:request", (event) => {
    // An answer that is swapped nowhere would go unseen.
    const { ctx } = /** @type {CustomEvent} */ (event).detail;
    if (!(ctx.response?.status >= 400) || !String(ctx.swap ?? "").startsWith("none")) return;
    const answer = new DOMParser().parseFromString(ctx.text ?? "", "text/html");
    toast(answer.querySelector(".alert b")?.textContent ?? "That did not work.");
  });
}
