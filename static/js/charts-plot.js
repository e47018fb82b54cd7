/** One uPlot: the curves of one metric for several runs, a raw and a smoothed line each, with a tooltip and marks. */
/* global uPlot */
import { colour, faint, kindName, place, smooth, writing } from "./charts-format.js";

/** @typedef {import("./charts-data.js").RunData} RunData */
/** @typedef {import("./charts-data.js").Axis} Axis */
/** @typedef {{smoothing: number, isLog: boolean, axis: Axis, skipsOutliers: boolean}} View */
/** @typedef {{run: RunData, places: number[]}} Curve */

/** Series come in pairs after the horizontal one: raw at odd places, smoothed at even ones. */
const PAIR = 2;

export class Plot {
  /**
   * @param {HTMLElement} element
   * @param {import("./charts-catalog.js").Entry} entry
   * @param {any} sync - uPlot's group of charts whose cursors move together.
   */
  constructor(element, entry, sync) {
    this.element = element;
    this.entry = entry;
    this.sync = sync;
    this.writing = writing(entry.name);
    /** @type {any} */
    this.uplot = null;
    /** @type {Curve[]} */
    this.curves = [];
    /** @type {number[]} */
    this.marks = [];
    /** The point that the keys are on; -1 before the first key. */
    this.reading = -1;
    /** @type {View} */
    this.view = { smoothing: 0, isLog: false, axis: "step", skipsOutliers: false };
    new ResizeObserver(() => this.uplot?.setSize(this.size())).observe(element);
  }

  size() {
    return { width: this.element.clientWidth, height: this.element.clientHeight };
  }

  /**
   * Columns for uPlot of the runs that have the metric; null when none has.
   * @param {Iterable<RunData>} runs
   */
  table(runs) {
    const parts = [];
    this.curves = [];
    for (const run of runs) {
      const series = run.series.get(this.entry.name);
      if (!series?.steps.length) continue;
      const places = run.places(series.steps, this.view.axis);
      const values = this.view.isLog ? series.values.map((value) => (value !== null && value > 0 ? value : null)) : series.values;
      parts.push([places, values, this.entry.isSmoothed ? smooth(places, values, this.view.smoothing) : values]);
      this.curves.push({ run, places });
    }
    if (!parts.length) return null;
    return parts.length > 1 ? uPlot.join(parts) : parts[0].map((column) => [...column]);
  }

  /**
   * Draw from scratch: the runs, the theme or the kind of axis have changed.
   * @param {RunData[]} runs - The page's own run first.
   * @param {View} view
   * @param {number[]} marks - Steps of checkpoints of the own run.
   */
  draw(runs, view, marks) {
    this.uplot?.destroy();
    this.uplot = null;
    this.view = { ...view, isLog: view.isLog && /loss|norm/.test(this.entry.name) };
    this.marks = marks;
    const data = this.table(runs);
    if (data) this.uplot = new uPlot({ ...this.options(), ...this.size() }, data, this.element);
    this.say(runs[0]);
  }

  /**
   * Take up new points, keeping what the user has zoomed to.
   * @param {RunData[]} runs
   * @param {number[]} marks
   */
  update(runs, marks) {
    const before = this.curves.length;
    const xs = this.uplot?.data[0];
    const data = this.table(runs);
    this.marks = marks;
    if (!this.uplot || !data || this.curves.length !== before) {
      this.draw(runs, this.view, marks);
      return;
    }
    const { min, max } = this.uplot.scales.x;
    const isZoomed = xs.length > 1 && (min > xs[0] || max < xs[xs.length - 1]);
    this.uplot.setData(data, !isZoomed);
    if (isZoomed) this.uplot.setScale("x", { min, max });
    this.say(runs[0]);
  }

  /**
   * Tell the newest value to eyes and to screen readers.
   * @param {RunData} run
   */
  say(run) {
    const last = run.last(this.entry.name);
    const words = last ? (last.kind ? kindName(last.kind) : this.writing.full(last.value)) : "–";
    const output = this.element.parentElement?.querySelector("[data-last]");
    if (output) output.textContent = words;
    this.element.setAttribute(
      "aria-label",
      last ? `${this.entry.title}: ${words} at step ${last.step}` : `${this.entry.title}: no value yet`,
    );
  }

