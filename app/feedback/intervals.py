"""Estimates with their interval: Wilson, exact binomial and bootstrap over clusters. Knows nothing of votes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from app.errors import Invalid

CONFIDENCE = 0.95
RESAMPLES = 1_000
BLOCK = 4_000_000
"""Weights drawn at once: what a bootstrap holds in memory, 32 MB."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure, the bounds of its interval and the observations behind it; None is what cannot be computed."""

    value: float | None
    low: float | None
    high: float | None
    n: int

    def clipped(self, least: float, most: float) -> Estimate:
        """The same with value and bounds kept within two limits."""
        kept = [None if part is None else min(max(part, least), most) for part in (self.value, self.low, self.high)]
        return Estimate(kept[0], kept[1], kept[2], self.n)


UNKNOWN = Estimate(None, None, None, 0)
"""What is said where there is nothing to count."""


def z_value(confidence: float = CONFIDENCE) -> float:
    """Standard deviations on either side that hold this share of a normal distribution: 1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise Invalid(f"A confidence lies between 0 and 1, and {confidence} does not: use 0.95.", field="confidence")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def check_counts(hits: int, n: int) -> None:
    """Refuse hits that cannot be among n observations."""
    if not 0 <= hits <= n:
        raise Invalid(f"{hits} of {n} is no share: hits lie between 0 and the number of observations.", field="hits")


def wilson(hits: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share with Wilson's score interval: quick, and right on average even for small n."""
    check_counts(hits, n)
    if not n:
        return UNKNOWN
    share, z = hits / n, z_value(confidence)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(share, 0.0 if hits == 0 else middle - half, 1.0 if hits == n else middle + half, n)


def exact(hits: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share with the exact interval of Clopper and Pearson: covers at least as often as it says, so wider than Wilson's."""
    check_counts(hits, n)
    if not n:
        return UNKNOWN
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _root(lambda p: beta_cdf(p, hits, n - hits + 1) - tail)
    high = 1.0 if hits == n else _root(lambda p: beta_cdf(p, hits + 1, n - hits) - (1 - tail))
    return Estimate(hits / n, low, high, n)


def binomial_p_value(hits: int, n: int, p: float = 0.5) -> float:
    """Two-sided exact binomial test: how often chance alone gives a count that is no likelier than this one."""
    check_counts(hits, n)
    if not 0 < p < 1:
        raise Invalid(f"The probability under test lies between 0 and 1, and {p} does not.", field="p")
    chances = np.exp(_log_binomial(n, p))
    # Counts on the other side that are as likely as this one differ from it by rounding alone, and belong to it.
    return min(1.0, float(chances[chances <= chances[hits] * (1 + 1e-7)].sum()))


def _log_binomial(n: int, p: float) -> Array:
    """Logarithm of the probability of 0 … n hits."""
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(n + 1)
    chances: Array = log_factorials[n] - log_factorials - log_factorials[::-1] + k * math.log(p) + (n - k) * math.log1p(-p)
    return chances


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast only on this side
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    fraction = d
    for m in range(1, 10_000):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * fraction


def _root(rising: Callable[[float], float]) -> float:
    """Where a rising function of a probability crosses zero."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def cluster_bootstrap(
    statistic: Callable[[Array], Array],
    clusters: NDArray[np.int64],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[float | None, float | None]:
    """Percentile interval of a statistic when whole clusters are drawn with replacement; the same seed gives the same interval.

    `clusters` says how many clusters there are of each kind: ones where each stands for itself, more where clusters that look the same were
    put together, which draws the same and is faster. `statistic` takes rows of counts, as many columns as kinds, and gives one value a row,
    NaN where it has none. Both bounds are None with fewer than two clusters, and where no two resamples differ: that is no certainty.
    """
    draws = bootstrap_values(statistic, clusters, resamples=resamples, seed=seed)
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or np.ptp(draws) < 1e-12:
        return None, None
    low, high = percentiles(draws, confidence)
    return float(low), float(high)


def percentiles(draws: Array, confidence: float) -> Array:
    """Bounds that hold this share of the draws. Of few draws the usual quantile lies too far in; that of Weibull is right on average."""
    return np.asarray(np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0, method="weibull"), dtype=np.float64)


def bootstrap_values(statistic: Callable[[Array], Array], clusters: NDArray[np.int64], *, resamples: int, seed: int) -> Array:
    """What the statistic gives on each resample of clusters; rows of values where it gives rows. Empty with fewer than two clusters."""
    total = int(clusters.sum())
    if total < 2 or resamples < 1:
        return np.empty(0)
    random, rows = np.random.default_rng(seed), max(1, BLOCK // len(clusters))
    parts = []
    for start in range(0, resamples, rows):
        drawn = random.multinomial(total, clusters / total, size=min(rows, resamples - start))
        parts.append(statistic(drawn.astype(np.float64)))
    return np.concatenate(parts)


def ratio_over_clusters(
    hits: Array, counts: Array, *, resamples: int = RESAMPLES, seed: int = 0, confidence: float = CONFIDENCE
) -> Estimate:
    """A share whose observations come in clusters: sum of hits by sum of counts, one of each a cluster, interval by drawing clusters.

    Where every cluster says the same, resampling sees no spread; the interval then is Wilson's with one observation a cluster.
    """
    used = counts > 0
    table, kinds = np.unique(np.stack([hits[used], counts[used]], axis=1), axis=0, return_counts=True)
    if not len(table):
        return UNKNOWN
    value, n = float(hits[used].sum() / counts[used].sum()), round(float(counts[used].sum()))

    def share(drawn: Array) -> Array:
        sums = drawn @ table
        return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)

    low, high = cluster_bootstrap(share, kinds.astype(np.int64), resamples=resamples, seed=seed, confidence=confidence)
    if low is None and value in (0.0, 1.0):
        alone = int(kinds.sum())
        bounds = wilson(alone if value else 0, alone, confidence)
        low, high = bounds.low, bounds.high
    return Estimate(value, low, high, n)
