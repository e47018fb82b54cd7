/** The playground: values beside sliders, checkpoints in the address, plain text on demand, a thread that stays at its end. */
import { all, one } from "../dom.js";

const NEAR = 160;
const MARGIN = 40;

/** Start the behaviour. */
export function startChat() {
  const form = /** @type {HTMLFormElement | null} */ (one("form[data-chat]"));
  if (!form) return;
  const text = /** @type {HTMLTextAreaElement | null} */ (one("#text"));
  document.addEventListener("input", (event) => {
    const slider = event.target;
    if (!(slider instanceof HTMLInputElement) || slider.type !== "range") return;
    const shown = one(`output[for="${slider.id}"]`);
    if (shown) shown.textContent = slider.value;
  });
  document.addEventListener("change", (event) => {
    if (!(event.target instanceof Element)) return;
    if (event.target.matches("[data-in-url]")) {
      const url = new URL(location.href);
      for (const field of /** @type {HTMLSelectElement[]} */ (all("[data-in-url]"))) {
        if (field.value) url.searchParams.set(field.name, field.value);
        else url.searchParams.delete(field.name);
      }
      history.replaceState(null, "", url);
    }
    if (event.target instanceof HTMLInputElement && event.target.matches("[data-raw]"))
      one("#thread")?.classList.toggle("is-raw", event.target.checked);
  });
  document.addEventListener("click", (event) => {
    const starter = event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest("[data-fill]")) : null;
    if (!starter || !text) return;
    text.value = starter.dataset.fillText ?? "";
    text.focus();
  });

  // Whoever reads further up is left in peace; otherwise the newest words stay in view.
  let atEnd = true;
  const below = () => (one("#thread")?.getBoundingClientRect().bottom ?? 0) + form.offsetHeight + MARGIN - innerHeight;
  addEventListener("scroll", () => (atEnd = below() < NEAR), { passive: true });
  const follow = () => {
    if (atEnd && below() > 0) scrollBy({ top: below() });
  };
  document.addEventListener("htmx:after:swap", follow);
  if (one("#thread .turn")) follow();

  document.addEventListener("htmx:after:request", (event) => {
    const { ctx } = /** @type {CustomEvent} */ (event).detail;
    if (ctx.response?.status !== 200) return;
    one("#ask-problem")?.replaceChildren();
    if (ctx.sourceElement !== form || !text) return;
    text.value = "";
    atEnd = true;
  });
}
