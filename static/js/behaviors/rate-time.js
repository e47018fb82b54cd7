/** How long somebody really looked: while the page is visible and has the focus, and not longer than a minute after the last movement. */
const IDLE_MS = 60_000;

/** Start a watch; `read` gives the milliseconds so far. */
export function activeTime() {
  const began = performance.now();
  let active = 0;
  let since = began;
  const step = () => {
    const now = performance.now();
    if (looking) active += Math.min(now - since, IDLE_MS);
    since = now;
    looking = document.visibilityState === "visible" && document.hasFocus();
  };
  let looking = document.visibilityState === "visible" && document.hasFocus();
  const stop = new AbortController();
  for (const name of ["keydown", "pointermove", "wheel", "focus", "blur", "visibilitychange"])
    addEventListener(name, step, { signal: stop.signal, passive: true, capture: true });
  return {
    read() {
      step();
      stop.abort();
      return { active_ms: Math.round(active), wall_ms: Math.round(performance.now() - began) };
    },
  };
}
