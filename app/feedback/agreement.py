"""How far raters agree: raw, corrected for chance, each against the rest, and what the votes on an item come to. Pure arithmetic."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from app.errors import Invalid
from app.feedback.intervals import CONFIDENCE, RESAMPLES, Array, Estimate, cluster_bootstrap, ratio_over_clusters, wilson, z_value

Vote = tuple[Hashable, Hashable, Any]
"""(item, rater, value); None as value is a vote not given. A later vote of the same rater on the same item replaces the earlier."""
Level = Literal["nominal", "ordinal", "interval"]

LARGEST_FLIP_RATE = 0.49
"""Label smoothing of a robust loss must stay under one half."""


@dataclass(frozen=True)
class Agreement(Estimate):
    """An agreement with what it rests on: n counts pairs of votes for raw agreement, votes on items with two or more for the others."""

    items: int
    raters: int


@dataclass(frozen=True)
class PairKappa:
    """Weighted kappa of two raters on the items both rated."""

    first: Hashable
    second: Hashable
    kappa: Estimate


@dataclass(frozen=True)
class Combined:
    """The votes on one item together."""

    overall: float
    """Weighted median."""
    agreement: float
    """Share of the votes with the commonest sign."""
    majority: int | None
    """The sign most votes have (-1, 0, 1); None where two are equally common."""
    split: bool
    """No sign has most of the votes."""
    span: float
    """Highest vote less the lowest."""
    crosses: bool
    """Votes for either side."""
    votes: int


@dataclass(frozen=True)
class _Table:
    """Items with enough votes as counts of values; items that look alike are one row, with how many they are."""

    values: list[Any]
    counts: Array
    kinds: Array
    raters: int

    @property
    def items(self) -> int:
        return int(self.kinds.sum())

    @property
    def votes(self) -> int:
        return int(self.kinds @ self.counts.sum(axis=1))


def by_item(votes: Iterable[Vote]) -> dict[Hashable, dict[Hashable, Any]]:
    """Votes of each item by rater, without those not given."""
    found: dict[Hashable, dict[Hashable, Any]] = defaultdict(dict)
    for item, rater, value in votes:
        if value is not None:
            found[item][rater] = value
    return found


def side(value: float) -> int:
    """Which side a graded vote takes: -1, 0 or 1."""
    return (value > 0) - (value < 0)


def sides(votes: Iterable[Vote]) -> list[Vote]:
    """The votes with nothing but their side, for agreement on who is better rather than by how much."""
    return [(item, rater, None if value is None else side(value)) for item, rater, value in votes]


def _table(votes: Iterable[Vote], categories: Sequence[Any] = (), least: int = 2) -> _Table:
    items = [given for given in by_item(votes).values() if len(given) >= least]
    seen = {value for given in items for value in given.values()}
    if categories and (strange := seen - set(categories)):
        raise Invalid(f"A vote has the value {sorted(strange, key=str)[0]!r}, which is none of the categories.", field="value")
    values = list(categories) or sorted(seen, key=lambda value: (str(type(value)), value) if isinstance(value, str) else ("", value))
    place = {value: column for column, value in enumerate(values)}
    counts = np.zeros((len(items), len(values)))
    for row, given in enumerate(items):
        for value in given.values():
            counts[row, place[value]] += 1
    raters = len({rater for given in items for rater in given})
    if not items:
        return _Table(values, counts, np.zeros(0), raters)
    alike, kinds = np.unique(counts, axis=0, return_counts=True)
    return _Table(values, alike, kinds.astype(np.float64), raters)


def raw_agreement(votes: Iterable[Vote], *, ties: bool = True, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """Share of all pairs of votes on one item that are the same; interval by drawing items. `ties=False` leaves out the votes that are 0.

    For graded votes pass `sides(votes)`, or two grades of the same side count as disagreement.
    """
    table = _table((item, rater, value if ties or value != 0 else None) for item, rater, value in votes)
    m = table.counts.sum(axis=1)
    same = (table.counts * (table.counts - 1)).sum(axis=1) / 2
    spread = table.kinds.astype(np.int64)
    share = ratio_over_clusters(np.repeat(same, spread), np.repeat(m * (m - 1) / 2, spread), resamples=resamples, seed=seed)
    return Agreement(share.value, share.low, share.high, share.n, table.items, table.raters)


def krippendorff_alpha(votes: Iterable[Vote], level: Level = "ordinal", *, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """Krippendorff's alpha, gaps allowed, with an interval by drawing items. None where nobody shares an item or all votes are the same.

    Values are ordered as Python orders them; at the interval level they must be numbers.
    """
    table = _table(votes)
    m = table.counts.sum(axis=1)
    if level == "interval":
        try:
            numbers = np.array([float(value) for value in table.values])
        except (TypeError, ValueError) as error:
            raise Invalid("Alpha at the interval level needs numbers as votes: choose nominal or ordinal.", field="level") from error

    def alpha(drawn: Array) -> Array:
        totals = drawn @ table.counts
        n = totals.sum(axis=1)
        if level == "nominal":
            within = drawn @ ((m**2 - (table.counts**2).sum(axis=1)) / (m - 1))
            between = n**2 - (totals**2).sum(axis=1)
        else:
            # Ordinal distance is the distance of mid-ranks, which change with the totals and so with each resample.
            points = np.cumsum(totals, axis=1) - totals / 2 if level == "ordinal" else np.broadcast_to(numbers, totals.shape)
            points = points - ((totals * points).sum(axis=1) / n)[:, None]
            per_item = m[:, None] * (table.counts @ (points**2).T) - (table.counts @ points.T) ** 2
            within = 2 * (drawn * (per_item / (m - 1)[:, None]).T).sum(axis=1)
            between = 2 * n * (totals * points**2).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 1 - (n - 1) * within / between
        return np.where(between > 1e-12 * n, found, np.nan)

    if not table.items:
        return Agreement(None, None, None, 0, 0, table.raters)
    value = float(alpha(table.kinds[None, :])[0])
    if math.isnan(value):
        return Agreement(None, None, None, table.votes, table.items, table.raters)
    low, high = cluster_bootstrap(alpha, table.kinds.astype(np.int64), resamples=resamples, seed=seed)
    return Agreement(value, low, high, table.votes, table.items, table.raters)


def gwet_ac1(votes: Iterable[Vote], categories: Sequence[Any] = (), *, resamples: int = RESAMPLES, seed: int = 0) -> Agreement:
    """Gwet's AC1 for any number of raters, which stays near raw agreement where nearly all votes are the same.

    Name the categories a rater could choose from; without them those seen count, and one alone gives None. As Gwet has it, items with a
    single vote help to say how common each value is.
    """
    table = _table(votes, categories, least=1)
    q, m = len(table.values), table.counts.sum(axis=1)
    paired = (m > 1).astype(np.float64)
    items, n = round(float(table.kinds @ paired)), round(float(table.kinds @ (paired * m)))
    if not items or q < 2:
        return Agreement(None, None, None, n, items, table.raters)
    same = paired * (table.counts * (table.counts - 1)).sum(axis=1) / np.maximum(m * (m - 1), 1)
    portions = table.counts / m[:, None]

    def ac1(drawn: Array) -> Array:
        prevalence = drawn @ portions / drawn.sum(axis=1)[:, None]
        chance = (prevalence * (1 - prevalence)).sum(axis=1) / (q - 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((drawn @ same / (drawn @ paired) - chance) / (1 - chance), dtype=np.float64)

    low, high = cluster_bootstrap(ac1, table.kinds.astype(np.int64), resamples=resamples, seed=seed)
    return Agreement(float(ac1(table.kinds[None, :])[0]), low, high, n, items, table.raters)


def weighted_kappa(
    first: Sequence[Any],
    second: Sequence[Any],
    categories: Sequence[Any] = (),
    *,
    weights: Literal["quadratic", "none"] = "quadratic",
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Cohen's kappa of two raters' votes on the same items, in the same order; interval by the error of Fleiss, Cohen and Everitt.

    Weights go by the place in `categories` (those seen, in order, if none are named): name all, or a grade nobody gave shortens a distance.
    None where both gave one and the same value throughout.
    """
    if len(first) != len(second):
        raise Invalid("Kappa compares two raters on the same items: both lists need the same length.", field="second")
    values = list(categories) or sorted({*first, *second})
    place, n, q = {value: index for index, value in enumerate(values)}, len(first), len(values)
    if strange := {*first, *second} - set(values):
        raise Invalid(f"A vote has the value {sorted(strange, key=str)[0]!r}, which is none of the categories.", field="value")
    if not n or q < 2:
        return Estimate(None, None, None, n)
    joint = np.zeros((q, q))
    np.add.at(joint, ([place[value] for value in first], [place[value] for value in second]), 1 / n)
    grid = np.arange(q)
    credit = 1 - ((grid[:, None] - grid) / (q - 1)) ** 2 if weights == "quadratic" else np.eye(q)
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    seen, chance = float((credit * joint).sum()), float(rows @ credit @ columns)
    if chance > 1 - 1e-12:
        return Estimate(None, None, None, n)
    kappa = (seen - chance) / (1 - chance)
    typical = (credit @ columns)[:, None] + rows @ credit
    variance = float((joint * (credit - typical * (1 - kappa)) ** 2).sum()) - (kappa - chance * (1 - kappa)) ** 2
    error = math.sqrt(max(variance, 0.0) / n) / (1 - chance)
    if error < 1e-9:  # full agreement shows no spread, which is no certainty
        return Estimate(kappa, None, None, n)
    z = z_value(confidence)
    return Estimate(kappa, max(-1.0, kappa - z * error), min(1.0, kappa + z * error), n)


