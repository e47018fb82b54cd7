/** The list of runs: J, K and X walk and tick its rows, columns are shown and hidden, and Compare waits for enough ticks. */
import { all, isTyping, one } from "../dom.js";

const YEAR = 365 * 24 * 3600;

/** @param {KeyboardEvent} event */
function walk(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || one("dialog[open]")) return;
  const links = all("#runs .name a");
  const row = document.activeElement?.closest("#runs tr");
  const at = links.findIndex((link) => row?.contains(link));
  if (event.key === "j" || event.key === "k") {
    const next = links[at < 0 ? 0 : Math.min(links.length - 1, Math.max(0, at + (event.key === "j" ? 1 : -1)))];
    next?.focus();
    next?.scrollIntoView({ block: "nearest" });
  } else if (event.key === "x" && row) {
    /** @type {HTMLElement | null} */ (one(".tick input", row))?.click();
  }
}

/** Keep the chosen columns: on the page, and in a cookie for the next one. */
function followColumns() {
  const form = /** @type {HTMLFormElement | null} */ (one("[data-columns-of]"));
  form?.addEventListener("change", () => {
    const chosen = all("input:checked", form).map((box) => /** @type {HTMLInputElement} */ (box).value);
    for (const table of all(form.dataset.columnsOf ?? "")) table.dataset.columns = chosen.join(" ");
    document.cookie = `run_columns=${chosen.join(".")};path=/;max-age=${YEAR};samesite=lax`;
  });
}

/** Buttons that need a certain number of ticks (`data-between="2 8"`). */
function watchTicks() {
  const bar = one("[data-selection]");
  if (!bar) return;
  const show = () => {
    const count = all(`input[type=checkbox][name="${bar.dataset.selection}"]:checked`).length;
    for (const button of /** @type {HTMLButtonElement[]} */ (all("[data-between]", bar))) {
      const [least, most] = (button.dataset.between ?? "").split(" ").map(Number);
      button.disabled = count < least || count > most;
    }
  };
  document.addEventListener("change", show);
  document.addEventListener("htmx:after:swap", show);
  one("[data-clear]", bar)?.addEventListener("click", show);
  show();
}

/** Start the behaviour. */
export function startRunList() {
  if (!one("#runs")) return;
  document.addEventListener("keydown", walk);
  followColumns();
  watchTicks();
}
