/** Sends a form with `data-autosubmit` as soon as something in it is chosen. */

/** Start the behaviour. */
export function startAutosubmit() {
  document.addEventListener("change", (event) => {
    if (event.target instanceof Element)
      /** @type {HTMLFormElement | null} */ (event.target.closest("form[data-autosubmit]"))?.requestSubmit();
  });
}
