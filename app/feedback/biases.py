"""What pulls a rater's votes besides the answers: side, length, keys, haste, drift; and gold items. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from app.errors import Invalid
from app.feedback.agreement import side
from app.feedback.intervals import UNKNOWN, Estimate, binomial_p_value, check_counts, exact, wilson, z_value
from app.feedback.ranking import logistic

LEVEL = 0.05
"""How often a test may call an honest rater odd."""
POWER = 0.8
LEAST_GOLD = 10
"""Gold items seen before anything is said of a rater."""
GOLD_BAR = 0.75
"""Share of gold items a rater should get right: the soft cutoff of InstructGPT."""
FLOOR_MS = 250.0
"""Milliseconds for ten words under which nobody has read them."""
FIRST_VOTES = 100
"""Votes the sequential test looks at, as FastChat does."""
STRAIGHT_LEVEL = 0.001
"""Straight-lining is looked for in every rater, so it needs stronger evidence than one test."""
LEAST_KEYS = 20
SLOPE_RIDGE = 0.01
STYLE_FEATURES = ("length", "headers", "lists", "bold")


@dataclass(frozen=True)
class PositionBias:
    """Share of the decisive votes that went to the answer on the left."""

    left: Estimate
    p_value: float | None
    detectable: float | None
    """Share to one side that so many votes would show four times in five; None where not even 100 % would be seen so often."""
    found: Literal["left", "right"] | None
    verdict: str


@dataclass(frozen=True)
class SwapRepeats:
    """The same pair twice by one rater, sides swapped the second time."""

    flips: Estimate
    """Opposite answers, among pairs both times decisive: the rater followed the side."""
    changed: Estimate
    """Any change of side, to or from a tie included."""
    same_grade: Estimate


@dataclass(frozen=True)
class LengthBias:
    """Whether the longer answer wins."""

    longer_wins: Estimate
    """Among decisive votes on answers of different length; exact interval."""
    slope: Estimate
    """Log-odds for one standard deviation more of length difference."""
    slope_error: float | None


@dataclass(frozen=True)
class StraightLining:
    """One key again and again."""

    longest_run: int
    key: Hashable
    p_value: float | None
    """How often a rater who presses keys as often as this one, in random order, has a run as long somewhere."""
    entropy: float | None
    """Variety of the keys: 0 one key only, 1 all equally often."""
    n: int
    flagged: bool


@dataclass(frozen=True)
class Pace:
    """Time spent on votes."""

    median_ms: float | None
    words_per_second: float | None
    hurried: Estimate
    """Share of votes faster than the floor for so many words."""


@dataclass(frozen=True)
class Gold:
    """Accuracy on items whose answer is known."""

    accuracy: Estimate
    verdict: Literal["too few", "passes", "doubtful", "below"]
    """`doubtful`: under the bar, but the interval reaches it; `below`: all of the interval is under it. `too few`: before 10."""


@dataclass(frozen=True)
class Anomaly:
    """Sequential test of a rater against the others."""

    flagged_at: int | None
    """The vote at which the product passed the limit."""
    product: float
    """Largest running product."""
    n: int


@dataclass(frozen=True)
class Style:
    """What of an answer may please without being better."""

    tokens: int
    headers: int = 0
    lists: int = 0
    bold: int = 0


def style_difference(a: Style, b: Style) -> tuple[float, ...]:
    """Differences in the order of `STYLE_FEATURES`: of the logarithm of length; of the marks, by the sum of both answers' marks."""
    marks = ((a.headers, b.headers), (a.lists, b.lists), (a.bold, b.bold))
    return (math.log1p(a.tokens) - math.log1p(b.tokens), *((x - y) / (x + y) if x + y else 0.0 for x, y in marks))


def detectable_share(n: int, level: float = LEVEL, power: float = POWER) -> float | None:
    """The share to one side that a test of n decisive votes finds with this power; None where even all votes to one side would not do."""
    z, aim = z_value(1 - level), z_value(2 * power - 1)
    low, high = 0.5, 1.0
    if n < 1 or math.sqrt(n) * 0.5 < z * 0.5:
        return None
    for _ in range(50):
        p = (low + high) / 2
        reached = math.sqrt(n) * (p - 0.5) >= z * 0.5 + aim * math.sqrt(p * (1 - p))
        low, high = (low, p) if reached else (p, high)
    return high


