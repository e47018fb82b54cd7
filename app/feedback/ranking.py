"""Models rated from votes on pairs: Bradley-Terry, its uncertainty, ranks, the matrix of wins. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import Invalid
from app.feedback.intervals import CONFIDENCE, UNKNOWN, Array, Estimate, bootstrap_values, percentiles, wilson, z_value

Comparison = tuple[str, str, float, Hashable]
"""(a, b, score of a: 1, 0.5 for a tie or 0, prompt). Votes with the same prompt are one cluster: they are not independent."""
Outcome = Literal["a", "b", "tie", "both_bad"]

ELO = 400 / math.log(10)
"""Elo points in one unit of log-odds."""
RIDGE = 0.01
"""L2 on ratings in log-odds: pulls next to nothing, and keeps a model finite that never lost."""
STYLE_RIDGE = 0.5
"""L2 on the effects of style, as Chatbot Arena has it."""
RESAMPLES = 200
FEW_PROMPTS = 10
"""Prompts a model under which the spread between prompts is not to be trusted alone."""
LONGEST_STEP = 3.0
"""Log-odds a step of Newton's method may go at most: from far away a full step overshoots."""


@dataclass(frozen=True)
class Rating:
    """One model of a ranking."""

    model: str
    rating: Estimate
    """Elo points above the anchor, which is 0; n counts votes. None where no chain of votes leads to the anchor."""
    win_probability: float | None
    """Against the anchor, a tie counting half."""
    bounded: bool
    """False where the model won all or lost all that ties it to the anchor: the data set no limit, only the L2 does."""
    best_rank: int | None
    worst_rank: int | None


@dataclass(frozen=True)
class Ranking:
    """Models from the best to the worst, those that cannot be compared with the anchor last."""

    models: tuple[Rating, ...]
    anchor: str | None
    components: tuple[tuple[str, ...], ...]
    """Groups of models no vote joins; more than one means that not all can be compared."""
    votes: int
    prompts: int
    names: tuple[str, ...]
    """Order of the rows of `elo` and `covariance`."""
    elo: Array
    covariance: Array
    """Of the ratings in Elo points, the anchor's row being 0."""

    @property
    def connected(self) -> bool:
        """Whether every model can be compared with every other."""
        return len(self.components) < 2

    def difference(self, a: str, b: str, confidence: float = CONFIDENCE) -> Estimate:
        """Elo points a lies above b, with the interval of the difference, which is narrower than the two intervals suggest."""
        if a not in self.names or b not in self.names or not any(a in group and b in group for group in self.components):
            return UNKNOWN
        i, j = self.names.index(a), self.names.index(b)
        gap, cov = float(self.elo[i] - self.elo[j]), self.covariance
        half = z_value(confidence) * math.sqrt(max(float(cov[i, i] + cov[j, j] - 2 * cov[i, j]), 0.0))
        return Estimate(gap, gap - half, gap + half, self.votes) if self.prompts > 1 else Estimate(gap, None, None, self.votes)


EMPTY = Ranking((), None, (), 0, 0, (), np.empty(0), np.empty((0, 0)))


@dataclass(frozen=True)
class Cell:
    """How one model fared against another."""

    wins: int
    losses: int
    win_rate: Estimate
    """Among decisive votes."""
    tie_rate: Estimate
    both_bad_rate: Estimate
    n: int


@dataclass(frozen=True)
class Effect:
    """How far one standard deviation more of a feature moves a vote, in log-odds."""

    name: str
    effect: Estimate


@dataclass(frozen=True)
class Precision:
    """What so many votes can tell of the two best models."""

    top_two: Estimate
    separated: bool | None
    half_width: float | None
    votes: int
    more_votes: int | None
    """About how many more, drawn as so far, bring the half-width down to what was asked; 0 where it is reached."""


class _Votes(NamedTuple):
    """Comparisons as arrays."""

    names: tuple[str, ...]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    score: Array
    cluster: NDArray[np.int64]
    clusters: int


