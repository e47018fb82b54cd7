"""Do the statistics of ratings keep their promises? Simulated votes with known truth. `python -m benchmarks.ratings_statistics`"""

from __future__ import annotations

import math
import time
from collections import Counter
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.feedback import active, agreement, biases, choice, ranking
from app.feedback.ranking import Comparison

SIMULATIONS = 2_000
BOOTSTRAPPED = 1_000
"""Simulations with a bootstrap of 200 fits each."""
MODELS = 5
PER_PROMPT = 3
COPIED = 0.5
"""Share of the votes on a prompt that repeat its first vote: they are not independent, and an interval that thinks so is too narrow."""
TIED = 0.4
"""Of the votes that the weaker model would win, and as many of the stronger's, so many are ties instead; the mean score stays."""
HONEST = (0.93, 0.97)
NAMES = [f"model {number:02}" for number in range(20)]
Strengths = NDArray[np.float64]


def draw(random: np.random.Generator, strengths: Strengths, a: int, b: int) -> float:
    """The score of one vote."""
    p = 1 / (1 + math.exp(strengths[b] - strengths[a]))
    half, u = TIED * min(p, 1 - p), random.random()
    return 1.0 if u < p - half else 0.5 if u < p + half else 0.0


def simulated(random: np.random.Generator, strengths: Strengths, votes: int) -> list[Comparison]:
    """Votes on random pairs, several to a prompt."""
    rows: list[Comparison] = []
    for prompt in range(votes // PER_PROMPT):
        a, b = random.choice(len(strengths), 2, replace=False)
        first = draw(random, strengths, a, b)
        for vote in range(PER_PROMPT):
            score = first if vote == 0 or random.random() < COPIED else draw(random, strengths, a, b)
            rows.append((NAMES[a], NAMES[b], score, prompt))
    return rows


def coverage(interval: Literal["sandwich", "bootstrap"], simulations: int, votes: int, *, clustered: bool = True) -> float:
    """Share of intervals that hold the true rating, over all models but the anchor."""
    inside = total = 0
    for seed in range(simulations):
        random = np.random.default_rng(seed)
        strengths = random.normal(0, 0.7, MODELS)
        rows = simulated(random, strengths, votes)
        if not clustered:
            rows = [(a, b, score, vote) for vote, (a, b, score, _) in enumerate(rows)]
        if not any(NAMES[0] in row for row in rows):
            continue
        for entry in ranking.rate(rows, anchor=NAMES[0], interval=interval, seed=seed).models:
            if entry.model != NAMES[0] and entry.rating.low is not None and entry.rating.high is not None:
                truth = (strengths[NAMES.index(entry.model)] - strengths[0]) * ranking.ELO
                inside += entry.rating.low <= truth <= entry.rating.high
                total += 1
    return inside / total


def show_coverage() -> None:
    """Sandwich, bootstrap, and what happens to those who forget that votes come in prompts."""
    print(f"95 % intervals, {MODELS} models, {PER_PROMPT} votes a prompt of which {COPIED:.0%} repeat the first, with ties")
    print(f"  sandwich, 30 votes (10 prompts), {SIMULATIONS} simulations: {coverage('sandwich', SIMULATIONS, 30):.1%}, wide on purpose")
    for votes in (300, 600, 1_500):
        share = coverage("sandwich", SIMULATIONS, votes)
        print(f"  sandwich, {votes} votes, {SIMULATIONS} simulations: {share:.1%} hold the truth{verdict(share)}")
    share = coverage("bootstrap", BOOTSTRAPPED, 600)
    print(f"  bootstrap of 200, 600 votes, {BOOTSTRAPPED} simulations: {share:.1%}{verdict(share)}")
    share = coverage("sandwich", BOOTSTRAPPED, 600, clustered=False)
    print(f"  for comparison, votes taken as independent, {BOOTSTRAPPED} simulations: {share:.1%}")


def verdict(share: float) -> str:
    """Whether a coverage is within what was promised."""
    return "" if HONEST[0] <= share <= HONEST[1] else f"  OUTSIDE {HONEST[0]:.0%}–{HONEST[1]:.0%}"


def show_detection() -> None:
    """How often injected faults are found, and honest raters accused."""
    random = np.random.default_rng(0)
    print(f"detection, {SIMULATIONS} raters each")
    for share in (0.7, 0.6, 0.5):
        left = random.binomial(100, share, SIMULATIONS)
        found = np.mean([biases.position_bias(int(count), 100 - int(count)).found is not None for count in left])
        print(f"  {share:.0%} left, 100 votes: {found:.1%} flagged")
    for n in (10, 20):
        for accuracy in (0.5, 3 / 7, 0.8, 0.9):
            right = random.binomial(n, accuracy, SIMULATIONS)
            verdicts = [biases.gold_accuracy(int(count), n).verdict for count in right]
            held, below = (sum(one in wanted for one in verdicts) / SIMULATIONS for wanted in (("doubtful", "below"), ("below",)))
            print(f"  right with {accuracy:.0%}, {n} gold: {held:.1%} under the bar, {below:.1%} surely so")
    for name, follow in (("contrary", 0.0), ("random", 0.5), ("honest", 1.0)):
        at = []
        for _ in range(SIMULATIONS):
            p = random.choice([0.2, 0.8], 100)
            wins = random.binomial(10, p)
            own = random.random(100) < np.where(follow == 1, p, 0.5 if follow else 1 - p)
            votes = [(float(score), int(count), 10 - int(count)) for score, count in zip(own, wins, strict=True)]
            if (flagged := biases.anomaly(votes).flagged_at) is not None:
                at.append(flagged)
        median = f", after {np.median(at):.0f} votes (median)" if at else ""
        print(f"  {name} against 10 others, 80:20 pairs, 100 votes: {len(at) / SIMULATIONS:.1%} flagged{median}")
    covered, effects, seen = 0, 400, 0
    for _ in range(effects):
        lengths = random.lognormal(5, 0.6, (500, 2))
        difference = lengths[:, 0] - lengths[:, 1]
        chance = 1 / (1 + np.exp(-0.4 * difference / math.sqrt(float((difference**2).mean()))))
        scores = (random.random(500) < chance).astype(float)
        slope = biases.length_bias([(a, b, score, row) for row, ((a, b), score) in enumerate(zip(lengths, scores, strict=True))]).slope
        if slope.low is not None and slope.high is not None:
            covered += slope.low <= 0.4 <= slope.high
            seen += slope.low > 0
    print(f"  length slope 0.4, 500 votes: {seen / effects:.1%} seen, {covered / effects:.1%} of the intervals hold it")


def votes_until(strengths: Strengths, aim: float, seed: int, *, chosen: bool, even: bool = True, items: int = 20_000) -> int:
    """Votes until the mean half-width of all differences of two models is at most `aim` Elo points, on items whose pairs are drawn.

    The order is drawn anew as often as the studio does it, from a stretch of the queue as long as it takes. Unless `even`, models have
    answered unequally often: the last a twelfth as often as the first.
    """
    random, pairs = np.random.default_rng(seed), list(combinations(range(len(strengths)), 2))
    often = np.array([1.0 if even else 1 / (a + 1) / (b + 1) for a, b in pairs])
    waiting = [pairs[index] for index in random.choice(len(pairs), size=items, p=often / often.sum())]
    named = {pair: (NAMES[pair[0]], NAMES[pair[1]]) for pair in pairs}
    added_up: dict[tuple[int, int], list[float]] = {pair: [0.0, 0] for pair in pairs}
    rows: list[Comparison] = []
    looked = 0
    while waiting:
        many = max(active.EVERY, int(active.SHARE * len(rows)))
        if chosen:
            pool = Counter(waiting[: active.POOL])
            groups = sorted(pool)
            said = [(*named[pair], won, int(n)) for pair, (won, n) in added_up.items() if n]
            known = choice.known(NAMES[: len(strengths)], said)
            asked = [
                groups[each] for each in choice.most_uncertain(known, [named[group] for group in groups], many, [*map(pool.get, groups)])
            ]
            for pair in asked:
                waiting.remove(pair)
        else:
            asked, waiting = waiting[:many], waiting[many:]
        for a, b in asked:
            score = draw(random, strengths, a, b)
            added_up[a, b][0] += score
            added_up[a, b][1] += 1
            rows.append((NAMES[a], NAMES[b], score, len(rows)))
        if len(rows) < looked + 100:
            continue
        found, looked = ranking.rate(rows), len(rows)
        # Out of reach of the anchor there is no difference yet, and none is as bad as any.
        if found.connected and len(found.names) == len(strengths) and all(entry.bounded for entry in found.models):
            cov = found.covariance
            variance = np.diag(cov)[:, None] + np.diag(cov) - 2 * cov
            if 1.96 * float(np.sqrt(np.maximum(variance[np.triu_indices(len(strengths), 1)], 0)).mean()) <= aim:
                break
    return len(rows)


def show_active() -> None:
    """What asking for the most uncertain item saves against the drawn order."""
    print(
        "most uncertain first against the drawn order: votes until differences are known to ± 40 Elo on average, 12 models, 10 simulations"
    )
    for spread, even in ((0.3, True), (1.0, True), (2.0, True), (1.0, False)):
        used: dict[bool, list[int]] = {True: [], False: []}
        for seed in range(10):
            strengths = np.random.default_rng(seed).normal(0, spread, 12)
            for chosen in used:
                used[chosen].append(votes_until(strengths, 40, seed, chosen=chosen, even=even))
        drawn, asked = np.array(used[False]), np.array(used[True])
        saved = 1 - asked / drawn
        error = 1.96 * saved.std(ddof=1) / math.sqrt(len(saved))
        items = "" if even else ", models unequally often"
        print(
            f"  strengths ± {spread * ranking.ELO:.0f} Elo{items}: {drawn.mean():.0f} drawn, {asked.mean():.0f} chosen, "
            f"{saved.mean():.1%} ± {100 * error:.1f} saved"
        )


def show_speed() -> None:
    """Seconds for what a page asks."""
    random = np.random.default_rng(0)
    rows = simulated(random, random.normal(0, 1, 20), 10_000)
    quality = random.normal(0, 1.5, 10_000)
    grades = np.clip(np.round(quality[:, None] + random.normal(0, 1, (10_000, 3))), -3, 3).astype(int)
    votes = [(item, rater, int(grades[item, rater])) for item in range(10_000) for rater in range(3)]
    start = time.perf_counter()
    ranking.rate(rows)
    sandwich = time.perf_counter()
    ranking.rate(rows, interval="bootstrap")
    bootstrap = time.perf_counter()
    agreement.krippendorff_alpha(votes, "ordinal")
    alpha = time.perf_counter()
    print(f"20 models, 10,000 votes: sandwich {sandwich - start:.2f} s, bootstrap of 200 {bootstrap - sandwich:.2f} s")
    print(f"ordinal alpha, 10,000 items × 3 votes, 1,000 resamples: {alpha - bootstrap:.2f} s")


def show_recovery() -> None:
    """How near the ratings come to known strengths."""
    found = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        strengths = random.normal(0, 1, 20)
        fitted = ranking.rate(simulated(random, strengths, 10_000))
        found.append(np.corrcoef([strengths[NAMES.index(name)] for name in fitted.names], fitted.elo)[0, 1])
    print(f"20 models, 10,000 votes, 20 simulations: correlation with the true strengths at least {min(found):.4f}")


def main() -> None:
    """All of it."""
    start = time.perf_counter()
    show_speed()
    show_recovery()
    show_coverage()
    show_detection()
    show_active()
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
