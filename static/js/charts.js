/** The charts of one run or of several: loads the points, follows the stream, lays other runs over. The tools are in `charts-tools.js`. */
/* global uPlot */
import { catalog, wanted } from "./charts-catalog.js";
import { RunData } from "./charts-data.js";
import { readByKeys } from "./charts-keys.js";
import { Plot } from "./charts-plot.js";
import { keep, obeyTools, remembered } from "./charts-tools.js";
import { messageOf, one } from "./dom.js";

const MOST_POINTS = 12_000;
const LOADED_POINTS = 1_000;
const LEAST_POINTS = 250;
const COLOURS = 8;
const RETRY_MS = 3_000;

export class Charts {
  /** @param {HTMLElement} holder */
  constructor(holder) {
    this.holder = holder;
    /** @type {{id: string, name: string, slot: number}[]} */
    const listed = JSON.parse(holder.dataset.runs ?? "[]");
    /** The runs the page is about: one, or those that are compared. */
    this.subjects = listed.map(({ id, name, slot }) => new RunData(id, name, slot));
    this.own = this.subjects[0];
    this.isSystem = "system" in holder.dataset;
    this.inAddress = "inAddress" in holder.dataset;
    /** @type {Map<string, RunData>} */
    this.over = new Map();
    /** @type {Map<string, Plot>} */
    this.plots = new Map();
    this.marks = (holder.dataset.marks ?? "").split(",").filter(Boolean).map(Number);
    /** @type {import("./charts-plot.js").View} */
    this.view = remembered(this.inAddress);
    if (this.isSystem) this.view = { ...this.view, axis: "time", isLog: false, skipsOutliers: false };
    this.sync = uPlot.sync("run");
    this.isLoaded = false;
    /** @type {[string, any][]} */
    this.waiting = [];
    /** @type {Set<string>} */
    this.due = new Set();
    this.frame = 0;
  }

  get runs() {
    return [...this.subjects, ...this.over.values()];
  }

  /**
   * Load one of the runs; they share what one page should weigh.
   * @param {RunData} run
   */
  async read(run) {
    await run.load(wanted(this.isSystem), Math.max(LEAST_POINTS, Math.floor(LOADED_POINTS / this.runs.length)));
  }

  /** Load the runs of the page (again), then take up what came meanwhile. */
  async load() {
    this.isLoaded = false;
    try {
      await Promise.all(this.subjects.map((run) => this.read(run)));
    } catch (error) {
      if (!this.plots.size) this.say("The curve could not be loaded", `${error instanceof Error ? error.message : error} Trying again.`);
      this.waiting = []; // what is loaded next has it all
      setTimeout(() => this.load(), RETRY_MS);
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
    const run = this.subjects.find(({ id }) => message?.topic === `run:${id}`);
    if (!run) return;
    if (!this.isLoaded) {
      this.waiting.push([kind, message]);
      return;
    }
    if (kind === "reload") {
      this.load();
    } else if (kind === "truncate") {
      run.truncate(message.after_step);
      this.refresh(this.plots.keys());
    } else if (kind === "metrics") {
      for (const point of message.points) run.add(point);
      if (run.longest > MOST_POINTS) this.load();
      else this.refresh(message.points.map((/** @type {[string]} */ [name]) => name));
    } else if (kind === "checkpoint" && this.subjects.length === 1 && Number.isInteger(message.data?.step)) {
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
      const isNew = catalog(due, this.isSystem).some(({ name }) => !this.plots.has(name));
      const isGone = due.some((name) => this.plots.has(name) && !this.runs.some((run) => run.series.has(name)));
      // A curve by time or tokens moves with the points that place it.
      if (isNew || isGone) this.drawAll();
      else for (const name of this.view.axis === "step" ? due : this.plots.keys()) this.plots.get(name)?.update(this.runs, this.marks);
    });
  }

  /** Make the cards that are needed, in order, and draw every chart. */
  drawAll() {
    const entries = catalog(
      this.runs.flatMap((run) => [...run.series.keys()]),
      this.isSystem,
    );
    if (!entries.length) {
      const step = Number(this.holder.dataset.firstPoint);
      const isLive = this.holder.dataset.live === "yes";
      this.say(
        "No point yet",
        isLive
          ? this.isSystem
            ? "The use of the machine is measured every ten seconds while steps are made."
            : `The first point comes after step ${step.toLocaleString("en")}.`
          : this.isSystem
            ? "Nothing was measured while this run went on."
            : "This run ended before it wrote a point.",
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
    csv.hidden = this.subjects.length > 1;
    csv.href = `/runs/${this.own.id}/metrics.csv?name=${encodeURIComponent(entry.name)}`;
    csv.setAttribute("aria-label", `${entry.title} as CSV`);
    const full = /** @type {HTMLElement} */ (one("[data-full]", card));
    full.setAttribute("aria-label", `Enlarge ${entry.title}`);
    full.addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : card.requestFullscreen()));
    const element = /** @type {HTMLElement} */ (one(".plot", card));
    element.dataset.key = entry.name;
    const plot = new Plot(element, entry, this.sync);
    readByKeys(plot);
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
      await this.read(run).catch(() => this.over.delete(id));
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
    keep(this.view, this.inAddress);
    if (this.isLoaded) this.drawAll();
  }
}

/**
 * Start the charts of a page.
 * @param {HTMLElement} holder
 */
export async function startCharts(holder) {
  const charts = new Charts(holder);
  if (!charts.subjects.length) return;
  for (const kind of ["metrics", "truncate", "reload", "checkpoint"]) {
    document.addEventListener(kind, (event) => charts.take(kind, messageOf(event)));
  }
  document.addEventListener("themechange", () => charts.isLoaded && charts.drawAll());
  await document.fonts.ready; // the axes are measured with the font
  await charts.load();
  if (one("#chart-tools")) obeyTools(charts);
}
