/** Numbers and colours as charts show them, and the smoothing of curves. */

const UNITS = [
  ["_percent", "%"],
  ["_watts", "W"],
  ["_celsius", "°C"],
];
const KIND = /** @type {Record<string, string>} */ ({ nan: "NaN", inf: "∞", "-inf": "−∞" });

/**
 * A value for people.
 * @param {number | null | undefined} value
 */
export function format(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 1e6) return compact(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size < 0.001 ? value.toExponential(2) : value.toPrecision(4);
}

/**
 * A size in bytes.
 * @param {number} value
 */
function bytes(value) {
  const [size, unit] = [
    [1024 ** 4, "TB"],
    [1024 ** 3, "GB"],
    [1024 ** 2, "MB"],
  ].find(([each]) => Math.abs(value) >= Number(each)) ?? [1024, "kB"];
  return `${+(value / Number(size)).toPrecision(3)} ${unit}`;
}

/**
 * How values of a metric are written: on the axis, and in full.
 * @param {string} name
 * @returns {{short: (value: number | null) => string, full: (value: number | null | undefined) => string}}
 */
export function writing(name) {
  const unit = UNITS.find(([ending]) => name.endsWith(ending))?.[1];
  if (unit) {
    const inUnit = (/** @type {number | null | undefined} */ value) =>
      value === null || value === undefined ? "" : `${+value.toPrecision(3)} ${unit}`;
    return { short: inUnit, full: inUnit };
  }
  if (!name.endsWith("_bytes")) return { short: tick, full: format };
  const inBytes = (/** @type {number | null | undefined} */ value) => (value === null || value === undefined ? "" : bytes(value));
  return { short: inBytes, full: inBytes };
}

/**
 * The name of what is no number.
 * @param {string} kind - `nan`, `inf` or `-inf`.
 */
export const kindName = (kind) => KIND[kind] ?? kind;

/** @param {number} value */
function compact(value) {
  for (const [size, unit] of /** @type {[number, string][]} */ ([
    [1e12, "T"],
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ])) {
    if (Math.abs(value) >= size) return `${+(value / size).toPrecision(3)}${unit}`;
  }
  return String(+value.toPrecision(3));
}

/**
 * A value at the side of the vertical axis.
 * @param {number | null} value
 */
export function tick(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size >= 10_000) return compact(value);
  return size !== 0 && size < 0.001 ? value.toExponential(1).replace(".0e", "e") : String(+value.toPrecision(3));
}

/**
 * A place on the horizontal axis.
 * @param {number} value
 * @param {"step" | "time" | "tokens"} axis
 */
export function place(value, axis) {
  if (axis === "tokens") return compact(value);
  if (axis === "step") return value >= 100_000 ? compact(value) : Math.round(value).toLocaleString("en");
  const whole = Math.round(value);
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return whole % 60 ? `${Math.floor(whole / 60)}m ${whole % 60}s` : `${whole / 60}m`;
  return `${Math.floor(whole / 3600)}h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")}m`;
}

/**
 * The value of a colour token: a canvas reads neither `var()` nor `light-dark()`.
 * @param {string} token - Such as `--c1`.
 */
export function colour(token) {
  const probe = document.createElement("i");
  probe.hidden = true;
  probe.style.color = `var(${token})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/**
 * A colour, nearly transparent.
 * @param {string} opaque - As `colour` gives it.
 */
export const faint = (opaque) => opaque.replace(")", " / 0.22)");

/**
 * A running mean whose memory is measured in distance, not in points, so that sparse curves lag no more than dense ones.
 * @param {number[]} xs
 * @param {(number | null)[]} ys
 * @param {number} strength - 0 (none) to 0.99.
 * @returns {(number | null)[]}
 */
export function smooth(xs, ys, strength) {
  if (!strength || ys.length < 3) return ys;
  const weight = Math.min(Math.sqrt(strength), 0.999);
  const range = xs[xs.length - 1] - xs[0] || 1;
  let sum = 0;
  let count = 0;
  let before = xs[0];
  return ys.map((y, i) => {
    if (y === null) return null;
    const kept = weight ** (((xs[i] - before) / range) * 1000);
    before = xs[i];
    sum = sum * kept + y;
    count = count * kept + 1;
    return sum / count;
  });
}
