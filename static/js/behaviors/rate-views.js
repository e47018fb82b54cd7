/** How the answers of the rating page are looked at: scrolling, together or apart; one side larger; plain text; what differs. */
import { all, one } from "../dom.js";

const STEP = 120;
const ZOOMS = ["Zoom", "Only A", "Only B"];

export class Views {
  /**
   * @param {HTMLElement} page
   * @param {HTMLElement} place - Where the item is shown.
   */
  constructor(page, place) {
    this.page = page;
    this.place = place;
    /** @type {Set<string>} */
    this.on = new Set();
    /** Where each body was when they were last made to agree: an event of one that is still there asks for nothing. @type {WeakMap<Element, number>} */
    this.agreed = new WeakMap();
    const tools = one(".rate-tools", page);
    if (tools) tools.hidden = false;
    page.addEventListener("click", (event) => {
      const button = event.target instanceof Element ? /** @type {HTMLElement | null} */ (event.target.closest("[data-view], [data-side], [data-zoom], [data-scroll]")) : null;
      if (!button) return;
      if (button.dataset.view) this.turn(button.dataset.view);
      else if (button.dataset.scroll) this.scroll(Number(button.dataset.scroll), button.dataset.only ? [Number(button.dataset.only)] : undefined);
      else if (button.dataset.side) {
        event.preventDefault();
        this.side(Number(button.dataset.side));
      } else this.zoom();
    });
    place.addEventListener("scroll", (event) => this.follow(/** @type {Element} */ (event.target)), { capture: true, passive: true });
  }

  /** @returns {HTMLElement | null} */
  get answers() {
    return one(".rate-answers", this.place);
  }

  get bodies() {
    return all(".rate-card > .body", this.place);
  }

  /** A new item is there: show it as the one before was shown. */
  shown() {
    const can = Boolean(one(".apart", this.place));
    const apart = one('[data-view="apart"]', this.page);
    if (apart instanceof HTMLButtonElement) apart.disabled = !can;
    for (const button of all(".scrolls", this.place)) button.hidden = false;
    for (const view of this.on) this.answers?.classList.add(`is-${view}`);
    this.zoom(0);
  }

  /**
   * Switch a view on or off.
   * @param {string} view
   */
  turn(view) {
    if (view === "apart" && !one(".apart", this.place)) return;
    const on = !this.on.has(view);
    if (on) this.on.add(view);
    else this.on.delete(view);
    this.answers?.classList.toggle(`is-${view}`, on);
    one(`[data-view="${view}"]`, this.page)?.setAttribute("aria-pressed", String(on));
    if (view === "together" && on && this.bodies[0]) this.join(this.bodies[0]);
  }

  /**
   * Show only A, only B, or both.
   * @param {number} [to] - 0 both, 1 A, 2 B; else the next.
   */
  zoom(to) {
    const button = one(".rate-tools [data-zoom]", this.page);
    if (!this.answers || !button) return;
    const now = to ?? (Number(this.answers.dataset.zoomed ?? 0) + 1) % 3;
    this.answers.dataset.zoomed = String(now);
    button.setAttribute("aria-pressed", String(now > 0));
    one("span", button)?.replaceChildren(ZOOMS[now]);
  }

  /**
   * Which answer a narrow screen shows.
   * @param {number} which
   */
  side(which) {
    all(".rate-card", this.place).forEach((each, index) => each.classList.toggle("is-shown", index === which));
    for (const each of all("[data-side]", this.place)) {
      if (Number(each.dataset.side) === which) each.setAttribute("aria-current", "true");
      else each.removeAttribute("aria-current");
    }
  }

  /**
   * @param {number} way - 1 down, -1 up.
   * @param {number[]} [only] - Places of the answers; else all, in a ranking the one with the focus.
   */
  scroll(way, only) {
    const bodies = this.bodies;
    const focused = bodies.filter((each) => this.page.dataset.kind === "rank" && each.parentElement?.matches(":focus-within"));
    const wanted = only ? only.flatMap((place) => bodies[place] ?? []) : focused.length ? focused : bodies;
    if (this.page.dataset.kind !== "rank" || focused.length) for (const each of wanted) each.scrollBy({ top: way * STEP });
    else scrollBy({ top: way * STEP });
  }

  /**
   * A body has moved. Events come a frame late: one that stands where it was put must not undo what another key did meanwhile.
   * @param {Element} moved
   */
  follow(moved) {
    if (!this.on.has("together") || !moved.matches(".rate-card > .body")) return;
    if (this.agreed.get(moved) !== moved.scrollTop) this.join(moved);
  }

  /**
   * Have the other answers scroll to where this one is.
   * @param {Element} moved
   */
  join(moved) {
    for (const body of this.bodies) {
      if (body !== moved) body.scrollTop = moved.scrollTop;
      this.agreed.set(body, body.scrollTop);
    }
  }
}