def pair_kappas(votes: Iterable[Vote], categories: Sequence[Any] = (), *, least: int = 10) -> list[PairKappa]:
    """Quadratic kappa of every two raters with at least so many items in common."""
    votes = list(votes)
    values = list(categories) or sorted({value for _, _, value in votes if value is not None})
    shared: dict[tuple[Hashable, Hashable], list[tuple[Any, Any]]] = defaultdict(list)
    for given in by_item(votes).values():
        for first, second in combinations(sorted(given, key=str), 2):
            shared[first, second].append((given[first], given[second]))
    return [
        PairKappa(first, second, weighted_kappa([a for a, _ in both], [b for _, b in both], values))
        for (first, second), both in sorted(shared.items(), key=lambda entry: str(entry[0]))
        if len(both) >= least
    ]


def _commonest(signs: Mapping[int, float]) -> int | None:
    """The one sign with most weight, None where the first two are equal."""
    ordered = sorted(signs.items(), key=lambda entry: -entry[1])
    if not ordered or (len(ordered) > 1 and math.isclose(ordered[0][1], ordered[1][1])):
        return None
    return ordered[0][0]


def leave_one_out(votes: Iterable[Vote]) -> dict[Hashable, Estimate]:
    """How often each rater takes the side most of the others take, over items where the others have one; Wilson's interval."""
    hits, seen = Counter[Hashable](), Counter[Hashable]()
    for given in by_item(votes).values():
        signs = Counter(side(value) for value in given.values())
        for rater, value in given.items():
            seen[rater] += 0  # a rater with nothing to compare is named too
            own = side(value)
            rest = {sign: float(count - (sign == own)) for sign, count in signs.items() if count > (sign == own)}
            if (majority := _commonest(rest)) is not None:
                seen[rater] += 1
                hits[rater] += own == majority
    return {rater: wilson(hits[rater], n) for rater, n in seen.items()}


