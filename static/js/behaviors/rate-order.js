/** Ranking answers: by digits, by moving them, by dragging; ties, and those that are not acceptable last. The form's numbers are what is sent. */
import { all, one } from "../dom.js";

/** @typedef {HTMLElement[][]} Groups - Best first; those in one list are tied. */

export class Order {
  /**
   * @param {HTMLElement} place - Where the item is shown.
   * @param {(words: string) => void} say
   */
  constructor(place, say) {
    this.place = place;
    this.say = say;
    this.touched = false;
    /** @type {HTMLElement | null} */
    this.dragged = null;
    place.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest("[data-move], [data-tie]")) : null;
      const card = button ? this.cardOf(button) : null;
      if (!button || !card) return;
      if (button.dataset.move) this.move(card, Number(button.dataset.move));
      else this.tie(card);
    });
    place.addEventListener("change", (event) => {
      const box = /** @type {Element} */ (event.target);
      const card = box.matches('.rate-card > header input[type="checkbox"]') ? this.cardOf(box) : null;
      if (card) this.sorted(card);
    });
    place.addEventListener("dragstart", (event) => this.lift(event));
    place.addEventListener("dragover", (event) => this.over(event));
    place.addEventListener("drop", (event) => this.drop(event));
    place.addEventListener("dragend", () => this.settle());
  }

  /** @returns {HTMLElement[]} */
  get cards() {
    return all(".rate-answers.rank > .rate-card", this.place);
  }

  /** The answer that has the focus, or something in it. @returns {HTMLElement | null} */
  get current() {
    return this.cards.find((each) => each.contains(document.activeElement)) ?? null;
  }

  /** @param {Element} within */
  cardOf(within) {
    return /** @type {HTMLElement | null} */ (within.closest(".rate-answers.rank > .rate-card"));
  }

  /** @param {HTMLElement} card */
  number(card) {
    return /** @type {HTMLInputElement} */ (one('input[type="number"]', card));
  }

  /** @param {HTMLElement} card */
  out(card) {
    return /** @type {HTMLInputElement} */ (one('header input[type="checkbox"]', card));
  }

  /** Answers by their numbers. @returns {Groups} */
  get groups() {
    /** @type {Map<number, HTMLElement[]>} */
    const found = new Map();
    for (const card of this.cards) {
      const rank = Number(this.number(card).value);
      found.set(rank, [...(found.get(rank) ?? []), card]);
    }
    return [...found.keys()].sort((one, other) => one - other).map((rank) => found.get(rank) ?? []);
  }

  /** A new item is there. */
  shown() {
    this.touched = false;
    if (!this.cards.length) return;
    for (const each of all(".moves, .grip", this.place)) each.hidden = false;
    for (const each of all(".typed", this.place)) each.hidden = true;
    this.arrange(this.groups);
    this.cards[0].focus({ preventScroll: true });
  }

  /**
   * Put the answers into an order, and the order into the form.
   * @param {Groups} groups
   */
  arrange(groups) {
    const ordered = groups.filter((group) => group.length);
    const isOut = (/** @type {HTMLElement[]} */ group) => this.out(group[0]).checked;
    const final = [...ordered.filter((group) => !isOut(group)), ...ordered.filter(isOut)];
    const focus = /** @type {HTMLElement | null} */ (document.activeElement);
    const container = this.cards[0]?.parentElement;
    container?.append(...final.flat());
    if (focus && container?.contains(focus)) focus.focus({ preventScroll: true });
    final.forEach((group, index) =>
      group.forEach((card, inside) => {
        this.number(card).value = String(index + 1);
        one(".place", card)?.replaceChildren(`${index + 1}${group.length > 1 ? " =" : ""}`);
        card.classList.toggle("is-out", isOut(group));
        card.classList.toggle("is-tied", inside > 0);
        one("[data-tie]", card)?.setAttribute("aria-pressed", String(inside > 0));
      }),
    );
  }

  /**
   * @param {Groups} groups
   * @param {HTMLElement} card
   */
  done(groups, card) {
    this.touched = true;
    this.arrange(groups);
    card.scrollIntoView({ block: "nearest" });
    const rank = this.number(card).value;
    this.say(`${card.getAttribute("aria-label")}: rank ${rank} of ${this.cards.length}${card.classList.contains("is-tied") ? ", tied" : ""}`);
  }

  /**
   * Give an answer a rank; those from there on go one further.
   * @param {HTMLElement} card
   * @param {number} rank
   */
  rank(card, rank) {
    const groups = this.groups.map((group) => group.filter((each) => each !== card)).filter((group) => group.length);
    groups.splice(Math.min(rank - 1, groups.length), 0, [card]);
    this.done(groups, card);
  }

  /**
   * One place up or down; out of a tie first.
   * @param {HTMLElement} card
   * @param {number} way
   */
  move(card, way) {
    const groups = this.groups;
    const at = groups.findIndex((group) => group.includes(card));
    const own = groups[at];
    if (own.length > 1) {
      groups[at] = own.filter((each) => each !== card);
      groups.splice(way < 0 ? at : at + 1, 0, [card]);
    } else if (groups[at + way]) [groups[at], groups[at + way]] = [groups[at + way], own];
    this.done(groups, card);
  }

  /**
   * As good as the one above, or not any more.
   * @param {HTMLElement} card
   */
  tie(card) {
    const groups = this.groups;
    const at = groups.findIndex((group) => group.includes(card));
    const own = groups[at];
    const inside = own.indexOf(card);
    if (inside > 0) groups.splice(at, 1, own.slice(0, inside), own.slice(inside));
    else if (!at) return this.say("Nothing is above the first one.");
    else if (this.out(groups[at - 1][0]).checked !== this.out(card).checked)
      return this.say("One that is acceptable and one that is not cannot be tied.");
    else groups.splice(at - 1, 2, [...groups[at - 1], ...own]);
    this.done(groups, card);
  }

  /**
   * Say that an answer is not acceptable, or that it is.
   * @param {HTMLElement} card
   */
  reject(card) {
    this.out(card).checked = !this.out(card).checked;
    this.sorted(card);
  }

  /**
   * Put an answer on its side of the cut line: last of those above it, or first below.
   * @param {HTMLElement} card
   */
  sorted(card) {
    const groups = this.groups.map((group) => group.filter((each) => each !== card)).filter((group) => group.length);
    const cut = groups.findIndex((group) => this.out(group[0]).checked);
    groups.splice(cut < 0 ? groups.length : cut, 0, [card]);
    this.done(groups, card);
  }

  /**
   * Go to the next answer, or the one before.
   * @param {number} way
   * @returns {boolean} Whether there is one.
   */
  walk(way) {
    const cards = this.cards;
    const current = this.current;
    const next = current ? cards[cards.indexOf(current) + way] : cards[0];
    next?.focus({ preventScroll: true });
    next?.scrollIntoView({ block: "nearest" });
    return Boolean(next);
  }

  /** @param {DragEvent} event */
  lift(event) {
    const grip = event.target instanceof Element ? event.target.closest(".grip") : null;
    this.dragged = grip ? this.cardOf(grip) : null;
    if (!this.dragged || !event.dataTransfer) return;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", this.dragged.getAttribute("aria-label") ?? "");
    event.dataTransfer.setDragImage(this.dragged, 20, 20);
    this.dragged.classList.add("is-dragged");
  }

  /**
   * Which answer the pointer is over, and whether in its lower half.
   * @param {DragEvent} event
   */
  target(event) {
    const card = this.dragged && event.target instanceof Element ? this.cardOf(event.target) : null;
    if (!card || card === this.dragged) return null;
    const box = card.getBoundingClientRect();
    return { card, below: event.clientY > box.top + box.height / 2 };
  }

  /** @param {DragEvent} event */
  over(event) {
    if (!this.dragged) return;
    event.preventDefault();
    const found = this.target(event);
    for (const each of this.cards) {
      each.classList.toggle("drop-above", each === found?.card && !found.below);
      each.classList.toggle("drop-below", each === found?.card && found.below);
    }
  }

  /** @param {DragEvent} event */
  drop(event) {
    const found = this.target(event);
    const card = this.dragged;
    if (!card) return;
    event.preventDefault();
    this.settle();
    if (!found) return;
    const groups = this.groups.map((group) => group.filter((each) => each !== card)).filter((group) => group.length);
    const at = groups.findIndex((group) => group.includes(found.card));
    groups.splice(found.below ? at + 1 : at, 0, [card]);
    this.done(groups, card);
  }

  settle() {
    this.dragged = null;
    for (const each of this.cards) each.classList.remove("is-dragged", "drop-above", "drop-below");
  }
}
