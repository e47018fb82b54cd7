/** The charts of a run's page: loads the points, follows the stream, lays other runs over, obeys the tool bar. */
/* global uPlot */
import { catalog } from "./charts-catalog.js";
import { RunData } from "./charts-data.js";
import { Plot } from "./charts-plot.js";
import { all, isTyping, messageOf, one } from "./dom.js";

const MOST_POINTS = 12_000;
const KEPT = "luthier-charts";
const COLOURS = 8;

class Charts {
  /** @param {HTMLElement} holder */
  constructor(holder) {
    this.holder = holder;
    this.own = new RunData(holder.dataset.run ?? "", holder.dataset.name ?? "", 1);
    /** @type {Map<string, RunData>} */
    this.over = new Map();
    /** @type {Map<string, Plot>} */
    this.plots = new Map();
    this.marks = (holder.dataset.marks ?? "").split(",").filter(Boolean).map(Number);
    /** @type {import("./charts-plot.js").View} */
    this.view = { smoothing: 0.8, isLog: false, axis: "step", ...remembered() };
    this.sync = uPlot.sync("run");
    this.isLoaded = false;
    /** @type {[string, any][]} */
    this.waiting = [];
    /** @type {Set<string>} */
    this.due = new Set();
    this.frame = 0;
  }

  get runs() {
    return [this.own, ...this.over.values()];
  }

  /** Load the own run (again), then take up what came meanwhile. */
  async load() {
    this.isLoaded = false;
    try {
      await this.own.load();
    } catch (error) {
      this.say("The curve could not be loaded", `${error instanceof Error ? error.message : error} Load the page again.`);
      return;
    }
    this.isLoaded = true;
    const waiting = this.waiting.splice(0);
    for (const [kind, message] of waiting) this.take(kind, message);
    this.drawAll();
  }

  /**
   * Take up a message of the stream.
   * @param {string} kind
   * @param {any} message
   */
  take(kind, message) {
    if (message?.topic !== `run:${this.own.id}`) return;
    if (!this.isLoaded) {
      this.waiting.push([kind, message]);
      return;
    }
    if (kind === "reload") {
      this.load();
    } else if (kind === "truncate") {
      this.own.truncate(message.after_step);
      this.refresh(this.plots.keys());
    } else if (kind === "metrics") {
      for (const point of message.points) this.own.add(point);
      if (this.own.longest > MOST_POINTS) this.load();
      else this.refresh(message.points.map((/** @type {[string]} */ [name]) => name));
    } else if (kind === "checkpoint" && Number.isInteger(message.data?.step)) {
      this.marks = [...new Set([...this.marks, message.data.step])];
      this.refresh(this.plots.keys());
    }
  }

