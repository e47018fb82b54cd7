/** Reads a chart by keyboard: arrows move over its points, a live region says what is there. */
import { one } from "./dom.js";

const BY_TENS = 10;

/**
 * Where a key leads to.
 * @param {KeyboardEvent} event
 * @param {number} at
 * @param {number} last
 */
function target(event, at, last) {
  const stride = event.shiftKey ? BY_TENS : 1;
  if (event.key === "ArrowRight") return Math.min(last, at + stride);
  if (event.key === "ArrowLeft") return at < 0 ? last : Math.max(0, at - stride);
  if (event.key === "Home") return 0;
  return event.key === "End" ? last : null;
}

/**
 * Have a chart obey the keys while it has the focus.
 * @param {import("./charts-plot.js").Plot} plot
 */
export function readByKeys(plot) {
  plot.element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !plot.uplot) return;
    if (event.key === "f") {
      /** @type {HTMLElement | null} */ (plot.element.parentElement?.querySelector("[data-full]"))?.click();
      return;
    }
    const next = target(event, plot.reading, plot.uplot.data[0].length - 1);
    if (next === null) return;
    event.preventDefault();
    const words = plot.read(next);
    const live = one("#chart-read");
    if (live && words) live.textContent = words;
  });
  plot.element.addEventListener("blur", () => {
    plot.reading = -1;
    plot.uplot?.setCursor({ left: -10, top: -10 });
  });
}
