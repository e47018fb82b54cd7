"""Intervals and agreement: published tables to the last digit, what must not matter, and the cases without an answer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Invalid
from app.feedback import agreement
from app.feedback.agreement import Vote
from app.feedback.intervals import binomial_p_value, cluster_bootstrap, exact, percentiles, ratio_over_clusters, wilson

FOUR_RATERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
"""Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C; Gwet's cac.raw4raters is the same table."""
THREE_RATERS = [
    ". . . . . 3 4 1 2 1 1 3 3 . 3",
    "1 . 2 1 3 3 4 3 . . . . . . .",
    ". . 2 1 3 4 4 . 2 1 1 3 3 . 4",
]
"""The example on Wikipedia's page on Krippendorff's alpha."""


def table(rows: Iterable[str]) -> list[Vote]:
    """Votes of a table with one line a rater, a dot for a gap."""
    return [
        (item, f"rater {rater}", None if value == "." else int(value))
        for rater, row in enumerate(rows)
        for item, value in enumerate(row.split())
    ]


def cells(counts: list[list[int]]) -> list[Vote]:
    """Votes of two raters from their contingency table."""
    pairs = [(i, j) for i, row in enumerate(counts) for j, count in enumerate(row) for _ in range(count)]
    return [(item, rater, value) for item, pair in enumerate(pairs) for rater, value in zip(("one", "two"), pair, strict=True)]


def columns(counts: list[list[int]]) -> tuple[list[Any], list[Any]]:
    """The same as two lists."""
    votes = cells(counts)
    return [value for _, rater, value in votes if rater == "one"], [value for _, rater, value in votes if rater == "two"]


def simulated(items: int, raters: int, noise: float, seed: int = 0) -> list[Vote]:
    """Grades -3 … 3: a quality of the item and noise of the rater."""
    random = np.random.default_rng(seed)
    quality = random.normal(0, 1.5, items)
    return [
        (item, f"rater {rater}", int(np.clip(round(quality[item] + random.normal(0, noise)), -3, 3)))
        for item in range(items)
        for rater in range(raters)
    ]


# --- intervals ---


def test_wilson_gives_the_published_figures() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    found = wilson(81, 263)
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.2553, 0.3662)
    none = wilson(0, 20)
    assert (none.low, round(none.high or 0, 4)) == (0.0, 0.1611)


def test_the_exact_interval_gives_the_published_figures() -> None:
    # the same source, Clopper-Pearson
    found = exact(81, 263)
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.2527, 0.3676)
    assert round(exact(0, 20).high or 0, 4) == 0.1684
    assert exact(1, 29).low == pytest.approx(1 - 0.975 ** (1 / 29))
    assert exact(20, 20).high == 1.0


def test_the_exact_interval_inverts_the_binomial_tails() -> None:
    found = exact(7, 25)
    upper = sum(math.comb(25, k) * found.low**k * (1 - found.low) ** (25 - k) for k in range(7, 26))  # type: ignore[operator]
    lower = sum(math.comb(25, k) * found.high**k * (1 - found.high) ** (25 - k) for k in range(8))  # type: ignore[operator]
    assert (upper, lower) == (pytest.approx(0.025), pytest.approx(0.025))


def test_the_binomial_test_counts_what_is_no_likelier() -> None:
    assert binomial_p_value(9, 10) == pytest.approx(22 / 1024)
    assert binomial_p_value(5, 10) == pytest.approx(1)
    # one six in a throw of three dice: 0 is likelier, so everything but 0
    assert binomial_p_value(1, 3, 1 / 6) == pytest.approx(1 - (5 / 6) ** 3)
    assert binomial_p_value(0, 0) == 1


@pytest.mark.parametrize("interval", [wilson, exact])
def test_shares_without_observations_or_sense(interval: Any) -> None:
    assert interval(0, 0).value is None
    with pytest.raises(Invalid, match="5 of 3"):
        interval(5, 3)


def test_the_bootstrap_is_seeded_and_as_wide_as_theory_says() -> None:
    random = np.random.default_rng(1)
    hits = (random.random(400) < 0.6).astype(float)
    first, again = ratio_over_clusters(hits, np.ones(400)), ratio_over_clusters(hits, np.ones(400))
    assert first == again and first != ratio_over_clusters(hits, np.ones(400), seed=1)
    share = first.value or 0
    assert ((first.high or 0) - (first.low or 0)) / 2 == pytest.approx(1.96 * math.sqrt(share * (1 - share) / 400), rel=0.1)


