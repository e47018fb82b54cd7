/** Rating by keys: the next item is there before it is asked for, votes are sent behind it, nothing counts before the server has it. */
import { all, isTyping, one } from "../dom.js";
import { Outbox } from "./rate-outbox.js";
import { activeTime } from "./rate-time.js";
import { toast } from "./toasts.js";

const MOST_AHEAD = 9;
const RENEW_MS = 60_000;
const STEP = 120;
const PARTIAL = { "HX-Request": "true", "HX-Request-Type": "partial" };

/** @param {string} html */
function parsed(html) {
  const box = document.createElement("template");
  box.innerHTML = html;
  return box.content;
}

/** Start the behaviour. */
export function startRate() {
  const page = one("#rate");
  const place = one("#rate-task");
  if (!page || !place) return;
  const base = `/rate/${page.dataset.rate}`;
  const careful = "careful" in page.dataset;
  const views = new Set();
  /** @type {HTMLElement[]} */
  let window_ = [];
  let seen = new Set();
  let waiting = false;
  let paused = false;
  let touched = false;
  let fetching = false;
  let ended = false;
  let clock = activeTime();
  const task = () => /** @type {HTMLFormElement | null} */ (one("form.task", place));
  const say = (/** @type {string} */ words) => one("#rate-said")?.replaceChildren(words);

  const outbox = new Outbox(
    `rate ${page.dataset.rate}`,
    (html, vote) => {
      say(waiting ? "Saved." : "Saved, next item.");
      receive(html, vote);
    },
    (message) => {
      toast(message);
      if (!task() && !paused) present();
    },
    (count, failing) => {
      const bar = one("#rate-unsaved");
      if (!bar) return;
      bar.hidden = !failing || !count;
      bar.textContent = `${count} not saved, trying again${waiting ? ". Wait until they are saved." : ""}`;
    },
  );
  // Votes that wait still hold their leases, but the one being sent does not when the next is looked for.
  outbox.ahead = () => Math.min(MOST_AHEAD, Math.max(0, outbox.votes.length - 1) + (task() ? 1 : 0) + window_.length);

  /** @param {HTMLElement} form */
  function show(form) {
    place.replaceChildren(form);
    seen.add(form.dataset.slot);
    waiting = false;
    touched = false;
    clock = activeTime();
    for (const view of views) mark(view, true);
    one("#rate-today")?.replaceChildren(form.dataset.today ?? "");
    one("#rate-share")?.replaceChildren(form.dataset.share ?? "");
    scrollTo({ top: 0 });
  }

  /**
   * @param {string} html
   * @param {{ url: string } | null} vote
   */
  function receive(html, vote) {
    if (paused) return;
    const content = parsed(html);
    const told = content.querySelector(".told");
    const form = /** @type {HTMLElement | null} */ (content.querySelector("form.task"));
    if (vote) seen.delete(decodeURIComponent(vote.url.split("/")[3]));
    if (form && !seen.has(form.dataset.slot) && !outbox.votes.some((each) => each.url.includes(`/${form.dataset.slot}`))) {
      seen.add(form.dataset.slot);
      window_.push(form);
    }
    ended = !form;
    if (told && !task()) return stop(told, content);
    if (told) toast(told.textContent.trim());
    if (!task()) go_on(content);
    top_up();
  }

  /** @param {Node} otherwise - What is shown when there is no further item. */
  function go_on(otherwise) {
    const next = window_.shift();
    if (next) show(next);
    else if (!outbox.votes.length) place.replaceChildren(otherwise);
  }

  /**
   * Stay with what the server said of a vote until it was read.
   * @param {Element} told
   * @param {Node} otherwise
   */
  function stop(told, otherwise) {
    const on = Object.assign(document.createElement("button"), { type: "button", textContent: "Go on", className: "primary" });
    on.addEventListener("click", () => {
      go_on(otherwise);
      top_up();
    });
    place.replaceChildren(told, on);
    on.focus();
  }

  /** Show what the server holds for the rater now. */
  async function present() {
    seen = new Set(window_.map((form) => form.dataset.slot));
    const answer = await fetch(`${base}/next?ahead=0`, { headers: PARTIAL }).catch(() => null);
    if (answer?.ok) receive(await answer.text(), null);
    else toast("The next item could not be loaded. Load the page again.");
  }

  async function top_up() {
    if (fetching || paused || ended || window_.length >= MOST_AHEAD || outbox.failing || outbox.votes.length) return;
    fetching = true;
    try {
      const answer = await fetch(`${base}/next?ahead=${Math.min(MOST_AHEAD, (task() ? 1 : 0) + window_.length)}`, { headers: PARTIAL });
      const form = answer.ok ? /** @type {HTMLElement | null} */ (parsed(await answer.text()).querySelector("form.task")) : null;
      ended = !form || seen.has(form.dataset.slot);
      if (form && !ended) {
        seen.add(form.dataset.slot);
        window_.push(form);
      }
    } catch {
      ended = false;
      return;
    } finally {
      fetching = false;
    }
    top_up();
  }

  /** @param {HTMLButtonElement} button */
  function commit(button) {
    const form = task();
    if (!form || waiting) return;
    if (page.dataset.kind === "rank" && button.name === "ranked" && !touched) {
      touched = true;
      toast("The order is as it came. Press again if you mean it.");
      return;
    }
    const data = new FormData(form, button);
    for (const [name, value] of Object.entries(clock.read())) data.set(name, String(value));
    const body = new URLSearchParams(/** @type {any} */ (data)).toString();
    const url = button.getAttribute("formaction") ?? form.getAttribute("action") ?? "";
    const next = "practice" in form.dataset ? undefined : window_.shift();
    if (next) show(next);
    else {
      waiting = true;
      place.replaceChildren(Object.assign(document.createElement("p"), { className: "card empty", textContent: "Waiting until your votes are saved …" }));
    }
    outbox.add({ url, body, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` });
  }

  async function undo() {
    if (outbox.votes.length) {
      toast("The last vote is still being saved. Undo it in a moment.");
      return;
    }
    const before = task();
    const key = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
    const answer = await fetch(`${base}/undo`, { method: "POST", body: new URLSearchParams({ key }), headers: PARTIAL }).catch(() => null);
    if (!answer?.ok) {
      toast("That could not be undone now. Try again.");
      return;
    }
    const form = /** @type {HTMLElement | null} */ (parsed(await answer.text()).querySelector("form.task"));
    if (!form || form.dataset.slot === before?.dataset.slot) {
      toast("Nothing is left to undo.");
      return;
    }
    if (before) window_.unshift(before);
    show(form);
    say("Undone. Your old answer is marked.");
  }

  /**
   * @param {string} view
   * @param {boolean} on
   */
  function mark(view, on) {
    if (on) views.add(view);
    else views.delete(view);
    one(".answers", place)?.classList.toggle(`is-${view}`, on);
    one(`[data-view="${view}"]`, place)?.setAttribute("aria-pressed", String(on));
  }

  /** @param {number} side */
  function turn(side) {
    all(".answer", place).forEach((each, index) => each.classList.toggle("is-shown", index === side));
    all("[data-side]", place).forEach((each, index) => (index === side ? each.setAttribute("aria-current", "true") : each.removeAttribute("aria-current")));
  }

  function pause() {
    const held = [task(), ...window_];
    for (const form of held) if (form) navigator.sendBeacon(`${base}/${form.dataset.slot}/release`);
    window_ = [];
    seen = new Set();
    paused = true;
    const again = Object.assign(document.createElement("button"), { textContent: "Go on", className: "primary" });
    again.addEventListener("click", () => location.reload());
    const box = Object.assign(document.createElement("section"), { className: "card empty" });
    box.append(Object.assign(document.createElement("h2"), { textContent: "Paused" }), again);
    place.replaceChildren(box);
    again.focus();
  }

  place.addEventListener("submit", (event) => {
    event.preventDefault();
    const button = /** @type {HTMLButtonElement | null} */ (/** @type {SubmitEvent} */ (event).submitter);
    if (button) commit(button);
  });
  one("[data-rate-undo]")?.addEventListener("submit", (event) => {
    event.preventDefault();
    undo();
  });
  place.addEventListener("input", () => (touched = true));
  place.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest("[data-view], [data-side]")) : null;
    if (target?.dataset.view) mark(target.dataset.view, !views.has(target.dataset.view));
    if (target?.dataset.side) {
      event.preventDefault();
      turn(Number(target.dataset.side));
    }
  });

  /** @param {HTMLElement | null} button */
  const press = (button) => {
    if (!button) return;
    const chosen = careful && button.matches("[name=preference], [name=score]");
    if (!chosen) return button.click();
    for (const each of all(".is-chosen", place)) each.classList.remove("is-chosen");
    button.classList.add("is-chosen");
    button.focus();
  };
  /** @param {string} name */
  const pref = (name) => one(`[name=preference][value="${name}"]`, place);
  const scroll = (/** @type {number} */ by, /** @type {number[]} */ sides) =>
    all(".answer > .body", place).forEach((each, index) => sides.includes(index) && each.scrollBy({ top: by }));

  document.addEventListener(
    "keydown",
    (event) => {
      const key = event.key.toLowerCase();
      const ctrl = event.ctrlKey || event.metaKey;
      if (one("dialog[open]")) return;
      if (isTyping(event.target)) {
        if (key === "escape") /** @type {HTMLElement} */ (event.target).blur();
        if (ctrl && key === "enter") {
          const chosen = one(".is-chosen, .was", place);
          event.preventDefault();
          event.stopImmediatePropagation();
          chosen ? chosen.click() : toast("Choose a grade first; the comment goes with it.");
        }
        return;
      }
      if (event.repeat && !"jk[]".includes(key)) return;
      const open = one("details.pop[open]", place);
      let used = true;
      if ((ctrl && key === "z") || (!ctrl && key === "u")) undo();
      else if (ctrl || (event.altKey && !key.startsWith("arrow"))) return;
      else if (open && open.dataset.pop !== "c" && /^[1-5]$/.test(key)) all("button", open)[Number(key) - 1]?.click();
      else if (/^[1-7]$/.test(key)) press(all(".grades > [name]", place).filter((each) => each.getAttribute("aria-keyshortcuts") === key)[0] ?? null);
      else if (key === "0") press(pref("both_bad"));
      else if (key === "9") press(pref("both_good"));
      else if (key === "arrowleft" || key === "arrowright") {
        const grade = event.shiftKey ? 3 : event.altKey ? 1 : 2;
        press(pref(String(key === "arrowleft" ? -grade : grade)));
      } else if (key === "arrowup" || key === "arrowdown") {
        const thumb = one(`[aria-keyshortcuts="Arrow${key === "arrowup" ? "Up" : "Down"}"]`, place);
        used = Boolean(thumb);
        press(thumb);
      } else if (key === "enter") {
        const chosen = one(".is-chosen", place) ?? (event.target === document.body ? one("[name=ranked]", place) : null);
        used = Boolean(chosen);
        chosen?.click();
      } else if ("sfc".includes(key) && key.length === 1) {
        const pop = one(`[data-pop="${key}"]`, place);
        for (const each of all("details.pop[open]", place)) if (each !== pop) each.removeAttribute("open");
        pop?.toggleAttribute("open");
        if (key === "c") one("textarea", pop ?? place)?.focus();
      } else if (key === "d" && one(".apart", place)) mark("apart", !views.has("apart"));
      else if (key === "m") mark("raw", !views.has("raw"));
      else if (key === "z") {
        const boxes = all(".answers", place);
        const now = Number(boxes[0]?.dataset.zoom ?? 0);
        if (boxes[0]) boxes[0].dataset.zoom = String((now + 1) % 3);
      } else if (key === "j" || key === "k") scroll(key === "j" ? STEP : -STEP, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
      else if (key === "[" || key === "]") scroll(event.shiftKey ? -STEP : STEP, [key === "[" ? 0 : 1]);
      else if (key === "g") /** @type {HTMLDialogElement | null} */ (one("#guidelines"))?.showModal();
      else if (key === "p") pause();
      else used = false;
      if (!used) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    { capture: true },
  );

  setInterval(() => {
    const form = task();
    if (form && document.visibilityState === "visible") fetch(`${base}/${form.dataset.slot}/renew`, { method: "POST", headers: PARTIAL }).catch(() => {});
  }, RENEW_MS);
  addEventListener("pagehide", () => {
    // The one being looked at is kept until its lease ends, so that a reload shows it again.
    for (const form of window_) navigator.sendBeacon(`${base}/${form.dataset.slot}/release`);
  });
  const first = task();
  if (first) seen.add(first.dataset.slot);
  outbox.flush().then(top_up);
}