  /**
   * Have some charts brought up to date in the next frame.
   * @param {Iterable<string>} names
   */
  refresh(names) {
    for (const name of names) this.due.add(name);
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      const due = [...this.due];
      this.due.clear();
      const isNew = catalog(due).some(({ name }) => !this.plots.has(name));
      const isGone = due.some((name) => this.plots.has(name) && !this.runs.some((run) => run.series.has(name)));
      // A curve by time or tokens moves with the points that place it.
      if (isNew || isGone) this.drawAll();
      else for (const name of this.view.axis === "step" ? due : this.plots.keys()) this.plots.get(name)?.update(this.runs, this.marks);
    });
  }

  /** Make the cards that are needed, in order, and draw every chart. */
  drawAll() {
    const entries = catalog(this.runs.flatMap((run) => [...run.series.keys()]));
    if (!entries.length) {
      const step = Number(this.holder.dataset.firstPoint);
      const isLive = this.holder.dataset.live === "yes";
      this.say(
        "No point yet",
        isLive ? `The first point comes after step ${step.toLocaleString("en")}.` : "This run ended before it wrote a point.",
      );
      return;
    }
    const cards = [];
    let group = "";
    const isAlone = entries.filter(({ isBig }) => isBig).length === 1;
    for (const entry of entries) {
      if (entry.group !== group) cards.push(Object.assign(document.createElement("h2"), { textContent: entry.group }));
      group = entry.group;
      const plot = this.plots.get(entry.name) ?? this.makePlot(entry);
      const card = /** @type {HTMLElement} */ (plot.element.parentElement);
      card.classList.toggle("big", entry.isBig);
      card.classList.toggle("whole", entry.isBig && isAlone);
      cards.push(card);
    }
    for (const name of this.plots.keys()) if (!entries.some((entry) => entry.name === name)) this.plots.delete(name);
    if (cards.length !== this.holder.children.length || cards.some((card, index) => card !== this.holder.children[index])) {
      this.holder.replaceChildren(...cards);
    }
    for (const plot of this.plots.values()) plot.draw(this.runs, this.view, this.marks);
    this.drawLegend();
  }

  /** @param {import("./charts-catalog.js").Entry} entry */
  makePlot(entry) {
    const template = /** @type {HTMLTemplateElement} */ (one("#chart-card"));
    const card = /** @type {HTMLElement} */ (/** @type {DocumentFragment} */ (template.content.cloneNode(true)).firstElementChild);
    card.setAttribute("aria-label", entry.title);
    /** @type {HTMLElement} */ (one("h2", card)).textContent = entry.title;
    /** @type {HTMLElement} */ (one("code", card)).textContent = entry.name;
    const csv = /** @type {HTMLAnchorElement} */ (one("[data-csv]", card));
    csv.href = `/runs/${this.own.id}/metrics.csv?name=${encodeURIComponent(entry.name)}`;
    csv.setAttribute("aria-label", `${entry.title} as CSV`);
    const full = /** @type {HTMLElement} */ (one("[data-full]", card));
    full.setAttribute("aria-label", `Enlarge ${entry.title}`);
    full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : card.requestFullscreen()));
    const element = /** @type {HTMLElement} */ (one(".plot", card));
    element.dataset.key = entry.name;
    const plot = new Plot(element, entry, this.sync);
    this.plots.set(entry.name, plot);
    return plot;
  }

  drawLegend() {
    const items = this.runs.map((run) => {
      const item = document.createElement("span");
      const dash = document.createElement("i");
      dash.style.setProperty("--c", `var(--c${run.slot})`);
      item.append(dash, run.name);
      return item;
    });
    if (this.marks.length) items.push(Object.assign(document.createElement("span"), { textContent: "◆ checkpoint" }));
    one("[data-legend]")?.replaceChildren(...items);
  }

  /**
   * Say in place of the charts why there is none.
   * @param {string} title
   * @param {string} words
   */
  say(title, words) {
    const template = /** @type {HTMLTemplateElement} */ (one("#charts-empty"));
    const empty = /** @type {DocumentFragment} */ (template.content.cloneNode(true));
    /** @type {HTMLElement} */ (one("h2", empty)).textContent = title;
    /** @type {HTMLElement} */ (one("[data-words]", empty)).textContent = words;
    this.plots.clear();
    this.holder.replaceChildren(empty);
  }

  /**
   * Lay another run over, or take it away.
   * @param {string} id
   * @param {string} name
   * @param {boolean} isOn
   */
  async overlay(id, name, isOn) {
    if (isOn) {
      const used = new Set(this.runs.map((run) => run.slot));
      const slot = Array.from({ length: COLOURS }, (_, index) => index + 1).find((each) => !used.has(each));
      if (!slot) return;
      const run = new RunData(id, name, slot);
      this.over.set(id, run);
      await run.load().catch(() => this.over.delete(id));
    } else {
      this.over.delete(id);
    }
    const url = new URL(location.href);
    if (this.over.size) url.searchParams.set("with", [...this.over.keys()].join(","));
    else url.searchParams.delete("with");
    history.replaceState(null, "", url);
    this.drawAll();
  }

  /** @param {Partial<import("./charts-plot.js").View>} change */
  change(change) {
    Object.assign(this.view, change);
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.view));
    } catch {
      // a browser that keeps nothing still shows the charts
    }
    if (this.isLoaded) this.drawAll();
  }
}

/** What the user chose last time. */
function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  } catch {
    return {};
  }
}

/** @param {Charts} charts */
function obeyTools(charts) {
  const range = /** @type {HTMLInputElement} */ (one("[data-smooth]"));
  const log = /** @type {HTMLInputElement} */ (one("[data-log]"));
  const setSmoothing = (/** @type {number} */ value) => {
    const smoothing = Math.min(0.99, Math.max(0, value));
    range.value = String(smoothing);
    /** @type {HTMLElement} */ (range.nextElementSibling).textContent = smoothing.toFixed(2);
    if (smoothing !== charts.view.smoothing) charts.change({ smoothing });
  };
  setSmoothing(charts.view.smoothing);
  log.checked = charts.view.isLog;
  range.addEventListener("input", () => setSmoothing(Number(range.value)));
  log.addEventListener("change", () => charts.change({ isLog: log.checked }));
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

/**
 * Start the charts of a page.
 * @param {HTMLElement} holder
 */
export async function startCharts(holder) {
  const charts = new Charts(holder);
  for (const kind of ["metrics", "truncate", "reload", "checkpoint"]) {
    document.addEventListener(kind, (event) => charts.take(kind, messageOf(event)));
  }
  document.addEventListener("themechange", () => charts.isLoaded && charts.drawAll());
  await document.fonts.ready; // the axes are measured with the font
  await charts.load();
  obeyTools(charts);
}
