/** The form of a rating project: what is typed outlives reload and back, and the beginning of what is imported is looked at while it is chosen. */
import { all, one } from "../dom.js";

const KEPT = "luthier-feedback-form";
const TYPING_MS = 300;

/** Whether the page was loaded anew or gone back to, rather than opened. */
function isReturn() {
  const [entry] = /** @type {PerformanceNavigationTiming[]} */ (performance.getEntriesByType("navigation"));
  return entry?.type === "reload" || entry?.type === "back_forward";
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

/** @param {HTMLFormElement} form */
function keep(form) {
  /** @type {Record<string, string>} */
  const values = {};
  for (const [name, value] of new FormData(form)) if (typeof value === "string") values[name] = value;
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ at: location.href, values }));
  } catch {
    // without a store the form still works
  }
}

/** @param {HTMLFormElement} form */
function startKeeping(form) {
  const before = isReturn() ? kept() : null;
  if (before) {
    // @ts-expect-error htmx is a global of its own script
    globalThis.htmx.ajax("POST", form.dataset.kept, { target: "#fields", swap: "outerHTML", values: before }).then(() => {
      form.dispatchEvent(new Event("input", { bubbles: true }));
    });
  }
  for (const kind of ["input", "change"]) form.addEventListener(kind, () => keep(form));
  // Rows that came or went, and items that were found in a file, change what the form asks for without a key.
  const state = () => `${all(".rows-of > li", form).length} ${/** @type {HTMLInputElement | null} */ (one("[name=counted]", form))?.value}`;
  let shown = state();
  document.addEventListener("htmx:after:swap", () => {
    if (state() === shown) return;
    shown = state();
    form.dispatchEvent(new Event("input", { bubbles: true }));
  });
}

/** @param {HTMLFormElement} form */
function startLooking(form) {
  const looked = /** @type {HTMLFormElement | null} */ (one("#looked"));
  if (!looked) return;
  const limit = Number(looked.dataset.headBytes ?? 0);
  let typing = 0;
  /**
   * @param {string} head
   * @param {boolean} cut
   */
  const look = (head, cut) => {
    /** @type {HTMLTextAreaElement} */ (looked.elements.namedItem("head")).value = head;
    /** @type {HTMLInputElement} */ (looked.elements.namedItem("cut")).value = cut ? "1" : "";
    looked.dispatchEvent(new Event("look"));
  };
  const file = () => /** @type {HTMLInputElement | null} */ (one("#f-file", form));
  const text = () => /** @type {HTMLTextAreaElement | null} */ (one("#f-text", form));
  form.addEventListener("change", async (event) => {
    if (event.target !== file()) return;
    const picked = file()?.files?.[0];
    const box = text();
    if (box) box.value = "";
    look(picked ? await picked.slice(0, limit).text() : "", (picked?.size ?? 0) > limit);
  });
  form.addEventListener("input", (event) => {
    const box = text();
    if (event.target !== box || !box) return;
    clearTimeout(typing);
    typing = setTimeout(() => {
      const chosen = file();
      if (box.value && chosen?.value) chosen.value = "";
      look(box.value.slice(0, limit), box.value.length > limit);
    }, TYPING_MS);
  });
}

/** Start the behaviour. */
export function startFeedbackForm() {
  const form = /** @type {HTMLFormElement | null} */ (one("#newproject") ?? one("#additems"));
  if (!form) return;
  if (form.dataset.kept) startKeeping(form);
  startLooking(form);
}
