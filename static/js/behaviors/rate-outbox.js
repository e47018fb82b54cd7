/** Votes that the server has not confirmed: kept in this browser, sent one after another, tried again until they are taken. */
const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30_000;

/** @typedef {{ url: string, body: string, key: string }} Vote */

export class Outbox {
  /**
   * @param {string} name - Under which the votes are kept.
   * @param {(html: string, vote: Vote) => void} taken - Called when the server has a vote.
   * @param {(message: string) => void} refused - Called when the server will never take it.
   * @param {(count: number, failing: boolean) => void} changed
   */
  constructor(name, taken, refused, changed) {
    Object.assign(this, { name, taken, refused, changed });
    this.failing = false;
    this.sending = false;
    this.wait = FIRST_WAIT;
    this.ahead = () => 0;
    addEventListener("online", () => this.flush());
  }

  /** @returns {Vote[]} */
  get votes() {
    try {
      return JSON.parse(localStorage.getItem(this.name) ?? "[]");
    } catch {
      return [];
    }
  }

  set votes(votes) {
    localStorage.setItem(this.name, JSON.stringify(votes));
    this.changed(votes.length, this.failing);
  }

  /** @param {Vote} vote */
  add(vote) {
    this.votes = [...this.votes, vote];
    this.flush();
  }

  /** Send what waits, oldest first. */
  async flush() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    for (let vote = this.votes[0]; vote; vote = this.votes[0]) {
      let answer;
      try {
        answer = await fetch(`${vote.url}?ahead=${this.ahead()}`, {
          method: "POST",
          body: new URLSearchParams(vote.body),
          headers: { "Idempotency-Key": vote.key, "HX-Request": "true", "HX-Request-Type": "partial" },
        });
      } catch {
        answer = null;
      }
      if (!answer || answer.status >= 500 || [401, 408, 429].includes(answer.status)) {
        this.failing = true;
        this.changed(this.votes.length, true);
        this.timer = setTimeout(() => this.flush(), this.wait);
        this.wait = Math.min(LONGEST_WAIT, this.wait * 2);
        break;
      }
      const html = await answer.text().catch(() => "");
      this.failing = false;
      this.wait = FIRST_WAIT;
      this.votes = this.votes.filter((each) => each.key !== vote.key);
      if (answer.ok) this.taken(html, vote);
      else this.refused(new DOMParser().parseFromString(html, "text/html").querySelector(".alert b, h1")?.textContent ?? "It was refused.");
    }
    this.sending = false;
  }
}
