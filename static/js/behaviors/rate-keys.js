/** Keys of the rating page. Each does what a button of the page does; none does anything while somebody types or a dialog is open. */
import { all, isTyping, one } from "../dom.js";
import { toast } from "./toasts.js";

/**
 * @typedef {object} Acts
 * @property {() => void} undo
 * @property {() => void} pause
 * @property {(button: HTMLElement) => void} press - A button of the vote.
 * @property {() => HTMLElement | null} chosen - The grade that was chosen and not sent yet.
 * @property {(button: HTMLElement) => void} commit
 */

/**
 * Start listening.
 * @param {HTMLElement} page
 * @param {HTMLElement} place - Where the item is shown.
 * @param {import("./rate-views.js").Views} views
 * @param {import("./rate-order.js").Order} order
 * @param {Acts} acts
 */
export function startRateKeys(page, place, views, order, acts) {
  const ranks = page.dataset.kind === "rank";
  /** What had the focus before an extra question got it. @type {HTMLElement | null} */
  let before = null;
  const question = () => /** @type {HTMLElement | null} */ (document.activeElement?.closest("#rate-task fieldset.criterion") ?? null);
  const button = (/** @type {string} */ selector) => one(selector, place);

  /** Take the focus from an extra question back to where it was. */
  function leave() {
    if (before?.isConnected && before !== document.body) before.focus({ preventScroll: true });
    else /** @type {HTMLElement} */ (document.activeElement)?.blur();
    before = null;
  }

  /**
   * Go to an extra question; the same key again goes to that of the next answer.
   * @param {string} key
   */
  function ask(key) {
    const here = question();
    const card = ranks ? order.current : null;
    const found = all(`fieldset[data-key="${key}"]`, card && one(`fieldset[data-key="${key}"]`, card) ? card : place);
    const next = found[(found.indexOf(/** @type {HTMLElement} */ (here)) + 1) % found.length];
    if (!next) return false;
    if (!here) before = /** @type {HTMLElement} */ (document.activeElement);
    const shown = next.closest(".rate-card");
    if (shown && !ranks && all(".rate-switch", place).some((each) => each.offsetParent)) views.side(all(".rate-card", place).indexOf(/** @type {HTMLElement} */ (shown)));
    (one("input:checked", next) ?? one("input", next))?.focus();
    return true;
  }

  /**
   * Answer the extra question that has the focus; the same answer again takes it back.
   * @param {HTMLElement} asked
   * @param {number} number
   */
  function answer(asked, number) {
    const option = /** @type {HTMLInputElement | undefined} */ (all("input", asked)[number - 1]);
    if (!option) return;
    option.checked = !option.checked;
    leave();
  }

  /** @param {string} which */
  function pop(which) {
    const found = one(`[data-pop="${which}"]`, place);
    for (const each of all("details.pop[open]", place)) if (each !== found) each.removeAttribute("open");
    found?.toggleAttribute("open");
    if (which === "c" && found?.hasAttribute("open")) one("textarea", found)?.focus();
    return Boolean(found);
  }

  /**
   * @param {HTMLElement | null} found
   * @returns {boolean} Whether there was such a button.
   */
  function press(found) {
    if (found) acts.press(found);
    return Boolean(found);
  }

  /** @param {KeyboardEvent} event */
  function typing(event) {
    const field = /** @type {HTMLElement} */ (event.target);
    if (event.key === "Escape") {
      field.blur();
      field.closest("details.pop")?.removeAttribute("open");
    } else if ((event.ctrlKey || event.metaKey) && event.key === "Enter" && place.contains(field)) {
      const chosen = acts.chosen() ?? button(".was") ?? button("[name=ranked]");
      if (chosen) acts.commit(chosen);
      else toast("Choose a grade first; the comment goes with it.");
    } else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  /**
   * @param {KeyboardEvent} event
   * @param {string} key
   */
  function arrow(event, key) {
    const way = key === "arrowup" || key === "arrowleft" ? -1 : 1;
    const upright = key === "arrowup" || key === "arrowdown";
    if (ranks) {
      const card = order.current;
      if (!event.altKey) return upright && order.walk(way);
      if (upright && card) order.move(card, way);
      return upright;
    }
    if (upright) return !event.altKey && press(button(`[name=score][aria-keyshortcuts="Arrow${way < 0 ? "Up" : "Down"}"]`));
    return press(button(`[name=preference][value="${way * (event.shiftKey ? 3 : event.altKey ? 1 : 2)}"]`));
  }

  /** @param {KeyboardEvent} event */
  function enter(event) {
    const target = /** @type {Element} */ (event.target);
    const chosen = acts.chosen();
    if (chosen && (target === chosen || !target.closest("button, a, summary"))) acts.commit(chosen);
    else if (ranks && button("[name=ranked]") && !target.closest("button, a, summary")) acts.commit(/** @type {HTMLElement} */ (button("[name=ranked]")));
    else return false;
    return true;
  }

  /**
   * @param {KeyboardEvent} event
   * @param {string} key
   */
  function digit(event, key) {
    const open = one("details.pop[open]", place);
    const asked = question();
    const card = order.current;
    if (open && open.dataset.pop !== "c") all("button", open)[Number(key) - 1]?.click();
    else if (asked) answer(asked, Number(key));
    else if (!ranks) return press(button(`.task [name]:is([name=preference], [name=score])[aria-keyshortcuts="${key}"]`));
    else if (!card) order.walk(1);
    else if (Number(key) >= 1 && Number(key) <= order.cards.length) order.rank(card, Number(key));
    return true;
  }

  /**
   * @param {KeyboardEvent} event
   * @param {string} key
   * @returns {boolean} Whether the key was for this page.
   */
  function act(event, key) {
    const card = ranks ? order.current : null;
    const isRadio = event.target instanceof Element && event.target.matches("input[type=radio]");
    if (key.startsWith("arrow")) return !isRadio && arrow(event, key);
    if (event.altKey) return false;
    if (key === "tab") return ranks && card === event.target && tab(event.shiftKey);
    if (/^\d$/.test(key)) return digit(event, key);
    if (key === "enter") return enter(event);
    if (key === "escape" && question()) return leave(), true;
    if (key.length === 1 && "qwert".includes(key)) return ask(key);
    if (key.length === 1 && "sfc".includes(key)) return pop(key);
    if (key.length === 1 && "jk".includes(key)) return views.scroll(key === "j" ? 1 : -1), true;
    if ("[{]}".includes(key)) return views.scroll(/[[\]]/.test(key) && !event.shiftKey ? 1 : -1, ["[{".includes(key) ? 0 : 1]), true;
    if (key === "=" && card) return order.tie(card), true;
    if (key === "x" && card) return order.reject(card), true;
    if (key === "d" || key === "m") return views.turn(key === "d" ? "apart" : "raw"), true;
    if (key === "l" && page.dataset.kind === "pair") return views.turn("together"), true;
    if (key === "z") return views.zoom(), true;
    if (key === "u") return acts.undo(), true;
    if (key === "p") return acts.pause(), true;
    if (key !== "g") return false;
    const guidelines = one("#guidelines");
    if (guidelines instanceof HTMLDialogElement) guidelines.showModal();
    else toast("This project has no guidelines.");
    return true;
  }

  /** @param {boolean} back */
  function tab(back) {
    if (order.walk(back ? -1 : 1)) return true;
    if (!back) button("[name=ranked]")?.focus();
    return !back;
  }

  document.addEventListener(
    "keydown",
    (event) => {
      const key = event.key.toLowerCase();
      if (one("dialog[open]") || event.isComposing) return;
      if (isTyping(event.target)) return typing(event);
      const ctrl = event.ctrlKey || event.metaKey;
      if (event.repeat && !"jk[]{}".includes(key) && !key.startsWith("arrow") && key !== "tab") return;
      if (event.repeat && key.startsWith("arrow") && !ranks) return;
      const used = ctrl ? key === "z" && !event.shiftKey && (acts.undo(), true) : act(event, key);
      if (!used) return;
      event.preventDefault();
      event.stopImmediatePropagation();
    },
    { capture: true },
  );

  place.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const legend = target?.closest("legend button");
    if (legend) {
      before = null;
      const asked = /** @type {HTMLElement} */ (legend.closest("fieldset"));
      (one("input:checked", asked) ?? one("input", asked))?.focus();
    }
    // After a click the digits are the grades' again; after the arrow keys the question keeps them.
    if (target?.matches("fieldset.criterion input") && event.detail > 0) /** @type {HTMLElement} */ (target).blur();
  });
}
