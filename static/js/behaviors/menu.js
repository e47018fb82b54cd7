/** The sidebar on small screens: opened and closed by `[data-menu]`, closed by Escape. */
import { all, one } from "../dom.js";

/** @param {boolean} open */
function show(open) {
  document.body.classList.toggle("menu-open", open);
  for (const button of all("button[data-menu]")) button.setAttribute("aria-expanded", String(open));
  if (open) one("#side a")?.focus();
}

/** Start the behaviour. */
export function startMenu() {
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("[data-menu]")) show(!document.body.classList.contains("menu-open"));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !document.body.classList.contains("menu-open")) return;
    show(false);
    one("button[data-menu]")?.focus();
  });
}