  options() {
    const muted = colour("--muted");
    const line = colour("--line");
    const axis = { stroke: muted, font: '11px "Geist"', grid: { stroke: line, width: 1 }, ticks: { show: false }, gap: 6 };
    const isSparse = this.curves.every(({ places }) => places.length < 3);
    /** @type {any[]} */
    const series = [{}];
    for (const { run } of this.curves) {
      const stroke = colour(`--c${run.slot}`);
      const points = isSparse ? { show: true, size: 6, fill: stroke, stroke } : { show: false };
      series.push({ stroke: faint(stroke), width: 1, points: { show: false }, spanGaps: true, label: "raw" });
      series.push({ stroke, width: 1.75, points, spanGaps: true, label: run.name, colour: stroke });
    }
    return {
      padding: [8, 20, 0, 0],
      legend: { show: false },
      plugins: [this.tooltip(), this.drawnMarks()],
      scales: {
        x: { time: false },
        y: {
          ...(this.view.isLog ? { distr: 3 } : {}),
          ...(this.view.isLog || this.view.skipsOutliers ? { range: this.range.bind(this) } : {}),
        },
      },
      axes: [
        {
          ...axis,
          size: 28,
          space: 76,
          grid: { show: false },
          values: (/** @type {any} */ _, /** @type {number[]} */ all) =>
            all.map((value) => (this.view.axis === "step" && value % 1 ? "" : place(value, this.view.axis))),
        },
        { ...axis, size: 52, space: 34, values: (/** @type {any} */ _, /** @type {number[]} */ all) => all.map(this.writing.short) },
      ],
      cursor: {
        y: false,
        sync: { key: this.sync.key, setSeries: false },
        points: { size: 7, show: (/** @type {any} */ _, /** @type {number} */ index) => (index % PAIR === 0 ? undefined : false) },
        focus: { prox: 24 },
        drag: { x: true, y: false },
      },
      series,
    };
  }

  /**
   * Ends of the vertical axis.
   * @param {any} u
   * @param {number} low
   * @param {number} high
   */
  range(u, low, high) {
    if (this.view.skipsOutliers) [low, high] = usual(u, low, high);
    if (this.view.isLog) return [low / 1.08, high * 1.08];
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    return [low - pad, high + pad];
  }

  /** A box beside the cursor with the value of every run there. */
  tooltip() {
    const box = document.createElement("div");
    box.className = "u-tip";
    box.hidden = true;
    return {
      hooks: {
        init: (/** @type {any} */ u) => u.over.append(box),
        setCursor: (/** @type {any} */ u) => {
          const { left, idx } = u.cursor;
          box.hidden = idx === null || idx === undefined || left < 0 || !(u.root.matches(":hover") || this.element === document.activeElement);
          if (box.hidden) return;
          const head = document.createElement("b");
          head.textContent = this.where(u.data[0][idx]);
          box.replaceChildren(head, ...this.curves.map((curve, index) => this.tooltipRow(u, curve, 1 + index * PAIR, idx)));
          box.style.translate = left > u.over.clientWidth / 2 ? `${left - box.offsetWidth - 12}px 8px` : `${left + 12}px 8px`;
        },
      },
    };
  }

  /**
   * @param {any} u
   * @param {Curve} curve
   * @param {number} column - Of the raw values.
   * @param {number} index
   */
  tooltipRow(u, curve, column, index) {
    // Runs are measured at steps of their own: walk back to the last one at or before the cursor.
    let at = index;
    const known = new Map(curve.places.map((each, number) => [each, number]));
    while (at > 0 && !known.has(u.data[0][at])) at--;
    const number = known.get(u.data[0][at]);
    const series = curve.run.series.get(this.entry.name);
    const kind = number === undefined ? undefined : series?.odd.get(series.steps[number]);
    const row = document.createElement("div");
    const dot = document.createElement("i");
    dot.style.setProperty("--c", u.series[column + 1].colour);
    const name = document.createElement("span");
    name.textContent = curve.run.name;
    const value = document.createElement("strong");
    value.className = "num";
    value.textContent = kind ? kindName(kind) : this.writing.full(u.data[column][at]);
    row.append(dot, name, value);
    return row;
  }

