"""Biases of raters: figures by hand, injected biases that must be found, honest raters that must be left alone."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from app.errors import Invalid
from app.feedback import biases
from app.feedback.intervals import exact


def test_a_side_by_hand() -> None:
    found = biases.position_bias(9, 1)
    assert (found.left.value, found.p_value, found.found) == (0.9, pytest.approx(22 / 1024), "left")
    assert found.left == exact(9, 10)
    assert biases.position_bias(1, 9).found == "right"
    assert biases.position_bias(5, 5).found is None


@pytest.mark.parametrize(("share", "votes"), [(0.60, 194), (0.55, 783), (0.53, 2178), (0.52, 4904)])
def test_what_so_many_votes_would_show(share: float, votes: int) -> None:
    assert biases.detectable_share(votes) == pytest.approx(share, abs=2e-4)


def test_no_bias_seen_is_no_promise() -> None:
    assert "smaller than 60% to one side would mostly stay unseen" in biases.position_bias(97, 97).verdict
    assert "too few" in biases.position_bias(1, 1).verdict
    assert biases.position_bias(0, 0).verdict == "No decisive vote yet."
    assert "Favours the left: 70% of 100" in biases.position_bias(70, 30).verdict


def test_a_rater_who_goes_left_70_times_in_100_is_found_within_100_votes_and_a_fair_one_is_not() -> None:
    random = np.random.default_rng(0)
    biased, fair = random.binomial(100, 0.7, 500), random.binomial(100, 0.5, 500)
    assert sum(biases.position_bias(int(left), 100 - int(left)).found == "left" for left in biased) >= 480
    assert sum(biases.position_bias(int(left), 100 - int(left)).found is not None for left in fair) <= 35


def test_swapped_repeats() -> None:
    found = biases.swap_repeats([(2, -1), (2, 2), (1, 2), (0, 1), (0, 0), (-3, -3)])
    assert (found.flips.value, found.flips.n) == (0.25, 4)
    assert (found.changed.value, found.same_grade.value) == (pytest.approx(2 / 6), pytest.approx(3 / 6))
    assert biases.swap_repeats([]).flips.value is None


def test_length_by_hand() -> None:
    rows = [(200, 100, 1, p) for p in range(6)] + [(100, 200, 1, p) for p in range(6, 8)] + [(1, 9, 0.5, 8), (5, 5, 1, 9)]
    found = biases.length_bias([(float(a), float(b), score, prompt) for a, b, score, prompt in rows])
    assert (found.longer_wins.value, found.longer_wins.n) == (0.75, 8)
    assert found.longer_wins.low == exact(6, 8).low
    # two lengths only: the slope is the log-odds of the share, 90 of 120
    plain = biases.length_bias([(2.0, 1.0, float(p % 4 > 0), p) for p in range(120)])
    assert plain.slope.value == pytest.approx(math.log(3), rel=1e-3)
    assert plain.slope_error == pytest.approx(1 / math.sqrt(120 * 0.75 * 0.25), rel=0.01)


def test_an_injected_taste_for_length_is_recovered() -> None:
    inside = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        lengths = random.lognormal(5, 0.6, (400, 2))
        size = math.sqrt(float(np.mean((lengths[:, 0] - lengths[:, 1]) ** 2)))
        rows = [(a, b, float(random.random() < 1 / (1 + math.exp(-0.5 * (a - b) / size))), p) for p, (a, b) in enumerate(lengths)]
        found = biases.length_bias(rows)
        turned = biases.length_bias([(b, a, 1 - score, prompt) for a, b, score, prompt in rows])
        assert (turned.slope.value, turned.longer_wins) == (pytest.approx(found.slope.value), found.longer_wins)
        inside.append(found.slope.low <= 0.5 <= found.slope.high)  # type: ignore[operator]
    assert 180 <= sum(inside) <= 199


def test_length_without_votes_without_difference_and_with_one_answer() -> None:
    assert biases.length_bias([]).slope.value is None
    assert biases.length_bias([(5, 5, 1, 0)]).longer_wins.n == 0
    always = biases.length_bias([(2, 1, 1, prompt) for prompt in range(30)])
    assert always.slope.value is not None and always.slope_error is not None and always.slope_error > 1
    with pytest.raises(Invalid, match="score"):
        biases.length_bias([(1, 2, 3, 0)])


@pytest.mark.parametrize("run", [1, 2, 3, 5, 8])
def test_the_chance_of_a_run_is_that_of_all_sequences(run: int) -> None:
    shares = [0.5, 0.3, 0.2]
    chance = 0.0
    for keys in product(range(3), repeat=8):
        text = "".join(map(str, keys))
        if any(str(key) * run in text for key in range(3)):
            chance += math.prod(shares[key] for key in keys)
    assert biases.run_p_value(shares, 8, run) == pytest.approx(chance)


def test_straight_lining_is_found_and_honest_runs_are_not() -> None:
    random = np.random.default_rng(1)
    honest = [
        biases.straight_lining([int(key) for key in random.choice(7, 200, p=[0.05, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05])]) for _ in range(300)
    ]
    assert sum(one.flagged for one in honest) <= 2
    lazy = biases.straight_lining([int(key) for key in random.integers(1, 8, 100)] + [4] * 20)
    assert lazy.flagged and lazy.key == 4 and lazy.longest_run >= 20
    one_key = biases.straight_lining([4] * 20)
    assert one_key.flagged and one_key.entropy == 0 and one_key.p_value == 1
    assert not biases.straight_lining([4] * 19).flagged
    assert biases.straight_lining([1, 2, 3, 4], options=4).entropy == pytest.approx(1)
    assert biases.straight_lining([1, 2], options=4).entropy == pytest.approx(0.5)
    assert biases.straight_lining([]).entropy is None
    with pytest.raises(Invalid, match="different keys"):
        biases.straight_lining([1, 2, 3], options=2)


def test_time_spent() -> None:
    found = biases.pace([(1_000, 20), (4_000, 20), (2_000, 100), (9_000, 36)])
    assert (found.median_ms, found.words_per_second) == (3_000, pytest.approx((20 + 5) / 2))
    assert (found.hurried.value, found.hurried.n) == (0.25, 4)  # 100 words need 2,500 ms
    assert biases.pace([]).median_ms is None
    assert biases.pace([(0, 10)]).words_per_second is None and biases.pace([(0, 10)]).hurried.value == 1
    with pytest.raises(Invalid, match="0 or more"):
        biases.pace([(-1, 10)])


def test_gold_says_nothing_before_ten() -> None:
    assert [biases.gold_accuracy(0, n).verdict for n in (0, 9, 10)] == ["too few", "too few", "below"]
    assert [biases.gold_accuracy(right, 20).verdict for right in (15, 14, 12, 10)] == ["passes", "doubtful", "doubtful", "below"]


def test_a_random_clicker_is_found_by_twenty_gold_items() -> None:
    random = np.random.default_rng(2)
    clickers = [biases.gold_accuracy(int(right), 20).verdict for right in random.binomial(20, 0.5, 1_000)]
    careful = [biases.gold_accuracy(int(right), 20).verdict for right in random.binomial(20, 0.95, 1_000)]
    assert sum(verdict != "passes" for verdict in clickers) >= 965
    assert sum(verdict != "passes" for verdict in careful) <= 5


def test_the_running_product_by_hand() -> None:
    # against four of four others: p = 1/5, so each such vote counts 5/2, and one with them 1/2
    found = biases.anomaly([(0, 4, 0), (1, 4, 0), (0, 4, 0), (1, 0, 4), (1, 0, 4), (0.5, 4, 0), (1, 0, 0)])
    assert (found.n, found.flagged_at) == (5, None)
    assert found.product == pytest.approx(2.5**4 / 2)
    assert biases.anomaly([(0, 4, 0)] * 9).flagged_at == 4
    assert biases.anomaly([(1, 4, 0)] * 200).n == 100
    assert biases.anomaly([]).product == 1


def test_a_contrary_rater_is_found_and_an_honest_one_hardly_ever() -> None:
    random = np.random.default_rng(3)

    def flagged(contrary: bool) -> bool:
        votes = []
        for _ in range(100):
            p = random.choice([0.2, 0.8])
            wins = int(random.binomial(10, p))
            votes.append((float((random.random() < p) != contrary), wins, 10 - wins))
        return biases.anomaly(votes).flagged_at is not None

    assert sum(flagged(True) for _ in range(200)) >= 195
    assert sum(flagged(False) for _ in range(200)) <= 14


def test_drift_by_day() -> None:
    found = biases.drift([("2026-11-02", True), ("2026-11-01", True), ("2026-11-01", False)])
    assert [(day, share.value, share.n) for day, share in found] == [("2026-11-01", 0.5, 2), ("2026-11-02", 1.0, 1)]
