/** Forms that are checked by the server: brings the first wrong field into view, and opens the fold it lies in. */
import { one } from "../dom.js";

/** Start the behaviour. */
export function startFields() {
  document.addEventListener("htmx:after:swap", (event) => {
    const { ctx } = /** @type {CustomEvent} */ (event).detail;
    if (ctx.response?.status !== 422) return;
    const wrong = one("[aria-invalid=true]");
    wrong?.closest("details")?.setAttribute("open", "");
    (one("#problems") ?? wrong)?.scrollIntoView({ block: "center" });
  });
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest('#problems a[href^="#"]') : null;
    if (!link) return;
    const field = document.getElementById(link.getAttribute("href")?.slice(1) ?? "");
    field?.closest("details")?.setAttribute("open", "");
    event.preventDefault();
    field?.focus();
  });
}
