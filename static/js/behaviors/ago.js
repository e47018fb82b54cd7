/** Keeps "5m ago" true while the page stays open. */
import { all } from "../dom.js";

const EVERY_MS = 20_000;
const UNITS = /** @type {[number, string][]} */ ([
  [86_400, "d"],
  [3_600, "h"],
  [60, "m"],
]);

/** @param {number} seconds */
function words(seconds) {
  const [size, unit] = UNITS.find(([each]) => seconds >= each) ?? [0, ""];
  return size ? `${Math.floor(seconds / size)}${unit} ago` : "just now";
}

/** Start the behaviour. */
export function startAgo() {
  setInterval(() => {
    for (const time of all("time[data-ago]")) {
      time.textContent = words((Date.now() - Date.parse(time.getAttribute("datetime") ?? "")) / 1000);
    }
  }, EVERY_MS);
}