def test_of_few_draws_the_outermost_are_the_bounds() -> None:
    assert percentiles(np.arange(1.0, 40.0), 0.95) == pytest.approx([1, 39])


def test_clusters_of_equal_votes_count_once() -> None:
    random = np.random.default_rng(2)
    hits = (random.random(100) < 0.5).astype(float)
    alone, tenfold = ratio_over_clusters(hits, np.ones(100)), ratio_over_clusters(10 * hits, np.full(100, 10.0))
    assert (tenfold.value, tenfold.low, tenfold.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert (alone.n, tenfold.n) == (100, 1000)


def test_clusters_that_all_say_the_same_are_no_certainty() -> None:
    assert cluster_bootstrap(lambda drawn: drawn.sum(axis=1), np.ones(5, dtype=np.int64)) == (None, None)
    found = ratio_over_clusters(np.full(5, 3.0), np.full(5, 3.0))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(wilson(5, 5).low)


# --- agreement ---


@pytest.mark.parametrize(
    ("rows", "level", "alpha"),
    [
        (FOUR_RATERS, "nominal", 0.743),
        (FOUR_RATERS, "ordinal", 0.815),
        (FOUR_RATERS, "interval", 0.849),
        (THREE_RATERS, "nominal", 0.691),
        (THREE_RATERS, "ordinal", 0.807),
        (THREE_RATERS, "interval", 0.811),
    ],
)
def test_alpha_gives_the_textbook_figures(rows: list[str], level: agreement.Level, alpha: float) -> None:
    found = agreement.krippendorff_alpha(table(rows), level)
    assert found.value is not None and found.low is not None and found.high is not None
    assert round(found.value, 3) == alpha
    assert found.low < found.value < found.high <= 1
    assert (found.n, found.items, found.raters) == ((40, 11, 4) if rows is FOUR_RATERS else (26, 12, 3))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_by_its_definition(level: agreement.Level) -> None:
    """The coincidence matrix spelled out, on other data."""
    votes = simulated(30, 3, 1.2) + [(item, "rater 3", None if item % 2 else 1) for item in range(30)]
    given = [list(of.values()) for of in agreement.by_item(votes).values()]
    totals = {value: sum(row.count(value) for row in given) for row in given for value in row}
    n = sum(totals.values())

    def distance(c: int, k: int) -> float:
        low, high = min(c, k), max(c, k)
        if level == "nominal":
            return float(c != k)
        if level == "interval":
            return float((c - k) ** 2)
        return float((sum(totals[g] for g in totals if low <= g <= high) - (totals[c] + totals[k]) / 2) ** 2)

    seen = sum(distance(x, y) / (len(row) - 1) for row in given for i, x in enumerate(row) for j, y in enumerate(row) if i != j) / n
    chance = sum(totals[c] * totals[k] * distance(c, k) for c in totals for k in totals) / (n * (n - 1))
    assert agreement.krippendorff_alpha(votes, level, resamples=0).value == pytest.approx(1 - seen / chance)


def test_alpha_hardly_knows_items_twice_and_not_at_all_who_is_who() -> None:
    votes = simulated(200, 3, 1.0)
    alpha = agreement.krippendorff_alpha(votes).value
    twice = agreement.krippendorff_alpha(votes + [(f"again {item}", rater, value) for item, rater, value in votes]).value
    renamed = agreement.krippendorff_alpha([(item, f"{rater} {item}", value) for item, rater, value in votes]).value
    turned = agreement.krippendorff_alpha([(item, rater, -value) for item, rater, value in votes]).value
    assert twice == pytest.approx(alpha, abs=2e-3)  # only the n - 1 of the chance term differs
    assert (renamed, turned) == (pytest.approx(alpha), pytest.approx(alpha))


def test_alpha_of_random_votes_is_about_nothing_and_its_interval_says_so() -> None:
    random = np.random.default_rng(3)
    found = agreement.krippendorff_alpha([(item, rater, int(random.integers(-3, 4))) for item in range(500) for rater in range(3)])
    assert found.low is not None and found.high is not None and found.low < 0 < found.high
    assert found.high - found.low < 0.2


@pytest.mark.parametrize(
    "votes",
    [
        [],
        [("a", "one", 1), ("b", "one", 2)],
        [("a", "one", 1), ("b", "two", 2)],
        [(item, rater, 2) for item in range(9) for rater in range(3)],
        [("a", "one", None), ("a", "two", 1)],
    ],
    ids=["none", "one rater", "nothing shared", "all the same", "a gap"],
)
def test_there_is_no_alpha_and_no_kappa_without_variety_or_company(votes: list[Vote]) -> None:
    for level in ("nominal", "ordinal", "interval"):
        found = agreement.krippendorff_alpha(votes, level)
        assert (found.value, found.low, found.high) == (None, None, None)
    assert agreement.gwet_ac1(votes).value is None
    assert agreement.pair_kappas(votes, least=1) == [] or all(pair.kappa.value is None for pair in agreement.pair_kappas(votes, least=1))


def test_alpha_takes_words_as_names_but_not_as_numbers() -> None:
    votes = [(item, rater, "tie" if item % 3 else "left") for item in range(9) for rater in range(2)]
    assert agreement.krippendorff_alpha(votes, "nominal").value == pytest.approx(1)
    with pytest.raises(Invalid, match="needs numbers"):
        agreement.krippendorff_alpha(votes, "interval")


def test_kappa_gives_the_published_figures() -> None:
    # Wikipedia, Cohen's kappa: 50 grant proposals
    assert agreement.weighted_kappa(*columns([[20, 5], [10, 15]]), weights="none").value == pytest.approx(0.4)
    # Fleiss, Cohen and Everitt 1969: kappa 0.429 with a standard error of 0.054 on 200 subjects
    found = agreement.weighted_kappa(*columns([[106, 10, 4], [22, 28, 10], [2, 12, 6]]), weights="none")
    assert found.value == pytest.approx(0.429, abs=5e-4)
    assert ((found.high or 0) - (found.low or 0)) / 2 / 1.96 == pytest.approx(0.054, abs=5e-4)


def test_quadratic_kappa_by_hand() -> None:
    # distance 1/4 between neighbours and 1 between the ends; the first gives each end half the time, the second 1, 2 and 3 of 6
    first, second = [0, 0, 0, 2, 2, 2], [0, 1, 2, 2, 2, 1]
    seen = (0 + 0.25 + 1 + 0 + 0 + 0.25) / 6
    chance = 3 / 6 * (2 / 6 * 0.25 + 3 / 6 * 1) + 3 / 6 * (1 / 6 * 1 + 2 / 6 * 0.25)
    assert agreement.weighted_kappa(first, second).value == pytest.approx(1 - seen / chance)
    assert agreement.weighted_kappa(second, first).value == pytest.approx(1 - seen / chance)


def test_nearly_equal_votes_give_high_raw_agreement_and_no_kappa_but_ac1() -> None:
    skewed = [[97, 1], [2, 0]]
    assert agreement.raw_agreement(cells(skewed)).value == pytest.approx(0.97)
    assert agreement.weighted_kappa(*columns(skewed)).value == pytest.approx((0.97 - 0.9704) / 0.0296)
    assert round(agreement.weighted_kappa(*columns(skewed)).value or 0, 2) == -0.01
    assert agreement.gwet_ac1(cells(skewed)).value == pytest.approx(0.9691, abs=5e-5)
    # Gwet 2002: 118, 5, 2, 0 gives kappa -0.0234 and AC1 0.9408
    assert agreement.weighted_kappa(*columns([[118, 5], [2, 0]])).value == pytest.approx(-0.0234, abs=5e-5)
    assert agreement.gwet_ac1(cells([[118, 5], [2, 0]])).value == pytest.approx(0.9408, abs=5e-5)


def test_ac1_of_several_raters_with_gaps_gives_the_published_figure() -> None:
    found = agreement.gwet_ac1(table(FOUR_RATERS))
    assert found.value == pytest.approx(0.77544, abs=5e-6)
    assert found.low is not None and found.high is not None and found.low < 0.77544 < found.high
    assert agreement.gwet_ac1([(item, rater, 1) for item in range(5) for rater in range(2)], [1, 2, 3]).value == pytest.approx(1)
    with pytest.raises(Invalid, match="none of the categories"):
        agreement.gwet_ac1(table(FOUR_RATERS), [1, 2, 3])


def test_raw_agreement_with_and_without_ties() -> None:
    votes = [("a", "1", 2), ("a", "2", 3), ("a", "3", 0), ("b", "1", -1), ("b", "2", 1), ("c", "1", 0), ("c", "2", 0)]
    with_ties = agreement.raw_agreement(agreement.sides(votes))
    without = agreement.raw_agreement(agreement.sides(votes), ties=False)
    assert (with_ties.value, with_ties.n, with_ties.items, with_ties.raters) == (pytest.approx(2 / 5), 5, 3, 3)
    assert (without.value, without.n, without.items) == (pytest.approx(1 / 2), 2, 2)
    assert agreement.raw_agreement(votes).value == pytest.approx(1 / 5)
    assert agreement.raw_agreement([]).value is None


def test_a_rater_is_held_against_most_of_the_others() -> None:
    votes = [(item, rater, 1 + item % 2) for item in range(20) for rater in ("a", "b", "c")] + [(item, "d", -1) for item in range(20)]
    found = agreement.leave_one_out([*votes, ("alone", "e", 1)])
    assert (found["a"].value, found["d"].value) == (1.0, 0.0)
    assert found["d"].high == pytest.approx(wilson(0, 20).high)
    assert (found["e"].value, found["e"].n) == (None, 0)
    # with the others split there is nothing to be held against
    split = agreement.leave_one_out([("x", "a", 1), ("x", "b", -1), ("x", "c", 1)])
    assert (split["a"].n, split["b"].n, split["c"].n) == (0, 1, 0)


def test_votes_on_an_item_come_together() -> None:
    votes = [("a", "1", -2), ("a", "2", -3), ("a", "3", 1), ("b", "1", 2), ("b", "2", -1), ("c", "1", 0), ("d", "1", None)]
    found = agreement.combine(votes)
    assert set(found) == {"a", "b", "c"}
    assert found["a"] == agreement.Combined(-2, pytest.approx(2 / 3), -1, False, 4, True, 3)
    assert (found["b"].overall, found["b"].split, found["b"].majority, found["b"].agreement) == (0.5, True, None, 0.5)
    assert (found["c"].overall, found["c"].majority, found["c"].crosses) == (0, 0, False)
    weighted = agreement.combine(votes, {"1": 3.0, "3": 0.0})
    assert (weighted["b"].overall, weighted["b"].majority, weighted["a"].votes) == (2, 1, 2)
    with pytest.raises(Invalid, match="weight of a rater"):
        agreement.combine(votes, {"1": -1.0})


def test_the_flip_rate_finds_how_often_votes_are_turned_round() -> None:
    random = np.random.default_rng(4)
    votes = [(item, rater, -1 if random.random() < 0.1 else 1) for item in range(3000) for rater in range(9)]
    found = agreement.flip_rate(votes)
    assert found.low is not None and found.high is not None and found.low < 0.1 < found.high
    assert agreement.flip_rate([("a", "1", 1), ("a", "2", 0)]).value is None
    mixed = {"a": (1, 1, -1), "b": (1, -1, 0, 0), "c": (2, 3)}  # one of three in a, nobody in b, both in c have others to go by
    assert agreement.flip_rate([(item, rater, value) for item, of in mixed.items() for rater, value in enumerate(of)]).n == 3
    opposed = agreement.flip_rate([(item, rater, rater) for item in range(10) for rater in (-1, 1)])
    assert (opposed.value, opposed.high) == (0.49, 0.49)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(-3, 3)), max_size=40))
def test_swapping_the_answers_turns_signs_and_nothing_else(votes: list[Vote]) -> None:
    turned = [(item, rater, -value) for item, rater, value in votes]
    for item, both in agreement.combine(votes).items():
        other = agreement.combine(turned)[item]
        assert (other.overall, other.agreement, other.split, other.span) == (-both.overall, both.agreement, both.split, both.span)
    assert agreement.flip_rate(turned, resamples=0).value == agreement.flip_rate(votes, resamples=0).value
    first, second = (agreement.krippendorff_alpha(of, resamples=0).value for of in (votes, turned))
    assert first == pytest.approx(second)
