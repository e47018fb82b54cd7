/** Has the list of runs loaded anew when a run comes, goes or changes its status; rows that only move are morphed by the stream itself. */
import { all, messageOf, one } from "../dom.js";

/** Start the behaviour. */
export function startQueue() {
  if (!one("#runs") && !one("[data-start]")) return;
  const known = new Map(all("#runs tr[data-status]").map((row) => [row.id.replace("row-", ""), row.dataset.status]));
  document.addEventListener("status", (event) => {
    const message = messageOf(event);
    if (message?.topic !== "queue" || known.get(message.run.id) === message.run.status) return;
    known.set(message.run.id, message.run.status);
    if (one("[data-start]")) location.reload();
    else document.body.dispatchEvent(new Event("runs-changed"));
  });
}