def _read(comparisons: Iterable[Comparison], anchor: str | None) -> _Votes:
    rows = list(comparisons)
    if any(score not in (0, 0.5, 1) for _, _, score, _ in rows):
        raise Invalid("The score of a comparison is 1 (a won), 0.5 (a tie) or 0 (b won).", field="score")
    if any(a == b for a, b, _, _ in rows):
        raise Invalid("A model cannot be compared with itself: leave such votes out.", field="model")
    names = tuple(sorted({name for a, b, _, _ in rows for name in (a, b)}))
    if anchor is not None and names and anchor not in names:
        raise Invalid(f"The anchor {anchor} has no vote: choose one of {', '.join(names[:10])}.", field="anchor")
    place = {name: index for index, name in enumerate(names)}
    prompts = {prompt: index for index, prompt in enumerate(dict.fromkeys(prompt for _, _, _, prompt in rows))}
    return _Votes(
        names,
        np.array([place[a] for a, _, _, _ in rows], dtype=np.int64),
        np.array([place[b] for _, b, _, _ in rows], dtype=np.int64),
        np.array([score for _, _, score, _ in rows], dtype=np.float64),
        np.array([prompts[prompt] for _, _, _, prompt in rows], dtype=np.int64),
        len(prompts),
    )


def _reach(links: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which model can be reached from which along the links."""
    reach = links | np.eye(len(links), dtype=bool)
    for _ in range(max(1, len(links)).bit_length()):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return reach


def sigmoid(x: Array) -> Array:
    return np.asarray((1 + np.tanh(x / 2)) / 2, dtype=np.float64)  # exp would overflow


def logistic(design: Array, score: Array, weight: Array, ridge: Array, start: Array) -> tuple[Array, Array]:
    """Logistic regression without intercept for many sets of weights and scores at once: coefficients and curvature of each.

    `design` is rows × features and the same for all; `score` (sum of scores) and `weight` (number of votes) are sets × rows.
    """
    theta = start.copy()
    columns = design.shape[1]
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    for _ in range(100):
        p = sigmoid(theta @ design.T)
        gradient = (score - weight * p) @ design - ridge * theta
        curvature = ((weight * p * (1 - p)) @ squares).reshape(-1, columns, columns) + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        step *= np.minimum(1, LONGEST_STEP / np.maximum(np.abs(step).max(axis=1), 1e-300))[:, None]
        theta += step
        if np.abs(step).max() < 1e-8:
            break
    return theta, curvature


def rate(
    comparisons: Iterable[Comparison],
    *,
    anchor: str | None = None,
    interval: Literal["sandwich", "bootstrap"] = "sandwich",
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    ridge: float = RIDGE,
) -> Ranking:
    """Bradley-Terry ratings in Elo points above the anchor (the model with most votes, if none is named).

    Both intervals take the votes on one prompt as one observation: the sandwich from one fit, the bootstrap from `resamples` fits.
    """
    votes = _read(comparisons, anchor)
    if not votes.names:
        return EMPTY
    keys, row = np.unique(np.minimum(votes.a, votes.b) * len(votes.names) + np.maximum(votes.a, votes.b), return_inverse=True)
    low, high = keys // len(votes.names), keys % len(votes.names)
    flipped = votes.a > votes.b
    score = np.where(flipped, 1 - votes.score, votes.score)
    columns = len(votes.names)
    design = np.eye(columns)[low] - np.eye(columns)[high]
    penalty = np.full(columns, ridge)

    def totals(of: Array) -> Array:
        return np.asarray(np.bincount(row, weights=of, minlength=len(keys)), dtype=np.float64)

    theta, curvature = logistic(design, totals(score)[None], totals(np.ones(len(row)))[None], penalty, np.zeros((1, columns)))
    residual = score - sigmoid(theta[0] @ design.T)[row]
    inverse = np.linalg.inv(curvature[0])
    covariance = _sandwich(votes, design[row] * residual[:, None], inverse)
    draws = None
    if interval == "bootstrap":

        def fits(drawn: Array) -> Array:
            picked = drawn[:, votes.cluster]
            scores = np.stack([totals(one * score) for one in picked])
            weights = np.stack([totals(one) for one in picked])
            return logistic(design, scores, weights, penalty, np.repeat(theta, len(picked), axis=0))[0]

        draws = bootstrap_values(fits, np.ones(votes.clusters, dtype=np.int64), resamples=resamples, seed=seed)
    return _ranking(votes, anchor, theta[0], covariance, inverse, draws, confidence)


def rate_adjusted(
    comparisons: Iterable[Comparison],
    differences: Sequence[Sequence[float]],
    features: Sequence[str],
    *,
    anchor: str | None = None,
    confidence: float = CONFIDENCE,
    ridge: float = RIDGE,
    style_ridge: float = STYLE_RIDGE,
) -> tuple[Ranking, tuple[Effect, ...]]:
    """Ratings at equal style, and what style does. `differences` has for each comparison each feature of a less that of b
    (`app.feedback.biases.style_difference`).

    Differences are divided by their root mean square, so that naming the two answers the other way round changes nothing.
    """
    votes = _read(comparisons, anchor)
    if len(differences) != len(votes.score) or any(len(row) != len(features) for row in differences):
        raise Invalid("Every comparison needs one difference for each feature.", field="differences")
    if not votes.names:
        return EMPTY, tuple(Effect(name, UNKNOWN) for name in features)
    style = np.array(differences, dtype=np.float64)
    if not np.isfinite(style).all():
        raise Invalid("A difference of style is not a finite number: leave that comparison out.", field="differences")
    size = np.sqrt((style**2).mean(axis=0))
    style = style / np.where(size > 0, size, 1)
    n, models = len(votes.score), len(votes.names)
    design = np.hstack([np.eye(models)[votes.a] - np.eye(models)[votes.b], style])
    penalty = np.concatenate([np.full(models, ridge), np.full(len(features), style_ridge)])
    theta, curvature = logistic(design, votes.score[None], np.ones((1, n)), penalty, np.zeros((1, design.shape[1])))
    inverse = np.linalg.inv(curvature[0])
    residual = votes.score - sigmoid(theta[0] @ design.T)
    covariance = _sandwich(votes, design * residual[:, None], inverse)
    z, effects = z_value(confidence), []
    for index, name in enumerate(features, start=models):
        value, half = float(theta[0, index]), z * math.sqrt(float(covariance[index, index]))
        known = votes.clusters > 1 and size[index - models] > 0
        effects.append(Effect(name, Estimate(value, value - half, value + half, n) if known else Estimate(None, None, None, n)))
    inner = slice(0, models)
    ranking = _ranking(votes, anchor, theta[0, inner], covariance[inner, inner], inverse[inner, inner], None, confidence)
    return ranking, tuple(effects)


def _sandwich(votes: _Votes, scores: Array, inverse: Array) -> Array:
    """Covariance of the coefficients that holds when votes on one prompt go together, corrected for the number of unknowns."""
    if votes.clusters < 2:
        return np.full_like(inverse, np.nan)
    per_prompt = np.stack([np.bincount(votes.cluster, weights=column, minlength=votes.clusters) for column in scores.T], axis=1)
    left = max(1, votes.clusters - (len(inverse) - 1))
    return np.asarray(inverse @ (per_prompt.T @ per_prompt) @ inverse * votes.clusters / left, dtype=np.float64)


def _ranking(
    votes: _Votes, anchor: str | None, theta: Array, covariance: Array, inverse: Array, draws: Array | None, confidence: float
) -> Ranking:
    """Put ratings, intervals and ranks together, relative to the anchor."""
    names, count = votes.names, len(votes.names)
    given = np.bincount(votes.a, minlength=count) + np.bincount(votes.b, minlength=count)
    base = names.index(anchor) if anchor is not None else int(given.argmax())
    beat = np.zeros((count, count), dtype=bool)
    beat[votes.a[votes.score > 0], votes.b[votes.score > 0]] = True
    beat[votes.b[votes.score < 1], votes.a[votes.score < 1]] = True
    joined, ahead = _reach(beat | beat.T), _reach(beat)
    bounded = (ahead & ahead.T)[base]
    shift = np.eye(count)
    shift[:, base] -= 1
    elo, cov = shift @ theta * ELO, shift @ covariance @ shift.T * ELO**2
    # Where only the L2 keeps a rating finite, all votes are ties, or prompts are few, residuals are too small, and sandwich and bootstrap
    # would claim to know more than they can: the curvature, as for independent votes, then is the least that is not known.
    plain = shift @ inverse @ shift.T * ELO**2
    few = votes.clusters < FEW_PROMPTS * (count - 1)
    firm = bounded & (np.diag(cov) > np.diag(plain) * (1 if few else 1e-6))
    loose = np.flatnonzero(~firm)
    cov[loose, :], cov[:, loose] = plain[loose, :], plain[:, loose]
    half = z_value(confidence) * np.sqrt(np.maximum(np.diag(cov), 0))
    low, high = elo - half, elo + half
    if draws is not None and len(draws):
        drawn = (draws - draws[:, [base]]) * ELO
        below, above = percentiles(drawn, confidence)
        low, high = np.where(firm, below, low), np.where(firm, above, high)
    ratings = {}
    for index in range(count):
        n, seen = int(given[index]), joined[base, index]
        bounds = (float(low[index]), float(high[index])) if seen and votes.clusters > 1 else (None, None)
        ratings[index] = Estimate(float(elo[index]) if seen else None, bounds[0], bounds[1], n)
    ranks = rank_ranges({names[index]: rating for index, rating in ratings.items()})
    chance = sigmoid(elo / ELO)
    models = [
        Rating(names[index], rating, float(chance[index]) if joined[base, index] else None, bool(bounded[index]), *ranks[names[index]])
        for index, rating in ratings.items()
    ]
    models.sort(key=lambda entry: (entry.rating.value is None, -(entry.rating.value or 0), entry.model))
    groups = dict.fromkeys(tuple(names[index] for index in np.flatnonzero(row)) for row in joined)
    components = tuple(sorted(groups, key=lambda group: (-len(group), group)))
    return Ranking(tuple(models), names[base], components, len(votes.score), votes.clusters, names, elo, cov)


def rank_ranges(ratings: dict[str, Estimate]) -> dict[str, tuple[int | None, int | None]]:
    """Best and worst rank of each: 1 + those surely above (their lower bound over its upper), and all but those surely below it."""
    known = {name: (one.low, one.high) for name, one in ratings.items() if one.low is not None and one.high is not None}
    ranges: dict[str, tuple[int | None, int | None]] = dict.fromkeys(ratings, (None, None))
    for name, (low, high) in known.items():
        above = sum(other > high for other, _ in known.values())
        below = sum(other < low for _, other in known.values())
        ranges[name] = (1 + above, len(known) - below)
    return ranges


def matrix(votes: Iterable[tuple[str, str, Outcome]]) -> dict[tuple[str, str], Cell]:
    """Every pair of models with votes, from either side: wins among the decisive, ties and both-bad among all, with Wilson's interval."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    seen_from_b = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad"}
    for a, b, outcome in votes:
        if outcome not in seen_from_b:
            raise Invalid(f"{outcome!r} is no outcome: use a, b, tie or both_bad.", field="outcome")
        counts.setdefault((a, b), Counter())[outcome] += 1
        counts.setdefault((b, a), Counter())[seen_from_b[outcome]] += 1
    return {
        pair: Cell(
            wins=found["a"],
            losses=found["b"],
            win_rate=wilson(found["a"], found["a"] + found["b"]),
            tie_rate=wilson(found["tie"], n),
            both_bad_rate=wilson(found["both_bad"], n),
            n=n,
        )
        for pair, found in counts.items()
        if (n := found.total())
    }


def votes_needed(ranking: Ranking, half_width: float = 10.0, confidence: float = CONFIDENCE) -> Precision:
    """Whether the two best are told apart, and about how many more votes make their difference known to ± `half_width` Elo points.

    The error shrinks with the root of the number of votes if further ones are spread as those so far.
    """
    if half_width <= 0:
        raise Invalid("The half-width to reach is a number of Elo points above 0.", field="half_width")
    best = [entry.model for entry in ranking.models if entry.rating.value is not None][:2]
    gap = ranking.difference(best[0], best[1], confidence) if len(best) == 2 else UNKNOWN
    if gap.value is None or gap.low is None or gap.high is None:
        return Precision(gap, None, None, ranking.votes, None)
    now = (gap.high - gap.low) / 2
    more = max(0, math.ceil(ranking.votes * ((now / half_width) ** 2 - 1)))
    return Precision(gap, gap.low > 0, now, ranking.votes, more)
