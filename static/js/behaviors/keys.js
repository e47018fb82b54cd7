/** Keyboard shortcuts of every page; those of one chart are in `charts.js`. */
import { isTyping, one } from "../dom.js";
import { openPalette } from "./palette.js";

const GO = /** @type {Record<string, string>} */ ({
  r: "/runs",
  d: "/datasets",
  t: "/feedback",
  m: "/models",
  p: "/playground",
  s: "/system",
  ",": "/settings",
});
/** Where somebody with the role rater may go. */
const GO_RATER = /** @type {Record<string, string>} */ ({ t: "/rate", ",": "/settings" });
const MEMORY = 1200;

/** Start the behaviour. */
export function startKeys() {
  let before = { key: "", at: 0 };
  const go = document.body.classList.contains("rates-only") ? GO_RATER : GO;
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const target = event.target;
    if ((event.ctrlKey || event.metaKey) && key === "k") {
      event.preventDefault();
      openPalette();
      return;
    }
    if ((event.ctrlKey || event.metaKey) && key === "enter" && target instanceof HTMLTextAreaElement && target.form) {
      event.preventDefault();
      const press = target.dataset.press ? one(`${target.dataset.press} button`) : null;
      if (press) press.click();
      else target.form.requestSubmit();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(target) || one("dialog[open]")) return;
    const isSecond = before.key === "g" && event.timeStamp - before.at < MEMORY;
    before = { key: isSecond ? "" : key, at: event.timeStamp };
    if (isSecond && go[key]) {
      location.assign(go[key]);
    } else if (key === "/") {
      const box = one("[data-slash]");
      if (!box) return;
      event.preventDefault();
      box.focus();
    } else if (key === "?") {
      one("#keys") instanceof HTMLDialogElement && /** @type {HTMLDialogElement} */ (one("#keys")).showModal();
    } else if (key === "c" && !document.body.classList.contains("reads-only")) {
      location.assign("/runs/new");
    }
  });
}
