/** The tool bar of the charts: smoothing, axis, scale, outliers. Kept for the next page, or in the address where the page says so. */
import { all, isTyping, one } from "./dom.js";

/** @typedef {import("./charts-plot.js").View} View */

const KEPT = "luthier-charts";
const AXES = ["step", "time", "tokens"];
/** @type {View} */
const USUAL = { smoothing: 0.8, isLog: false, axis: "step", skipsOutliers: false };

/**
 * How the charts are to be shown: as the address says, else as the user chose last time.
 * @param {boolean} inAddress
 * @returns {View}
 */
export function remembered(inAddress) {
  /** @type {View} */
  let view = { ...USUAL };
  try {
    Object.assign(view, JSON.parse(localStorage.getItem(KEPT) ?? "{}"));
  } catch {
    view = { ...USUAL };
  }
  if (!inAddress) return view;
  const asked = new URLSearchParams(location.search);
  const smooth = Number(asked.get("smooth") ?? Number.NaN);
  if (smooth >= 0 && smooth <= 0.99) view.smoothing = smooth;
  if (AXES.includes(asked.get("axis") ?? "")) view.axis = /** @type {View["axis"]} */ (asked.get("axis"));
  if (asked.has("log")) view.isLog = asked.get("log") === "1";
  if (asked.has("outliers")) view.skipsOutliers = asked.get("outliers") === "0";
  return view;
}

/**
 * Keep how the charts are shown.
 * @param {View} view
 * @param {boolean} inAddress
 */
export function keep(view, inAddress) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(view));
  } catch {
    // a browser that keeps nothing still shows the charts
  }
  if (!inAddress) return;
  const url = new URL(location.href);
  url.searchParams.set("smooth", view.smoothing.toFixed(2));
  url.searchParams.set("axis", view.axis);
  url.searchParams.set("log", view.isLog ? "1" : "0");
  url.searchParams.set("outliers", view.skipsOutliers ? "0" : "1");
  history.replaceState(null, "", url.href.replaceAll("%2C", ","));
  // The links and forms of the page lead to other addresses of it: what is shown goes along.
  const own = ["smooth", "axis", "log", "outliers"];
  for (const link of /** @type {HTMLAnchorElement[]} */ (all(`main a[href^="${location.pathname}?"]`))) {
    const to = new URL(link.href);
    for (const name of own) to.searchParams.set(name, url.searchParams.get(name) ?? "");
    link.href = to.href.replaceAll("%2C", ",");
  }
  for (const form of /** @type {HTMLFormElement[]} */ (all(`main form[action="${location.pathname}"]`))) {
    for (const name of own) {
      const field = form.querySelector(`input[name=${name}]`) ?? form.appendChild(document.createElement("input"));
      Object.assign(field, { type: "hidden", name, value: url.searchParams.get(name) ?? "" });
    }
  }
}

/** @param {import("./charts.js").Charts} charts */
export function obeyTools(charts) {
  const range = /** @type {HTMLInputElement} */ (one("[data-smooth]"));
  const log = /** @type {HTMLInputElement} */ (one("[data-log]"));
  const outliers = /** @type {HTMLInputElement} */ (one("[data-outliers]"));
  const setSmoothing = (/** @type {number} */ value) => {
    const smoothing = Math.min(0.99, Math.max(0, value));
    range.value = String(smoothing);
    /** @type {HTMLElement} */ (range.nextElementSibling).textContent = smoothing.toFixed(2);
    if (smoothing !== charts.view.smoothing) charts.change({ smoothing });
  };
  setSmoothing(charts.view.smoothing);
  log.checked = charts.view.isLog;
  outliers.checked = charts.view.skipsOutliers;
  range.addEventListener("input", () => setSmoothing(Number(range.value)));
  log.addEventListener("change", () => charts.change({ isLog: log.checked }));
  outliers.addEventListener("change", () => charts.change({ skipsOutliers: outliers.checked }));
  for (const choice of /** @type {HTMLInputElement[]} */ (all("[data-axis]"))) {
    choice.checked = choice.value === charts.view.axis;
    choice.addEventListener("change", () => charts.change({ axis: /** @type {import("./charts-data.js").Axis} */ (choice.value) }));
  }
  for (const box of /** @type {HTMLInputElement[]} */ (all("[data-overlay]"))) {
    box.addEventListener("change", () => charts.overlay(box.value, box.dataset.name ?? box.value, box.checked));
    if (box.checked) charts.overlay(box.value, box.dataset.name ?? box.value, true);
  }
  document.addEventListener("keydown", (event) => {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || one("dialog[open]")) return;
    if (event.key === "l") log.click();
    if (event.key === "[") setSmoothing(charts.view.smoothing - 0.05);
    if (event.key === "]") setSmoothing(charts.view.smoothing + 0.05);
  });
}