def position_bias(left: int, right: int, level: float = LEVEL) -> PositionBias:
    """Does a rater, or do all, favour a side? Give the numbers of decisive votes for the answer shown left and right."""
    n = left + right
    check_counts(left, n)
    if not n:
        return PositionBias(UNKNOWN, None, None, None, "No decisive vote yet.")
    share, p_value, detectable = exact(left, n), binomial_p_value(left, n), detectable_share(n)
    if p_value < level:
        found: Literal["left", "right"] = "left" if left > right else "right"
        most = max(left, right) / n
        return PositionBias(share, p_value, detectable, found, f"Favours the {found}: {most:.0%} of {n} decisive votes (p {p_value:.2g}).")
    if detectable is None:
        return PositionBias(share, p_value, None, None, f"{n} decisive votes are too few to see any bias.")
    words = f"No bias seen; with {n} decisive votes one smaller than {detectable:.0%} to one side would mostly stay unseen."
    return PositionBias(share, p_value, detectable, None, words)


def swap_repeats(pairs: Iterable[tuple[float, float]]) -> SwapRepeats:
    """How steady a rater is. Each pair holds the two grades of one comparison, both towards the same answer, wherever it was shown."""
    graded = list(pairs)
    decisive = [(side(first), side(again)) for first, again in graded if first and again]
    return SwapRepeats(
        flips=wilson(sum(first != again for first, again in decisive), len(decisive)),
        changed=wilson(sum(side(first) != side(again) for first, again in graded), len(graded)),
        same_grade=wilson(sum(first == again for first, again in graded), len(graded)),
    )


def length_bias(rows: Iterable[tuple[float, float, float, Hashable]]) -> LengthBias:
    """Does the longer answer win? Rows of (length of a, length of b, score of a: 1, 0.5, 0; prompt).

    The slope counts a tie as half, standardises the difference of lengths by its root mean square and takes votes on one prompt as one
    observation. It says that votes go with length, not that length is why: longer answers may be better.
    """
    given = list(rows)
    scores = np.array([score for _, _, score, _ in given], dtype=np.float64)
    if not np.isin(scores, (0, 0.5, 1)).all():
        raise Invalid("The score of a comparison is 1 (a won), 0.5 (a tie) or 0 (b won).", field="score")
    differences = np.array([a - b for a, b, _, _ in given], dtype=np.float64)
    says = (differences != 0) & (scores != 0.5)
    decisive = ((differences > 0) == (scores == 1))[says]
    longer = exact(int(decisive.sum()), len(decisive))
    if not differences.any():
        return LengthBias(longer, Estimate(None, None, None, len(given)), None)
    x = differences / math.sqrt(float((differences**2).mean()))
    theta, curvature = logistic(x[:, None], scores[None], np.ones((1, len(given))), np.array([SLOPE_RIDGE]), np.zeros((1, 1)))
    slope = float(theta[0, 0])
    numbers: dict[Hashable, int] = {}
    of_prompt = [numbers.setdefault(prompt, len(numbers)) for _, _, _, prompt in given]
    pulls = np.bincount(of_prompt, weights=x * (scores - 1 / (1 + np.exp(-slope * x))))
    if len(pulls) < 2:
        return LengthBias(longer, Estimate(slope, None, None, len(given)), None)
    # With every vote on one side residuals vanish, and only the curvature still says how little is known.
    separated = bool(says.all()) and len(set(decisive.tolist())) == 1
    spread = float(curvature[0, 0, 0]) if separated else float((pulls**2).sum()) * len(pulls) / (len(pulls) - 1)
    error = math.sqrt(spread) / float(curvature[0, 0, 0])
    half = z_value() * error
    return LengthBias(longer, Estimate(slope, slope - half, slope + half, len(given)), error)


def run_p_value(shares: Sequence[float], n: int, run: int) -> float:
    """Probability of a run of at least `run` equal keys among n, each key drawn at random with these shares."""
    if run <= 1:
        return 1.0 if n else 0.0
    # Probability of no such run yet, and of that with each key last, after 0, 1, … keys.
    clean, ends = [1.0], [[0.0] * len(shares)]
    for t in range(1, n + 1):
        last = []
        for key, share in enumerate(shares):
            chance = clean[t - 1] * share
            if t >= run:  # less those whose run becomes complete just now
                chance -= share**run * (clean[t - run] - ends[t - run][key])
            last.append(max(chance, 0.0))
        ends.append(last)
        clean.append(sum(last))
    return min(1.0, max(0.0, 1 - clean[n]))


