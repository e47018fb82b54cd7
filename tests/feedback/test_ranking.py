"""Bradley-Terry: figures by hand, known strengths found again, what must not matter, and models that cannot be compared."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Literal

import numpy as np
import pytest

from app.errors import Invalid
from app.feedback import biases, choice, ranking
from app.feedback.intervals import Estimate
from app.feedback.ranking import Comparison, Ranking

NAMES = [f"model {number:02}" for number in range(20)]


def duel(wins: int, losses: int, ties: int = 0, a: str = "a", b: str = "b") -> list[Comparison]:
    """Votes on two models, each on a prompt of its own."""
    scores = [1.0] * wins + [0.0] * losses + [0.5] * ties
    return [(a, b, score, f"{a} {b} {prompt}") for prompt, score in enumerate(scores)]


def simulated(strengths: np.ndarray, votes: int, seed: int = 0, per_prompt: int = 1, copied: float = 0.0) -> list[Comparison]:
    """Votes by Bradley-Terry on random pairs; `copied` of those on one prompt repeat the first one there."""
    random = np.random.default_rng(seed)
    rows: list[Comparison] = []
    for prompt in range(votes // per_prompt):
        a, b = random.choice(len(strengths), 2, replace=False)
        p, score = 1 / (1 + math.exp(strengths[b] - strengths[a])), -1.0
        for _ in range(per_prompt):
            if score < 0 or random.random() >= copied:
                score = float(random.random() < p)
            rows.append((NAMES[a], NAMES[b], score, prompt))
    return rows


def ratings(found: Ranking) -> dict[str, Estimate]:
    return {entry.model: entry.rating for entry in found.models}


def test_two_models_by_hand() -> None:
    found = ranking.rate(duel(75, 25), anchor="b", ridge=1e-5)
    best, base = found.models
    assert (best.model, base.model, found.anchor) == ("a", "b", "b")
    assert best.rating.value == pytest.approx(400 * math.log10(3))
    assert best.win_probability == pytest.approx(0.75)
    # the error of a log-odds is 1/sqrt(n p q); 100/99 corrects for the one unknown
    half = 1.959964 * math.sqrt(1 / (100 * 0.75 * 0.25) * 100 / 99) * 400 / math.log(10)
    assert best.rating.low == pytest.approx(best.rating.value - half, abs=0.01)
    assert best.rating.high == pytest.approx(best.rating.value + half, abs=0.01)
    assert (base.rating.value, base.rating.low, base.rating.high) == (0, 0, 0)
    assert (best.rating.n, found.votes, found.prompts) == (100, 100, 100)


def test_a_tie_counts_half_to_either() -> None:
    assert ratings(ranking.rate(duel(50, 0, 50), anchor="b", ridge=1e-5))["a"].value == pytest.approx(400 * math.log10(3))
    assert ratings(ranking.rate(duel(0, 0, 50), anchor="b"))["a"].value == pytest.approx(0)


def test_known_strengths_are_found_again() -> None:
    strengths = np.random.default_rng(7).normal(0, 1, 20)
    found = ranking.rate(simulated(strengths, 10_000))
    truth = [strengths[NAMES.index(name)] for name in found.names]
    assert np.corrcoef(truth, found.elo)[0, 1] > 0.99
    inside = [
        one.low <= (strengths[NAMES.index(name)] - strengths[NAMES.index(str(found.anchor))]) * ranking.ELO <= one.high  # type: ignore[operator]
        for name, one in ratings(found).items()
    ]
    assert sum(inside) >= 17


def test_neither_the_order_of_votes_nor_of_the_two_answers_matters() -> None:
    votes = simulated(np.array([0.0, 0.5, 1.0, 1.5]), 400, per_prompt=2, copied=0.5)
    turned = [(b, a, 1 - score, prompt) for a, b, score, prompt in reversed(votes)]
    first, second = ratings(ranking.rate(votes, anchor=NAMES[0])), ratings(ranking.rate(turned, anchor=NAMES[0]))
    for name, one in first.items():
        assert (one.value, one.low, one.high) == pytest.approx((second[name].value, second[name].low, second[name].high))
    lost = ranking.rate([(a, b, 1 - score, prompt) for a, b, score, prompt in votes], anchor=NAMES[0])
    assert {name: one.value for name, one in ratings(lost).items()} == pytest.approx(
        {name: -(one.value or 0) for name, one in first.items()}
    )


def test_votes_that_repeat_each_other_make_nothing_surer() -> None:
    votes = simulated(np.array([0.0, 0.4, 0.8]), 300)
    once, thrice = ranking.rate(votes, anchor=NAMES[0], ridge=1e-5), ranking.rate(votes * 3, anchor=NAMES[0], ridge=1e-5)
    for name, one in ratings(once).items():
        again = ratings(thrice)[name]
        assert (again.value, again.low, again.high) == pytest.approx((one.value, one.low, one.high), abs=0.01)
    strangers = ranking.rate([(a, b, score, (prompt, copy)) for copy in range(3) for a, b, score, prompt in votes], anchor=NAMES[0])
    wide, narrow = (found.difference(NAMES[2], NAMES[0]) for found in (thrice, strangers))
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(math.sqrt(3), rel=0.02)  # type: ignore[operator]


def test_the_bootstrap_is_seeded_and_agrees_with_the_sandwich() -> None:
    votes = simulated(np.linspace(0, 1, 5), 2_000, per_prompt=4, copied=0.5)
    quick = ranking.rate(votes, anchor=NAMES[0])
    slow, again, other = (ranking.rate(votes, anchor=NAMES[0], interval="bootstrap", resamples=1_000, seed=seed) for seed in (0, 0, 1))
    assert ratings(slow) == ratings(again) != ratings(other)
    for name in NAMES[1:5]:
        widths = [one.high - one.low for one in (ratings(slow)[name], ratings(quick)[name])]  # type: ignore[operator]
        assert widths[0] == pytest.approx(widths[1], rel=0.12)


def test_a_model_that_never_lost_stays_finite_and_is_known_to_be_unknown() -> None:
    found = ranking.rate([*duel(10, 0), *duel(6, 4, a="b", b="c")], anchor="b")
    best = found.models[0]
    assert best.model == "a" and not best.bounded and found.models[1].bounded
    assert best.rating.value is not None and 400 < best.rating.value < 2_000
    assert best.rating.high is not None and best.rating.low is not None and best.rating.high - best.rating.low > 1_000
    boot = ranking.rate([*duel(10, 0), *duel(6, 4, a="b", b="c")], anchor="b", interval="bootstrap")
    assert boot.models[0].rating == best.rating
    assert all(entry.bounded for entry in ranking.rate(duel(10, 1)).models)


def test_few_prompts_do_not_give_narrow_intervals() -> None:
    """Ten prompts of three votes for five models: residuals alone would hold the truth four times in five."""
    inside = total = 0
    for seed in range(300):
        strengths = np.random.default_rng(seed).normal(0, 0.7, 5)
        found = ranking.rate(simulated(strengths, 30, seed, per_prompt=3, copied=0.5))
        for entry in found.models:
            if entry.bounded and entry.rating.low is not None and entry.rating.high is not None and entry.model != found.anchor:
                gap = (strengths[NAMES.index(entry.model)] - strengths[NAMES.index(str(found.anchor))]) * ranking.ELO
                inside += entry.rating.low <= gap <= entry.rating.high
                total += 1
    assert inside / total > 0.93


@pytest.mark.parametrize("interval", ["sandwich", "bootstrap"])
def test_nothing_but_ties_is_no_certainty(interval: Literal["sandwich", "bootstrap"]) -> None:
    one = ratings(ranking.rate(duel(0, 0, 50), anchor="b", interval=interval))["a"]
    assert one.high == pytest.approx(1.96 * 2 / math.sqrt(50) * ranking.ELO, rel=0.01)
    assert one.low == pytest.approx(-(one.high or 0))


def test_models_no_vote_joins_are_not_compared() -> None:
    found = ranking.rate([*duel(6, 4), *duel(30, 20, a="c", b="d"), *duel(5, 5, a="d", b="e")], anchor="a")
    assert found.components == (("c", "d", "e"), ("a", "b")) and not found.connected
    known = ratings(found)
    assert known["a"].value == 0 and known["b"].value is not None
    assert [known[name].value for name in "cde"] == [None] * 3 and known["d"].n == 60
    assert [entry.model for entry in found.models] == ["a", "b", "c", "d", "e"]
    assert found.models[4].best_rank is None and found.models[4].win_probability is None
    assert found.difference("c", "a").value is None and (found.difference("c", "d").value or 0) > 0
    assert ranking.rate(duel(6, 4)).connected


def test_no_vote_one_vote_and_votes_that_make_no_sense() -> None:
    empty = ranking.rate([], anchor="a")
    assert (empty.models, empty.components, empty.anchor) == ((), (), None)
    assert ranking.votes_needed(empty).separated is None
    one = ranking.rate(duel(1, 0))
    assert one.models[0].rating.value is not None and one.models[0].rating.low is None
    assert one.difference("a", "b").low is None
    assert one.models[0].best_rank is None
    with pytest.raises(Invalid, match="itself"):
        ranking.rate([("a", "a", 1, 0)])
    with pytest.raises(Invalid, match="score"):
        ranking.rate([("a", "b", 0.7, 0)])
    with pytest.raises(Invalid, match="anchor c has no vote"):
        ranking.rate(duel(1, 1), anchor="c")


def test_ranks_are_ranges() -> None:
    found = ranking.rank_ranges(
        {
            "sure": Estimate(300, 250, 350, 9),
            "one": Estimate(120, 60, 180, 9),
            "other": Estimate(100, 20, 170, 9),
            "last": Estimate(0, -30, 40, 9),
            "stranger": Estimate(None, None, None, 9),
        }
    )
    assert found == {"sure": (1, 1), "one": (2, 3), "other": (2, 4), "last": (3, 4), "stranger": (None, None)}


def test_the_matrix_counts_from_either_side() -> None:
    votes: list[tuple[str, str, ranking.Outcome]] = [
        ("a", "b", "a"),
        ("b", "a", "b"),
        ("b", "a", "a"),
        ("a", "b", "tie"),
        ("b", "a", "both_bad"),
    ]
    found = ranking.matrix(votes)
    cell, other = found["a", "b"], found["b", "a"]
    assert (cell.wins, cell.losses, cell.n) == (2, 1, 5) and (other.wins, other.losses, other.n) == (1, 2, 5)
    assert (cell.win_rate.value, cell.tie_rate.value, cell.both_bad_rate.value) == pytest.approx((2 / 3, 1 / 5, 1 / 5))
    assert other.both_bad_rate == cell.both_bad_rate
    with pytest.raises(Invalid, match="outcome"):
        ranking.matrix([("a", "b", "left")])  # type: ignore[list-item]


def test_an_injected_taste_for_length_is_found_and_taken_out() -> None:
    """Two equal models, one of which writes more: raw votes favour it, adjusted ones do not."""
    covered = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        votes: list[Comparison] = []
        differences = []
        for prompt in range(1_500):
            longer, marks = random.normal(0.7, 1), random.normal()
            votes.append(("wordy", "terse", float(random.random() < 1 / (1 + math.exp(-0.8 * longer))), prompt))
            differences.append((longer, marks))
        raw, (adjusted, (length, lists)) = (
            ranking.rate(votes, anchor="terse"),
            ranking.rate_adjusted(votes, differences, ("length", "lists")),
        )
        truth = 0.8 * math.sqrt(np.mean(np.square([one for one, _ in differences])))
        assert length.effect.low is not None and length.effect.high is not None and length.effect.low > 0.5
        covered += length.effect.low <= truth <= length.effect.high and lists.effect.low <= 0 <= lists.effect.high  # type: ignore[operator]
        assert (raw.difference("wordy", "terse").low or 0) > 30
        assert abs(adjusted.difference("wordy", "terse").value or 0) < 60
    assert covered >= 16


def test_adjusting_for_nothing_changes_nothing() -> None:
    votes = simulated(np.array([0.0, 0.5, 1.0]), 300)
    raw = ranking.rate(votes, anchor=NAMES[0])
    same, (effect,) = ranking.rate_adjusted(votes, [(0.0,)] * len(votes), ("length",), anchor=NAMES[0])
    assert same.elo == pytest.approx(raw.elo) and same.covariance == pytest.approx(raw.covariance, rel=0.01)
    assert effect.effect.value is None
    turned, (mirrored,) = ranking.rate_adjusted(
        [(b, a, 1 - s, p) for a, b, s, p in votes], [(-1.0 * (i % 3),) for i in range(len(votes))], ("x",)
    )
    _, (straight,) = ranking.rate_adjusted(votes, [(1.0 * (i % 3),) for i in range(len(votes))], ("x",))
    assert turned.votes == 300 and mirrored.effect.value == pytest.approx(straight.effect.value)
    with pytest.raises(Invalid, match="one difference for each feature"):
        ranking.rate_adjusted(votes, [(1.0, 2.0)] * len(votes), ("length",))
    assert ranking.rate_adjusted([], [], ("length",))[1][0].effect.value is None


def test_differences_of_style() -> None:
    found = biases.style_difference(biases.Style(99, headers=3), biases.Style(9, headers=1, bold=4))
    assert found == pytest.approx((math.log(10), 0.5, 0.0, -1.0))
    assert biases.style_difference(biases.Style(5), biases.Style(5)) == (0, 0, 0, 0)


def test_how_many_votes_are_needed() -> None:
    found = ranking.votes_needed(ranking.rate(duel(250, 250)), half_width=10)
    assert found.separated is False and found.half_width == pytest.approx(1.96 * 2 / math.sqrt(500) * 173.7, rel=0.01)
    assert found.more_votes == pytest.approx(500 * ((30.46 / 10) ** 2 - 1), rel=0.02)
    more = ranking.votes_needed(ranking.rate(duel(2_320, 2_320)), half_width=10)
    assert more.half_width == pytest.approx(10, rel=0.01)
    clear = ranking.votes_needed(ranking.rate(duel(400, 100)), half_width=100)
    assert clear.separated is True and clear.more_votes == 0
    with pytest.raises(Invalid, match="half-width"):
        ranking.votes_needed(ranking.rate(duel(4, 1)), half_width=0)


def counted(**pairs: tuple[float, int]) -> list[tuple[str, str, float, int]]:
    """Votes by pair: `ab=(30, 60)` is a winning 30 of 60 against b."""
    return [(pair[0], pair[1], won, n) for pair, (won, n) in pairs.items()]


def test_the_next_pair_is_the_one_least_known() -> None:
    found = choice.known("abcd", counted(ab=(50, 100), bc=(5, 10), cd=(40, 100)))
    chain = ["ab", "bc", "cd"]
    assert set(choice.most_uncertain(found, chain)) == {1}
    once_each = choice.most_uncertain(found, chain, 5, left=[1, 1, 1])
    assert once_each[0] == 1 and sorted(once_each) == [0, 1, 2]
    # between equals of equal variance the next goes elsewhere, and a stranger comes first
    assert choice.most_uncertain(choice.known([*"abcd", "e"], counted(ab=(50, 100), bc=(5, 10))), [*chain, "ae"], 1) in ([2], [3])
    assert len(set(choice.most_uncertain(choice.known("abcd", []), list(combinations("abcd", 2)), 3))) == 3
    assert choice.most_uncertain(found, []) == [] == choice.most_uncertain(found, ["xy"])


def test_of_pairs_known_equally_well_the_closer_one_is_asked_and_a_ranking_counts_all_its_pairs() -> None:
    even = choice.Known(tuple("abcd"), np.array([2.3, 0.0, 0.3, 0.0]), np.diag([0.03] * 4))
    assert choice.most_uncertain(even, ["ab", "bc"]) == [1]
    less = even._replace(covariance=np.diag([0.3, 0.03, 0.03, 0.03]))
    assert choice.most_uncertain(less, ["ab", "bc"]) == [0]
    assert choice.most_uncertain(even, ["bc", "bcd", "bd"]) == [1]


def test_added_up_votes_give_the_ratings_that_single_ones_give() -> None:
    votes = [*duel(50, 40), *duel(5, 15, a="b", b="c")]
    found, one_by_one = choice.known("abc", counted(ab=(50, 90), bc=(5, 20))), ranking.rate(votes, anchor="b")
    elo = {name: (value - found.theta[1]) * ranking.ELO for name, value in zip(found.names, found.theta, strict=True)}
    assert elo == pytest.approx({name: one_by_one.elo[place] for place, name in enumerate(one_by_one.names)}, abs=0.01)
