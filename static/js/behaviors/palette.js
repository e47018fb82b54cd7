/** The jump palette: the server lists pages and runs; arrows walk the list, Enter takes the first. */
import { all, one } from "../dom.js";

/** Open the palette and have its list loaded. */
export function openPalette() {
  const dialog = one("#palette");
  if (!(dialog instanceof HTMLDialogElement) || dialog.open) return;
  dialog.showModal();
  dialog.dispatchEvent(new Event("opened"));
}

/** Start the behaviour. */
export function startPalette() {
  const dialog = one("#palette");
  const box = /** @type {HTMLInputElement | null} */ (one("#palette-q"));
  if (!dialog || !box) return;
  dialog.addEventListener("opened", () => {
    box.value = "";
    box.dispatchEvent(new Event("palette-open"));
  });
  dialog.addEventListener("keydown", (event) => {
    const links = all("#palette-list a");
    if (event.key === "Enter" && event.target === box) {
      event.preventDefault();
      links[0]?.click();
    }
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const at = links.indexOf(/** @type {HTMLElement} */ (document.activeElement)) + (event.key === "ArrowDown" ? 1 : -1);
    if (at < 0) box.focus();
    else links[Math.min(at, links.length - 1)]?.focus();
  });
}
