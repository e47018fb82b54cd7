/** Rating: the next item is there before it is asked for, votes are sent behind it, nothing counts as saved before the server has it. */
import { all, one } from "../dom.js";
import { startRateKeys } from "./rate-keys.js";
import { Order } from "./rate-order.js";
import { freshKey, Outbox } from "./rate-outbox.js";
import { activeTime } from "./rate-time.js";
import { Views } from "./rate-views.js";
import { toast } from "./toasts.js";

/** Items in the hands of one rater, with the one that is looked at: so many can be rated while the network is away. */
const WINDOW = 10;
const RENEW_MS = 60_000;
const AGAIN_MS = 5000;
const PARTIAL = { "HX-Request": "true", "HX-Request-Type": "partial" };

/** @param {string} html */
function parsed(html) {
  const box = document.createElement("template");
  box.innerHTML = html;
  return box.content;
}

/**
 * @param {string} tag
 * @param {Record<string, string>} fields
 */
const made = (tag, fields) => Object.assign(document.createElement(tag), fields);

/**
 * Say how many votes are kept here because they could not be sent.
 * @param {number} count
 * @param {string} why
 */
function tell(count, why) {
  const bar = one("#rate-unsaved");
  if (!bar) return;
  const words = why && count ? `${count} not saved, ${why}.` : (bar.dataset.refused ?? "");
  if (bar.textContent !== words) bar.textContent = words;
  bar.hidden = !words;
}

/** @param {string} message */
function tellRefused(message) {
  const bar = one("#rate-unsaved");
  if (bar) bar.dataset.refused = `A vote was not taken: ${message}`;
  toast(message);
}

