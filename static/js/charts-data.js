/** The points of one run: loaded thinned, kept up to date by the stream, placed by step, time or tokens. */

/** @typedef {"step" | "time" | "tokens"} Axis */
/** @typedef {{steps: number[], values: (number | null)[], odd: Map<number, string>}} Series */
/** @typedef {[name: string, step: number, value: number | null, kind?: string]} Point */

const PLACED_BY = { time: "elapsed_seconds", tokens: "tokens" };

/**
 * Index of the first entry that is not below `wanted`.
 * @param {number[]} sorted
 * @param {number} wanted
 */
function lowerBound(sorted, wanted) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

export class RunData {
  /**
   * @param {string} id
   * @param {string} name
   * @param {number} slot - 1 to 8, its colour.
   */
  constructor(id, name, slot) {
    this.id = id;
    this.name = name;
    this.slot = slot;
    /** @type {Map<string, Series>} */
    this.series = new Map();
  }

  /**
   * Load all points anew.
   * @param {string} names - Which metrics, as the REST interface reads them.
   * @param {number} points - How many of each curve, at most.
   * @throws {Error} The server does not answer, or refuses.
   */
  async load(names, points) {
    const asked = new URLSearchParams({ names, points: String(points), digits: "7" });
    const answer = await fetch(`/api/v1/runs/${encodeURIComponent(this.id)}/metrics?${asked}`, {
      headers: { Accept: "application/json" },
    });
    if (!answer.ok) throw new Error(`The curve could not be loaded (${answer.status}).`);
    const { data, nonfinite } = await answer.json();
    this.series = new Map();
    for (const [name, points] of Object.entries(data)) {
      this.series.set(name, {
        steps: points.map((/** @type {[number, number]} */ point) => point[0]),
        values: points.map((/** @type {[number, number]} */ point) => point[1]),
        odd: new Map(nonfinite[name] ?? []),
      });
    }
  }

  /**
   * Add a point; one that is there already is replaced.
   * @param {Point} point
   */
  add([name, step, value, kind]) {
    let series = this.series.get(name);
    if (!series) this.series.set(name, (series = { steps: [], values: [], odd: new Map() }));
    const { steps, values, odd } = series;
    if (kind) odd.set(step, kind);
    else odd.delete(step);
    if (!steps.length || step > steps[steps.length - 1]) {
      steps.push(step);
      values.push(value);
      return;
    }
    const at = lowerBound(steps, step);
    const replaced = steps[at] === step ? 1 : 0;
    steps.splice(at, replaced, step);
    values.splice(at, replaced, value);
  }

  /**
   * Forget everything past a step: the attempt that wrote it is void.
   * @param {number} step
   */
  truncate(step) {
    for (const [name, { steps, values, odd }] of this.series) {
      const kept = lowerBound(steps, step + 1);
      steps.length = values.length = kept;
      for (const each of odd.keys()) if (each > step) odd.delete(each);
      if (!kept) this.series.delete(name);
    }
  }

  /** Whether places other than steps are known. */
  get hasTime() {
    return this.series.has(PLACED_BY.time);
  }

  /**
   * Places of some steps on an axis, between the measured ones by interpolation.
   * @param {number[]} steps
   * @param {Axis} axis
   * @returns {number[]}
   */
  places(steps, axis) {
    const by = axis === "step" ? undefined : this.series.get(PLACED_BY[axis]);
    if (!by?.steps.length) return steps;
    return steps.map((step) => {
      const at = lowerBound(by.steps, step);
      const right = by.values[Math.min(at, by.steps.length - 1)] ?? 0;
      if (by.steps[at] === step || at >= by.steps.length) return right;
      const [fromStep, from] = at ? [by.steps[at - 1], by.values[at - 1] ?? 0] : [0, 0];
      return from + ((right - from) * (step - fromStep)) / (by.steps[at] - fromStep || 1);
    });
  }

  /**
   * The last finite value of a metric, with its step.
   * @param {string} name
   * @returns {{step: number, value: number | null, kind?: string} | null}
   */
  last(name) {
    const series = this.series.get(name);
    if (!series?.steps.length) return null;
    const step = series.steps[series.steps.length - 1];
    return { step, value: series.values[series.values.length - 1], kind: series.odd.get(step) };
  }

  /** Length of the longest series. */
  get longest() {
    return Math.max(0, ...[...this.series.values()].map((series) => series.steps.length));
  }
}
