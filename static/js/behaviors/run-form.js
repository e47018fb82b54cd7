/** The form of a new run: what is typed outlives reload and back, differences to the run it was made from are marked, pasted YAML fills it in. */
import { all, one } from "../dom.js";

const KEPT = "luthier-new-run";

/**
 * What the form holds; of several fields with one name the last counts, as on the server.
 * @param {HTMLFormElement} form
 * @returns {Record<string, string>}
 */
function typed(form) {
  /** @type {Record<string, string>} */
  const found = {};
  for (const [name, value] of new FormData(form)) if (typeof value === "string") found[name] = value;
  return found;
}

/** Whether the page was loaded anew or gone back to, rather than opened. */
function isReturn() {
  const [entry] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
  return entry?.type === "reload" || entry?.type === "back_forward";
}

/** @param {HTMLFormElement} form */
function keep(form) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ at: location.href, values: typed(form) }));
  } catch {
    // without a store the form still works
  }
}

/** @returns {Record<string, string> | null} */
function kept() {
  try {
    const { at, values } = JSON.parse(sessionStorage.getItem(KEPT) ?? "null") ?? {};
    return at === location.href ? values : null;
  } catch {
    return null;
  }
}

/** Mark the fields that differ from the run this one was made from, as the plan lists them. */
function markDifferences() {
  const names = (one("#plan [data-differs]")?.dataset.differs ?? "").split(" ").filter(Boolean);
  for (const field of all("#fields .field.differs, #fields fieldset.differs")) field.classList.remove("differs");
  for (const name of names) document.getElementById(`f-${name}`)?.closest(".field, fieldset")?.classList.add("differs");
}

/** Start the behaviour. */
export function startRunForm() {
  const form = /** @type {HTMLFormElement | null} */ (one("#newrun"));
  if (!form) return;
  const before = isReturn() ? kept() : null;
  if (before) {
    // @ts-expect-error htmx is a global of its own script
    globalThis.htmx.ajax("POST", "/runs/new/fields", { target: "#fields", swap: "outerHTML", values: before }).then(() => {
      form.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }
  for (const kind of ["input", "change"]) form.addEventListener(kind, () => keep(form));
  document.addEventListener("htmx:after:swap", markDifferences);
  document.addEventListener("filled", () => {
    /** @type {HTMLDialogElement | null} */ (one("#paste"))?.close();
    form.dispatchEvent(new Event("input", { bubbles: true }));
  });
}
