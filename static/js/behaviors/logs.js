/** The log of a run: new lines are added as they come, the newest stays in view; levels can be hidden, text searched for, lines linked to. */
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
  const link = document.createElement("a");
  link.href = `${location.pathname}?tab=logs&at=${line.cursor}#L${line.cursor}`;
  link.title = "Link to this line";
  const time = document.createElement("time");
  time.textContent = line.at.slice(11, 19);
  link.append(time);
  const level = document.createElement("span");
  level.className = "level";
  level.textContent = line.level;
  const text = document.createElement("span");
  text.className = "text";
  text.textContent = line.text;
  item.append(link, level, text);
  return item;
}

/**
 * Put a value into the address, or take it out.
 * @param {string} name
 * @param {string} value
 */
function note(name, value) {
  const url = new URL(location.href);
  if (value) url.searchParams.set(name, value);
  else url.searchParams.delete(name);
  history.replaceState(null, "", url);
}

/** Start the behaviour. */
export function startLogs() {
  const list = one("#log");
  const follow = /** @type {HTMLInputElement | null} */ (one("[data-log-follow]"));
  const level = /** @type {HTMLSelectElement | null} */ (one("[data-log-level]"));
  const search = /** @type {HTMLInputElement | null} */ (one("[data-log-search]"));
  if (!list || !follow || !level || !search) return;
  let wanted = (list.dataset.q ?? "").toLowerCase();
  const toEnd = () => {
    if (follow.checked) list.scrollTop = list.scrollHeight;
  };
  const matches = (/** @type {Element} */ item) => (item.lastElementChild?.textContent ?? "").toLowerCase().includes(wanted);
  const target = location.hash.startsWith("#L") ? document.getElementById(location.hash.slice(1)) : null;
  if (target) {
    follow.checked = false;
    target.scrollIntoView({ block: "center" });
  }
  toEnd();
  document.addEventListener("log", (event) => {
    if (new URLSearchParams(location.search).has("at")) return; // what comes now does not follow on the lines that are shown
    const lines = /** @type {Line[]} */ (messageOf(event)?.lines ?? []).filter((line) => !document.getElementById(`L${line.cursor}`));
    const items = lines.map(shown);
    for (const item of items) item.hidden = !matches(item);
    list.append(...items);
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
    note("level", level.value);
    toEnd();
  });
  // While typing, the lines that are here; Enter asks the server, which looks through the whole log.
  search.addEventListener("input", () => {
    wanted = search.value.trim().toLowerCase();
    for (const item of list.children) /** @type {HTMLElement} */ (item).hidden = !matches(item);
    note("q", search.value.trim());
    toEnd();
  });
}
