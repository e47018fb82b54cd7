/** The jump palette: the server lists what there is to go to or to do; arrows walk the list, Enter takes the first. */
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
  const dialog = /** @type {HTMLDialogElement | null} */ (one("#palette"));
  const box = /** @type {HTMLInputElement | null} */ (one("#palette-q"));
  if (!dialog || !box) return;
  // What is listed belongs to what was typed before, until the server has answered: Enter waits for that.
  let isWanted = false;
  const isStale = () => one("#palette-list [data-q]")?.dataset.q !== box.value.trim();
  const first = () => all("#palette-list :is(a, button)")[0]?.click();
  document.addEventListener("htmx:after:swap", () => {
    if (!isWanted || isStale()) return;
    isWanted = false;
    first();
  });
  dialog.addEventListener("opened", () => {
    isWanted = false;
    box.value = "";
    box.dispatchEvent(new Event("palette-open"));
  });
  dialog.addEventListener("keydown", (event) => {
    const links = all("#palette-list :is(a, button)");
    if (event.key === "Enter" && event.target === box) {
      event.preventDefault();
      if (isStale()) isWanted = true;
      else first();
    }
    if (event.key.length === 1 && event.target !== box && event.key !== " ") box.focus(); // typing goes on from anywhere in the list
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    const at = links.indexOf(/** @type {HTMLElement} */ (document.activeElement)) + (event.key === "ArrowDown" ? 1 : -1);
    if (at < 0) box.focus();
    else links[Math.min(at, links.length - 1)]?.focus();
  });
}
