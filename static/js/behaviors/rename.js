/** Editing a name in place: `[data-rename]` puts the form in the place of the heading, Escape and `[data-rename-cancel]` take it back. */
import { one } from "../dom.js";

/**
 * Show the form or the heading.
 * @param {Element} box
 * @param {boolean} isEdited
 */
function show(box, isEdited) {
  for (const selector of ["h1", "[data-rename]"]) one(selector, box)?.toggleAttribute("hidden", isEdited);
  one("form", box)?.toggleAttribute("hidden", !isEdited);
  if (isEdited) /** @type {HTMLInputElement | null} */ (one("input[name=name]", box))?.select();
  else one("[data-rename]", box)?.focus();
}

/** Start the behaviour. */
export function startRename() {
  document.addEventListener("click", (event) => {
    const button = event.target instanceof Element ? event.target.closest("[data-rename], [data-rename-cancel]") : null;
    const box = button?.closest(".rename");
    if (box) show(box, button?.matches("[data-rename]") ?? false);
  });
  document.addEventListener("keydown", (event) => {
    const form = event.target instanceof Element ? event.target.closest(".rename form") : null;
    if (event.key !== "Escape" || !form) return;
    /** @type {HTMLFormElement} */ (form).reset();
    show(/** @type {Element} */ (form.parentElement), false);
  });
}
