/** Lets go of a run's stream (`[data-until-over]`) once the run has ended and its last state is on the page: browsers allow few open ones. */
import { messageOf, one } from "../dom.js";

const OVER = ["succeeded", "failed", "cancelled"];
const LAST_WORDS_MS = 3000;

/** Start the behaviour. */
export function startUntilOver() {
  const stream = one("[data-until-over]");
  let ending = 0;
  stream?.addEventListener("status", (event) => {
    clearTimeout(ending);
    if (OVER.includes(messageOf(event)?.run?.status)) ending = setTimeout(() => stream.remove(), LAST_WORDS_MS);
  });
}
