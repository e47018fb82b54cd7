/** A bar that says how many rows are ticked and what can be done with them (`[data-selection="name of the boxes"]`). */
import { all, one } from "../dom.js";

/** Start the behaviour. */
export function startSelection() {
  const bar = one("[data-selection]");
  if (!bar) return;
  const boxes = `input[type=checkbox][name="${bar.dataset.selection}"]`;
  const show = () => {
    const count = all(`${boxes}:checked`).length;
    bar.hidden = count === 0;
    /** @type {HTMLElement} */ (one("[data-count]", bar)).textContent = String(count);
  };
  document.addEventListener("change", (event) => {
    if (event.target instanceof Element && event.target.matches(boxes)) show();
  });
  document.addEventListener("htmx:after:swap", show);
  one("[data-clear]", bar)?.addEventListener("click", () => {
    for (const box of all(boxes)) /** @type {HTMLInputElement} */ (box).checked = false;
    show();
  });
  show();
}