def straight_lining(keys: Sequence[Hashable], options: int = 7) -> StraightLining:
    """Does a rater press one key without looking? `options` is the number of keys there are to press.

    Flagged where the longest run is too long even for how often the rater uses that key, or where at least 20 votes are all the same. Items
    sorted by quality also give runs: look before judging.
    """
    if not keys:
        return StraightLining(0, None, None, None, 0, False)
    counts, n = Counter(keys), len(keys)
    if options < len(counts):
        raise Invalid(f"The rater pressed {len(counts)} different keys, and there are said to be {options}.", field="options")
    longest = run = 1
    key = keys[0]
    for before, now in pairwise(keys):
        run = run + 1 if now == before else 1
        if run > longest:
            longest, key = run, now
    shares = [count / n for count in counts.values()]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(options) if options > 1 else None
    p_value = run_p_value(shares, n, longest)
    return StraightLining(
        longest, key, p_value, entropy, n, p_value < STRAIGHT_LEVEL or (options > 1 and len(counts) == 1 and n >= LEAST_KEYS)
    )


def pace(votes: Iterable[tuple[float, int]], floor_ms: float = FLOOR_MS) -> Pace:
    """How long votes take. Each is (active milliseconds, words shown); words a second is the median over votes."""
    given = list(votes)
    if not given:
        return Pace(None, None, UNKNOWN)
    ms, words = np.array(given, dtype=np.float64).T
    if (ms < 0).any() or (words < 0).any():
        raise Invalid("Times and numbers of words are 0 or more.", field="active_ms")
    speeds = words[ms > 0] / ms[ms > 0] * 1000
    hurried = wilson(int((ms < floor_ms * words / 10).sum()), len(given))
    return Pace(float(np.median(ms)), float(np.median(speeds)) if len(speeds) else None, hurried)


def gold_accuracy(right: int, n: int, bar: float = GOLD_BAR, least: int = LEAST_GOLD) -> Gold:
    """How many gold items a rater got right, and what that says; nothing before `least` were seen. Only `passes` clears a gate."""
    accuracy = wilson(right, n)
    if n < max(least, 1) or accuracy.value is None or accuracy.high is None:
        return Gold(accuracy, "too few")
    if accuracy.value >= bar:
        return Gold(accuracy, "passes")
    return Gold(accuracy, "below" if accuracy.high < bar else "doubtful")


def anomaly(votes: Iterable[tuple[float, int, int]], level: float = LEVEL, first: int = FIRST_VOTES) -> Anomaly:
    """Does a rater keep voting against the others? Votes in order: (score of a, others' wins of a, others' wins of b) on the item or pair.

    As FastChat has it, the running product of 1/(2p) may not pass 1/level in the first hundred decisive votes. Here p is the share of the
    others (this vote counted) who took this side or a rarer one, so that pairs with different favourites add up; an honest rater is then
    flagged with a chance of about `level` at most, however often one looks. Ties and votes nobody else gave are left out.
    """
    product, largest, n, flagged = 1.0, 1.0, 0, None
    for score, wins_a, wins_b in votes:
        if score not in (0, 0.5, 1):
            raise Invalid("The score of a comparison is 1 (a won), 0.5 (a tie) or 0 (b won).", field="score")
        if score == 0.5 or wins_a + wins_b < 1:
            continue
        if n == first:
            break
        n += 1
        same, other = (wins_a, wins_b) if score == 1 else (wins_b, wins_a)
        p = (same + 1) / (wins_a + wins_b + 1) if same < other else 1.0
        product /= 2 * p
        largest = max(largest, product)
        if flagged is None and product > 1 / level:
            flagged = n
    return Anomaly(flagged, largest, n)


def drift(votes: Iterable[tuple[str, bool]]) -> list[tuple[str, Estimate]]:
    """Share of votes that agreed (with gold, or with most others) for each day, `2026-11-21`, in order; Wilson's interval."""
    days: dict[str, list[bool]] = defaultdict(list)
    for day, agreed in votes:
        days[day].append(agreed)
    return [(day, wilson(sum(days[day]), len(days[day]))) for day in sorted(days)]
