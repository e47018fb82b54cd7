/** The viewer of examples `[data-viewer]`: the arrow keys go to the example before and after, unless they belong to a field or a table. */
import { isTyping, one } from "../dom.js";

const TAKEN = "input, select, textarea, [role=tab], [role=slider], .table, pre, dialog";

/** Start the behaviour. */
export function startExamples() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || isTyping(event.target) || one("dialog[open]")) return;
    if (event.target instanceof Element && event.target.closest(TAKEN)) return;
    const name = event.key === "ArrowLeft" ? "prev" : event.key === "ArrowRight" ? "next" : "";
    const link = name && one(`[data-viewer] [data-${name}]`);
    if (!link) return;
    event.preventDefault();
    link.click();
  });
}