def flip_rate(votes: Iterable[Vote], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """How often a single decisive vote takes the other side than most of the others do; interval by drawing items, kept within 0 and 0.49.

    This is what to try as `label_smoothing`. Others' errors count as well, so it is an upper estimate: with one other vote nearly twice the
    rate at which a vote is wrong, with more others less.
    """
    hits, seen = [], []
    for given in by_item(votes).values():
        left, right = (sum(side(value) == sign for value in given.values()) for sign in (-1, 1))
        ties = len(given) - left - right
        against = compared = 0
        for own, other in ((left, right), (right, left)):
            if own and max(own - 1, other) > ties and own - 1 != other:
                compared += own
                against += own if other > own - 1 else 0
        hits.append(against)
        seen.append(compared)
    share = ratio_over_clusters(np.array(hits, dtype=np.float64), np.array(seen, dtype=np.float64), resamples=resamples, seed=seed)
    return share.clipped(0.0, LARGEST_FLIP_RATE)


def _weighted_median(pairs: list[tuple[float, float]]) -> float:
    """Value with half of the weight on either side; between two such values, their middle."""
    half, below = sum(weight for _, weight in pairs) / 2, 0.0
    pairs = sorted(pairs)
    for index, (value, weight) in enumerate(pairs):
        below += weight
        if math.isclose(below, half) and index + 1 < len(pairs):
            return (value + pairs[index + 1][0]) / 2
        if below > half:
            return value
    return pairs[-1][0]


def combine(votes: Iterable[Vote], weights: Mapping[Hashable, float] | None = None) -> dict[Hashable, Combined]:
    """What the votes on each item come to. `weights` counts a rater's vote more or less (1 where none is named, and not at all at 0)."""
    combined = {}
    for item, given in by_item(votes).items():
        pairs = [(float(value), 1.0 if weights is None else weights.get(rater, 1.0)) for rater, value in given.items()]
        if any(weight < 0 or not math.isfinite(weight) for _, weight in pairs):
            raise Invalid("The weight of a rater is 0 or more.", field="weights")
        pairs = [(value, weight) for value, weight in pairs if weight > 0]
        if not pairs:
            continue
        signs: dict[int, float] = defaultdict(float)
        for value, weight in pairs:
            signs[side(value)] += weight
        majority, values = _commonest(signs), [value for value, _ in pairs]
        combined[item] = Combined(
            overall=_weighted_median(pairs),
            agreement=max(signs.values()) / sum(signs.values()),
            majority=majority,
            split=majority is None,
            span=max(values) - min(values),
            crosses=min(values) < 0 < max(values),
            votes=len(pairs),
        )
    return combined
