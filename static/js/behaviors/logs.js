/** The log of a run: new lines are added as they come, the newest stays in view, and lesser levels can be hidden. */
import { messageOf, one } from "../dom.js";

const KEPT_LINES = 5000;

/** @typedef {{cursor: string, at: string, level: string, text: string}} Line */

/**
 * @param {Line} line
 * @returns {HTMLElement}
 */
function shown(line) {
  const item = document.createElement("li");
  item.className = line.level;
  item.id = `L${line.cursor}`;
  const time = document.createElement("time");
  time.textContent = line.at.slice(11, 19);
  const level = document.createElement("span");
  level.className = "level";
  level.textContent = line.level;
  const text = document.createElement("span");
  text.className = "text";
  text.textContent = line.text;
  item.append(time, level, text);
  return item;
}

/** Start the behaviour. */
export function startLogs() {
  const list = one("#log");
  const follow = /** @type {HTMLInputElement | null} */ (one("[data-log-follow]"));
  const level = /** @type {HTMLSelectElement | null} */ (one("[data-log-level]"));
  if (!list || !follow || !level) return;
  const toEnd = () => {
    if (follow.checked) list.scrollTop = list.scrollHeight;
  };
  toEnd();
  document.addEventListener("log", (event) => {
    const lines = /** @type {Line[]} */ (messageOf(event)?.lines ?? []).filter((line) => !document.getElementById(`L${line.cursor}`));
    list.append(...lines.map(shown));
    while (list.childElementCount > KEPT_LINES) list.firstElementChild?.remove();
    one("#log-empty")?.remove();
    toEnd();
  });
  list.addEventListener("wheel", (event) => {
    // Whoever scrolls up wants to read.
    if (event.deltaY < 0) follow.checked = false;
  });
  follow.addEventListener("change", toEnd);
  level.addEventListener("change", () => {
    list.dataset.level = level.value;
    const url = new URL(location.href);
    url.searchParams.set("level", level.value);
    history.replaceState(null, "", url);
    toEnd();
  });
}
