/**
 * Opens the page's one stream when the page is seen for the first time, and tries again until the first connection stands; from then on
 * hx-sse keeps it up by itself. A tab that was opened in the background would otherwise hold one of the browser's six connections.
 */
import { one } from "../dom.js";

const AGAIN_MS = 2000;

/** Start the behaviour. */
export function startStream() {
  const stream = one("#stream");
  if (!stream) return;
  let stands = false;
  let asked = false;
  const open = () => {
    if (stands || asked || document.hidden || !stream.isConnected) return;
    stream.dispatchEvent(new Event("stream-open"));
    setTimeout(open, AGAIN_MS); // htmx listens only once it has looked through the page
  };
  stream.addEventListener("htmx:before:request", () => (asked = true));
  stream.addEventListener("htmx:sse:after:connection", () => (stands = true));
  stream.addEventListener("htmx:finally:request", () => {
    asked = false;
    if (stands) return;
    stream.dispatchEvent(new CustomEvent("htmx:sse:error", { bubbles: true }));
    setTimeout(open, AGAIN_MS);
  });
  document.addEventListener("visibilitychange", open);
  if (document.readyState === "complete") open();
  else window.addEventListener("load", open);
}
