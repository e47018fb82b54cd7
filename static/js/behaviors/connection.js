/** A quiet strip while live updates are away; the stream reconnects by itself. */
import { one } from "../dom.js";

const PATIENCE_MS = 1500;

/** Start the behaviour. */
export function startConnection() {
  const strip = one("#connection");
  if (!strip) return;
  let waiting = 0;
  document.addEventListener("htmx:sse:error", () => {
    // A blink, such as the server's restart, is not worth a word.
    waiting ||= setTimeout(() => (strip.hidden = false), PATIENCE_MS);
  });
  document.addEventListener("htmx:sse:after:connection", () => {
    clearTimeout(waiting);
    waiting = 0;
    strip.hidden = true;
  });
}