  /**
   * Put the cursor on a point, and say in words what is there.
   * @param {number} index - Counted from the first point on; null when there is no chart.
   * @returns {string | null}
   */
  read(index) {
    const u = this.uplot;
    if (!u?.data[0].length) return null;
    const at = Math.min(Math.max(0, index), u.data[0].length - 1);
    this.reading = at;
    const left = u.valToPos(u.data[0][at], "x");
    u.setCursor({ left, top: u.over.clientHeight / 2 });
    const where = this.where(u.data[0][at]);
    const said = this.curves.map((curve, number) => {
      const value = this.tooltipRow(u, curve, 1 + number * PAIR, at).lastElementChild?.textContent;
      return this.curves.length > 1 ? `${curve.run.name} ${value}` : value;
    });
    return `${this.entry.title}, ${where}: ${said.join(", ")}`;
  }

  /**
   * A place on the horizontal axis in words.
   * @param {number} x
   */
  where(x) {
    const at = place(x, this.view.axis);
    return this.view.axis === "step" ? `step ${at}` : this.view.axis === "time" ? `after ${at}` : `${at} tokens`;
  }

  /** Checkpoints as small diamonds on the horizontal axis, and what is no number as triangles at the top. */
  drawnMarks() {
    return {
      hooks: {
        draw: (/** @type {any} */ u) => {
          const { ctx, bbox } = u;
          const unit = devicePixelRatio;
          const inside = (/** @type {number} */ x) => x >= bbox.left - 1 && x <= bbox.left + bbox.width + 1;
          ctx.save();
          const own = this.curves[0]?.run;
          if (own?.slot === 1) {
            ctx.fillStyle = colour("--muted");
            for (const value of own.places(this.marks, this.view.axis)) {
              const x = u.valToPos(value, "x", true);
              if (inside(x)) polygon(ctx, x, bbox.top + bbox.height, [0, -4, 4, 0, 0, 4, -4, 0], unit);
            }
          }
          for (const { run, places } of this.curves) {
            const series = run.series.get(this.entry.name);
            if (!series?.odd.size) continue;
            ctx.fillStyle = colour("--bad");
            series.steps.forEach((step, index) => {
              const x = series.odd.has(step) ? u.valToPos(places[index], "x", true) : -1;
              if (inside(x)) polygon(ctx, x, bbox.top, [-5, -1, 5, -1, 0, 8], unit);
            });
          }
          ctx.restore();
        },
      },
    };
  }
}

/**
 * Between which values all but the outermost hundredths of the visible raw points lie.
 * @param {any} u
 * @param {number} low
 * @param {number} high
 * @returns {[number, number]}
 */
function usual(u, low, high) {
  const [xs] = u.data;
  const { min, max } = u.scales.x;
  const values = [];
  for (let column = 1; column < u.data.length; column += PAIR) {
    u.data[column].forEach((/** @type {number | null | undefined} */ value, /** @type {number} */ index) => {
      if (value !== null && value !== undefined && !(xs[index] < min) && !(xs[index] > max)) values.push(value);
    });
  }
  if (values.length < 10) return [low, high];
  values.sort((a, b) => a - b);
  const cut = Math.max(1, Math.floor(values.length * 0.02));
  return [values[cut], values[values.length - 1 - cut]];
}

/**
 * @param {CanvasRenderingContext2D} ctx
 * @param {number} x
 * @param {number} y
 * @param {number[]} corners - Pairs around the point.
 * @param {number} unit
 */
function polygon(ctx, x, y, corners, unit) {
  ctx.beginPath();
  for (let i = 0; i < corners.length; i += 2) ctx.lineTo(x + corners[i] * unit, y + corners[i + 1] * unit);
  ctx.closePath();
  ctx.fill();
}