/** Start the behaviour. */
export function startRate() {
  const page = one("#rate");
  const place = one("#rate-task");
  const list = one("#rate-unsaved[data-user]");
  if (list) new Outbox(list.dataset.user ?? "", () => {}, tellRefused, tell).flush();
  if (!page || !place) return;
  const base = `/rate/${page.dataset.rate}`;
  const careful = "careful" in page.dataset;
  /** Items that are there and not looked at yet. @type {HTMLFormElement[]} */
  let ahead = [];
  let waiting = false;
  let paused = false;
  let asked = false;
  let fetching = false;
  let undoing = false;
  let presenting = false;
  let ended = false;
  let clock = activeTime();
  const task = () => /** @type {HTMLFormElement | null} */ (one("form.task", place));
  const say = (/** @type {string} */ words) => one("#rate-said")?.replaceChildren(words);
  const views = new Views(page, place);
  const order = new Order(place, say);

  const outbox = new Outbox(
    page.dataset.user ?? "",
    (html, vote) => {
      delete one("#rate-unsaved")?.dataset.refused;
      if (!vote.url.startsWith(`${base}/`)) return;
      say(waiting ? "Saved." : "Saved, next item.");
      receive(html);
    },
    (message) => {
      tellRefused(message);
      if (!task() && !paused) present();
    },
    (count, why) => {
      tell(count, why);
      if (why && waiting) wait();
      // Another tab may have sent what this one waits for.
      if (!count && waiting && !outbox.sending) present();
    },
  );
  // Votes that wait still hold their places, but the one being sent does not when the next is looked for.
  outbox.query = (vote) => {
    if (!vote.url.startsWith(`${base}/`) || paused) return "only=1";
    const others = own().filter((each) => each.key !== vote.key).length;
    return `ahead=${Math.min(WINDOW - 1, others + (task() ? 1 : 0) + ahead.length)}`;
  };
  const own = () => outbox.votes.filter((vote) => vote.url.startsWith(`${base}/`));

  /** @param {string | undefined} slot */
  const held = (slot) =>
    task()?.dataset.slot === slot || ahead.some((form) => form.dataset.slot === slot) || own().some((vote) => vote.url.split("/")[3] === slot);

  /** @param {HTMLFormElement} form */
  function show(form) {
    const focus = document.activeElement instanceof HTMLButtonElement && place.contains(document.activeElement) ? document.activeElement : null;
    place.replaceChildren(form);
    waiting = false;
    asked = false;
    clock = activeTime();
    views.shown();
    order.shown();
    prepare();
    // Who went by Tab stays in the bar.
    if (focus?.name) one(`.rate-bar button[name="${focus.name}"][value="${focus.value}"]:not([formaction])`, place)?.focus({ preventScroll: true });
    one("#rate-today")?.replaceChildren(form.dataset.today ?? "");
    one("#rate-share")?.replaceChildren(form.dataset.share ?? "");
    scrollTo({ top: 0 });
  }

  /** What an item needs that is shown for the first time. */
  function prepare() {
    for (const each of all("[data-commit]", place)) each.hidden = !careful;
    const was = careful ? one(".was", place) : null;
    if (was) choose(was);
  }

  /** @param {HTMLElement} button */
  function choose(button) {
    for (const each of all(".is-chosen", place)) each.removeAttribute("aria-pressed"), each.classList.remove("is-chosen");
    button.classList.add("is-chosen");
    button.setAttribute("aria-pressed", "true");
    button.focus({ preventScroll: true });
  }

  /** @param {string} html */
  function receive(html) {
    if (paused) return;
    const content = parsed(html);
    const told = content.querySelector(".told");
    const form = /** @type {HTMLFormElement | null} */ (content.querySelector("form.task"));
    if (form && !held(form.dataset.slot)) ahead.push(form);
    ended = !form;
    if (told && !task()) return stop(told, content);
    if (told) toast(told.textContent?.trim() ?? "");
    if (!task()) go_on(content);
    top_up();
  }

  /** @param {Node} otherwise - What is shown when there is no further item. */
  function go_on(otherwise) {
    const next = ahead.shift();
    if (next) show(next);
    else if (own().length) wait();
    else {
      waiting = false;
      place.replaceChildren(otherwise);
    }
  }

  function wait() {
    waiting = true;
    const words = outbox.why ? "These are as many as can be rated ahead. The next one comes when your votes are saved." : "Saving your votes …";
    if (place.firstElementChild?.textContent !== words) place.replaceChildren(made("p", { className: "card empty", textContent: words }));
  }

  /**
   * Stay with what the server said of a vote until it was read.
   * @param {Element} told
   * @param {Node} otherwise
   */
  function stop(told, otherwise) {
    const on = made("button", { type: "button", textContent: "Go on", className: "primary" });
    on.addEventListener("click", () => {
      go_on(otherwise);
      top_up();
    });
    waiting = false;
    place.replaceChildren(told, on);
    on.focus();
  }

  /** Show what the server holds for the rater now. */
  async function present() {
    if (presenting) return;
    presenting = true;
    const answer = await fetch(`${base}/next?ahead=0`, { headers: PARTIAL }).catch(() => null);
    presenting = false;
    if (answer?.ok) return receive(await answer.text());
    say("The next item could not be loaded, trying again.");
    setTimeout(() => !task() && !paused && present(), AGAIN_MS);
  }

  async function top_up() {
    while (!fetching && !paused && !ended && ahead.length < WINDOW - 1 && !outbox.votes.length) {
      fetching = true;
      const number = Math.min(WINDOW - 1, (task() ? 1 : 0) + ahead.length);
      const answer = await fetch(`${base}/next?ahead=${number}`, { headers: PARTIAL }).catch(() => null);
      const form = answer?.ok ? /** @type {HTMLFormElement | null} */ (parsed(await answer.text()).querySelector("form.task")) : null;
      fetching = false;
      if (!answer?.ok || paused) return;
      ended = !form || held(form.dataset.slot);
      if (form && !ended) ahead.push(form);
      if (!task() && ahead.length) go_on(place);
    }
  }

  /** @param {HTMLElement} button */
  function commit(button) {
    const form = task();
    if (!form || waiting) return;
    if (button instanceof HTMLButtonElement && button.name === "ranked" && !order.touched && !asked) {
      asked = true;
      toast("The order is as it came. Save once more if you mean it.");
      say("The order is as it came. Save once more if you mean it.");
      return;
    }
    const data = new FormData(form, button);
    for (const [name, value] of Object.entries(clock.read())) data.set(name, String(value));
    const body = new URLSearchParams(/** @type {any} */ (data)).toString();
    const url = button.getAttribute("formaction") ?? form.getAttribute("action") ?? "";
    const next = "practice" in form.dataset ? undefined : ahead.shift();
    if (next) show(next);
    else wait();
    outbox.add({ url, body });
  }

  async function undo() {
    if (paused || undoing) return;
    undoing = true;
    for (let tries = 0; own().length && !outbox.why && tries < 60; tries++) await new Promise((done) => setTimeout(done, 50));
    const saved = !own().length;
    const before = task();
    const fields = new URLSearchParams({ key: freshKey() });
    const answer = saved ? await fetch(`${base}/undo`, { method: "POST", body: fields, headers: PARTIAL }).catch(() => null) : null;
    undoing = false;
    if (!saved) return toast("The last vote is still being saved. Undo it when it is.");
    if (!answer?.ok) return toast("That could not be undone now. Try again.");
    const form = /** @type {HTMLFormElement | null} */ (parsed(await answer.text()).querySelector("form.task"));
    if (!form || form.dataset.slot === before?.dataset.slot) return toast("Nothing is left to undo.");
    ahead = ahead.filter((each) => each.dataset.slot !== form.dataset.slot);
    if (before) ahead.unshift(before);
    ended = false;
    show(form);
    say("Undone. Your old answer is marked.");
  }

  function pause() {
    for (const form of [task(), ...ahead]) if (form) navigator.sendBeacon(`${base}/${form.dataset.slot}/release`);
    ahead = [];
    waiting = false;
    paused = true;
    const again = made("button", { type: "button", textContent: "Go on", className: "primary" });
    again.addEventListener("click", () => {
      paused = false;
      present();
    });
    const box = made("section", { className: "card empty" });
    box.append(made("h2", { textContent: "Paused" }), made("p", { textContent: "The item was given back. Your votes are kept." }), again);
    place.replaceChildren(box);
    again.focus();
  }

  /** Keep the item and those ahead; one that somebody else has by now is not shown. Where there was none, look for new ones. */
  async function renew() {
    const form = task();
    if (document.visibilityState !== "visible") return;
    if (!form) {
      if (one("[data-none]", place)) present();
      return;
    }
    const body = new URLSearchParams(ahead.map((each) => ["also", each.dataset.slot ?? ""]));
    const answer = await fetch(`${base}/${form.dataset.slot}/renew`, { method: "POST", body, headers: PARTIAL }).catch(() => null);
    if (!answer?.ok) return;
    /** @type {{ lost: string[] }} */
    const { lost } = await answer.json();
    ahead = ahead.filter((each) => !lost.includes(each.dataset.slot ?? ""));
    top_up();
  }

  place.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = /** @type {HTMLButtonElement | null} */ (/** @type {SubmitEvent} */ (event).submitter);
    if (button?.name === "leave") pause();
    else if (button && careful && ["preference", "score"].includes(button.name)) choose(button);
    else if (button) commit(button);
  });
  place.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest("[data-commit]")) return;
    const chosen = one(".is-chosen", place);
    if (chosen) commit(chosen);
    else toast("Choose a grade first.");
  });
  one("[data-rate-undo]")?.addEventListener("submit", (event) => {
    event.preventDefault();
    undo();
  });
  startRateKeys(page, place, views, order, {
    undo,
    pause,
    press: (button) => button.click(),
    chosen: () => one(".is-chosen", place),
    commit,
  });

  setInterval(renew, RENEW_MS);
  document.addEventListener("visibilitychange", renew);
  addEventListener("pagehide", () => {
    // The one being looked at is kept until its lease ends, so that a reload shows it again.
    for (const form of ahead) navigator.sendBeacon(`${base}/${form.dataset.slot}/release`);
  });
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  const first = task();
  if (first && own().some((vote) => vote.url.split("/")[3] === first.dataset.slot)) wait();
  else if (first) {
    views.shown();
    order.shown();
    prepare();
  }
  outbox.flush().then(top_up);
}
