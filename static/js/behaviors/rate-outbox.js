/** Votes that the server has not confirmed: kept in this browser, sent one after another, tried again until they are taken. */
const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30_000;
const ANSWER_MS = 30_000;

/** @typedef {{ url: string, body: string, key: string, at: string }} Vote */

/** A key that no other vote has; `randomUUID` is not there on plain HTTP. */
export const freshKey = () => crypto.randomUUID?.() ?? [...crypto.getRandomValues(new Uint32Array(4))].map((each) => each.toString(16)).join("-");

export class Outbox {
  /**
   * Each vote is an entry of its own, so that two tabs never write over one another; whichever sends it, its key makes it count once.
   * @param {string} user - Whose votes these are: somebody else who signs in here later must not send them.
   * @param {(html: string, vote: Vote) => void} taken - Called when the server has a vote.
   * @param {(message: string, vote: Vote) => void} refused - Called when the server will never take it.
   * @param {(count: number, why: string) => void} changed - Called with how many are kept, and why they could not be sent ("" when they can).
   */
  constructor(user, taken, refused, changed) {
    Object.assign(this, { taken, refused, changed });
    this.prefix = `vote ${user} `;
    this.why = "";
    this.sending = false;
    this.wait = FIRST_WAIT;
    /** What only this tab knows, where the browser's store is full or closed. @type {Map<string, Vote>} */
    this.here = new Map();
    this.last = 0;
    /** @type {(vote: Vote) => string} */
    this.query = () => "only=1";
    addEventListener("online", () => this.flush(true));
    addEventListener("storage", (event) => {
      if (event.key?.startsWith(this.prefix)) this.changed(this.votes.length, this.why);
    });
  }

  /** Oldest first. @returns {Vote[]} */
  get votes() {
    const found = new Map(this.here);
    try {
      for (let number = 0; number < localStorage.length; number++) {
        const name = localStorage.key(number) ?? "";
        if (name.startsWith(this.prefix)) found.set(name, JSON.parse(localStorage.getItem(name) ?? "null"));
      }
    } catch {
      // A store that cannot be read holds nothing for us.
    }
    return [...found.values()].filter(Boolean).sort((one, other) => (one.at < other.at ? -1 : 1));
  }

  /** @param {{ url: string, body: string }} vote */
  add(vote) {
    this.last = Math.max(Date.now(), this.last + 1);
    const kept = { ...vote, key: freshKey(), at: String(this.last).padStart(15, "0") };
    const name = this.prefix + kept.key;
    try {
      localStorage.setItem(name, JSON.stringify(kept));
    } catch {
      this.here.set(name, kept);
    }
    this.flush();
  }

  /** @param {Vote} vote */
  drop(vote) {
    this.here.delete(this.prefix + vote.key);
    try {
      localStorage.removeItem(this.prefix + vote.key);
    } catch {
      // Then it was never kept there.
    }
  }

  /**
   * Send what waits, oldest first.
   * @param {boolean} [now] - Though one was tried a moment ago.
   */
  async flush(now = false) {
    if (this.sending || (this.timer && !now)) {
      this.changed(this.votes.length, this.why);
      return;
    }
    this.sending = true;
    clearTimeout(this.timer);
    this.timer = 0;
    for (let vote = this.votes[0]; vote; vote = this.votes[0]) {
      this.changed(this.votes.length, this.why);
      const answer = await this.send(vote);
      if (answer.why) {
        this.why = answer.why;
        this.timer = setTimeout(() => this.flush(true), this.wait);
        this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
        break;
      }
      this.wait = FIRST_WAIT;
      this.drop(vote);
      this.why = this.why && this.votes.length ? "sending them now" : "";
      if (answer.refused) this.refused(answer.refused, vote);
      else this.taken(answer.html ?? "", vote);
    }
    this.sending = false;
    this.changed(this.votes.length, this.why);
  }

  /**
   * @param {Vote} vote
   * @returns {Promise<{ html?: string, why?: string, refused?: string }>} What the server said; why it is to be tried again; or why never.
   */
  async send(vote) {
    let answer, html;
    try {
      answer = await fetch(`${vote.url}?${this.query(vote)}`, {
        method: "POST",
        body: new URLSearchParams(vote.body),
        headers: { "Idempotency-Key": vote.key, "HX-Request": "true", "HX-Request-Type": "partial" },
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      html = await answer.text();
    } catch {
      return { why: "trying again" };
    }
    if (answer.status === 401) return { why: "sign in again in another tab, and they are sent" };
    if (answer.status >= 500 || [408, 425, 429].includes(answer.status)) return { why: "trying again" };
    // What answers for the server on a strange network says 200 too; only the server says that it has the vote.
    if (answer.ok) return html.includes("data-saved") ? { html } : { why: "trying again" };
    const said = new DOMParser().parseFromString(html, "text/html").querySelector(".alert b, h1")?.textContent;
    return { refused: said || "The server refused a vote." };
  }
}
