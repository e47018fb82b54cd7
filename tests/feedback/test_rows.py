"""What votes on an item come to, as rows: every grade, every way to combine, rankings, labels, orders and splits."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from app.feedback import orders, rows
from app.feedback.rows import Answer, Judged, Said
from app.feedback.rules import Rules

PROMPT = [{"role": "user", "content": "Name a colour."}]


def judged(*votes: Any, answers: list[Any] | None = None, prompt: list[dict[str, str]] | None = None) -> Judged:
    """An item of two answers, `first` and `second`; a vote is a preference, `both_…`, or the fields of one."""
    texts = ["first", "second"] if answers is None else answers
    said = []
    for number, vote in enumerate(votes):
        fields = vote if isinstance(vote, dict) else {"preference": 0, "quality": vote} if isinstance(vote, str) else {"preference": vote}
        said.append(Said(f"rater {number}", **fields))
    given = [text if isinstance(text, Answer) else Answer(f"r{number}", text, f"m{number}") for number, text in enumerate(texts)]
    return Judged("item", PROMPT if prompt is None else prompt, "hash", given, said)


def made(item: Judged, kind: str = "pair", scale: str = "graded", direction: str = "better", **rules: Any) -> rows.Made:
    return rows.make(item, Rules(**rules), kind, scale, direction)


def won(found: rows.Made) -> list[tuple[str, str]]:
    return [(each.row["chosen"][0]["content"], each.row["rejected"][0]["content"]) for each in found.examples]


# --- pairs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vote", "expected"),
    [(-3, ("first", "second")), (-1, ("first", "second")), (1, ("second", "first")), (3, ("second", "first"))],
)
def test_a_preference_below_zero_means_the_first_answer(vote: int, expected: tuple[str, str]) -> None:
    assert won(made(judged(vote))) == [expected]


def test_a_pair_is_made_of_messages() -> None:
    [example] = made(judged(-2)).examples
    assert example.row == {
        "prompt": PROMPT,
        "chosen": [{"role": "assistant", "content": "first"}],
        "rejected": [{"role": "assistant", "content": "second"}],
    }
    assert example.meta["grade"] == 2 and example.meta["chosen_model"] == "m0" and example.meta["votes"] == [-2]


@pytest.mark.parametrize(("vote", "reason"), [(0, "tie"), ("both_good", "both_good"), ("both_bad", "both_bad")])
def test_ties_are_dropped_and_named(vote: Any, reason: str) -> None:
    for shape in ("preference", "margin"):
        found = made(judged(vote), shape=shape)
        assert not found.examples and found.dropped == {reason: 1}


@pytest.mark.parametrize(("name", "margins"), [("small", [1, 2 / 3, 1 / 3]), ("large", [3, 2, 1]), ("none", [0, 0, 0])])
def test_every_row_for_a_reward_model_has_its_margin_as_a_float(name: str, margins: list[float]) -> None:
    for vote, expected in zip((-3, 2, -1), margins, strict=True):
        [example] = made(judged(vote), shape="margin", margin=name).examples
        assert isinstance(example.row["margin"], float) and example.row["margin"] == pytest.approx(expected)


def test_only_reward_models_get_a_margin() -> None:
    assert "margin" not in made(judged(-3)).examples[0].row


def test_where_raters_picked_the_worse_answer_the_pair_is_turned_round() -> None:
    assert won(made(judged(-2), direction="worse")) == [("second", "first")]
    assert won(made(judged(3), direction="worse", combine="every")) == [("first", "second")]


@pytest.mark.parametrize(
    ("votes", "rules", "expected"),
    [
        ([-2, -1, 3], {}, [("first", "second")]),
        ([-2, -1, 0], {}, [("first", "second")]),
        ([-2, 3], {}, "split"),
        ([-2, 0], {}, "split"),
        ([-2, 0, 0], {}, "tie"),
        ([-2, -1, 0], {"combine": "unanimous"}, "divided"),
        ([-2, -1, -3], {"combine": "unanimous"}, [("first", "second")]),
        ([-2, 1, 0], {"combine": "every"}, [("first", "second"), ("second", "first")]),
        ([-1, -1, 2], {"drop_wide": True}, "wide"),
        ([-1, -1, 1], {"drop_wide": True}, [("first", "second")]),
        ([-3, 0, -3], {"drop_wide": True}, [("first", "second")]),
        ([-1], {"min_grade": 2}, "weak"),
        ([-1, -3, -3], {"min_grade": 3}, [("first", "second")]),
    ],
)
def test_votes_are_combined(votes: list[int], rules: dict[str, Any], expected: Any) -> None:
    found = made(judged(*votes), **rules)
    if isinstance(expected, str):
        assert not found.examples and found.dropped == {expected: 1}
    else:
        assert won(found) == expected


def test_the_grade_of_several_votes_is_their_median() -> None:
    [example] = made(judged(-3, -2, 1), shape="margin").examples
    assert example.meta["grade"] == 2 and example.row["margin"] == pytest.approx(2 / 3) and example.meta["agreement"] == 0.6667


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (["same", " same\n"], "identical"),
        (["", "b"], "empty"),
        (["a", " \n"], "empty"),
        (["a", "and then ▌"], "cut"),
        ([Answer("x", "a", finish="length"), "b"], "cut"),
        ([Answer("x", "out of memory", finish="error"), "b"], "error"),
    ],
)
def test_broken_answers_are_dropped_again(answers: list[Any], reason: str) -> None:
    for shape in ("preference", "unpaired", "prompt_completion"):
        found = made(judged(-3, answers=answers), shape=shape)
        assert not found.examples and found.dropped == {reason: 1}


def test_a_prompt_that_cannot_be_answered_is_dropped() -> None:
    for prompt in ([], [{"role": "assistant", "content": "hello"}], [{"role": "user", "content": " "}]):
        assert made(judged(-3, prompt=prompt)).dropped == {"unusable": 1}


# --- labels ---------------------------------------------------------------------------------------------------------------


def labels(found: rows.Made) -> list[tuple[str, bool]]:
    return [(each.row["completion"][0]["content"], each.row["label"]) for each in found.examples]


def test_labels_come_from_what_was_said_of_both_answers() -> None:
    assert labels(made(judged("both_good"), shape="unpaired")) == [("first", True), ("second", True)]
    assert labels(made(judged("both_bad"), shape="unpaired")) == [("first", False), ("second", False)]
    assert labels(made(judged("both_bad", "both_bad", -1), shape="unpaired")) == [("first", False), ("second", False)]


def test_a_pair_alone_gives_no_label() -> None:
    for vote in (-3, 0, 2):
        assert made(judged(vote), shape="unpaired").dropped == {"no_label": 1}


def test_strong_pairs_give_labels_where_asked_for() -> None:
    assert labels(made(judged(-2), shape="unpaired", strong_pairs=True)) == [("first", True), ("second", False)]
    assert made(judged(-1), shape="unpaired", strong_pairs=True).dropped == {"no_label": 1}


def test_thumbs_give_labels() -> None:
    up, down = {"score": 1.0}, {"score": 0.0}
    assert labels(made(judged(up, answers=["a"]), "single", "thumbs", shape="unpaired")) == [("a", True)]
    assert labels(made(judged(down, down, up, answers=["a"]), "single", "thumbs", shape="unpaired")) == [("a", False)]
    assert made(judged(down, up, answers=["a"]), "single", "thumbs", shape="unpaired").dropped == {"split": 1}


def test_scores_train_a_model_that_scores() -> None:
    votes = [{"score": 2.0}, {"score": 5.0}, {"score": 4.0}]
    [example] = made(judged(*votes, answers=["a"]), "single", "five", shape="rated").examples
    assert example.row == {"prompt": PROMPT, "completion": [{"role": "assistant", "content": "a"}], "score": 4.0}
    assert made(judged(*votes, answers=["a"]), "single", "five", shape="rated", drop_wide=True).dropped == {"wide": 1}
    every = made(judged(*votes, answers=["a"]), "single", "five", shape="rated", combine="every").examples
    assert [each.row["score"] for each in every] == [2.0, 5.0, 4.0]


def test_scores_of_how_bad_an_answer_is_are_turned_round() -> None:
    [example] = made(judged({"score": 5.0}, answers=["a"]), "single", "five", "worse", shape="rated").examples
    assert example.row["score"] == 1.0
    assert labels(made(judged({"score": 0.0}, answers=["a"]), "single", "thumbs", "worse", shape="unpaired")) == [("a", True)]


@pytest.mark.parametrize(("score", "expected"), [(5, [("a", True)]), (4, [("a", True)]), (3, []), (2, [("a", False)])])
def test_scores_give_labels(score: float, expected: list[tuple[str, bool]]) -> None:
    assert labels(made(judged({"score": float(score)}, answers=["a"]), "single", "five", shape="unpaired")) == expected


def test_the_best_answer_is_for_supervised_tuning() -> None:
    [example] = made(judged(2), shape="chat").examples
    assert example.row == {"messages": [*PROMPT, {"role": "assistant", "content": "second"}]}
    edited = Answer("e", "better still", finish="edited")
    [example] = made(judged(0, answers=["first", "second", edited]), shape="prompt_completion").examples
    assert example.row == {"prompt": PROMPT, "completion": [{"role": "assistant", "content": "better still"}]}
    assert won(made(judged(2, answers=["first", "second", edited]))) == [("second", "first")]


# --- rankings -------------------------------------------------------------------------------------------------------------


def ranked(*rankings: list[list[str]], answers: str = "abcd") -> Judged:
    item = judged(*({"ranking": ranking} for ranking in rankings), answers=[Answer(each, f"text {each}") for each in answers])
    return item


def pairs(found: rows.Made) -> list[str]:
    return [f"{one[-1]}>{other[-1]}" for one, other in won(found)]


@pytest.mark.parametrize("order", list(itertools.permutations("abcd")))
def test_every_order_gives_its_pairs_extremes_and_neighbours_first(order: tuple[str, ...]) -> None:
    one, two, three, four = order
    expected = [f"{one}>{four}", f"{one}>{two}", f"{two}>{three}", f"{three}>{four}", f"{one}>{three}", f"{two}>{four}"]
    found = made(ranked([[each] for each in order]), "rank", "ranks")
    assert pairs(found) == expected and [each.rank for each in found.examples] == [0, 1, 2, 3, 4, 5]


def test_ties_in_a_ranking_give_no_pair() -> None:
    assert pairs(made(ranked([["b", "a"], ["c"]], answers="abc"), "rank", "ranks")) == ["a>c", "b>c"]
    assert made(ranked([["a", "b", "c"]], answers="abc"), "rank", "ranks").dropped == {"tie": 1}


def test_rankings_of_several_raters_are_put_together_pair_by_pair() -> None:
    found = made(ranked([["a"], ["b"], ["c"]], [["b"], ["a"], ["c"]], [["a"], ["b"], ["c"]], answers="abc"), "rank", "ranks")
    assert pairs(found) == ["a>c", "a>b", "b>c"]


def test_rankings_that_go_in_a_circle_are_left_out() -> None:
    circle = ranked([["a"], ["b"], ["c"]], [["b"], ["c"], ["a"]], [["c"], ["a"], ["b"]], answers="abc")
    assert made(circle, "rank", "ranks").dropped == {"cycle": 1}
    assert len(made(circle, "rank", "ranks", combine="every").examples) == 9


def test_a_ranking_from_the_worst_on_is_turned_round() -> None:
    assert pairs(made(ranked([["a"], ["b"]], answers="ab"), "rank", "ranks", "worse")) == ["b>a"]


def test_rankings_have_no_grade_and_a_margin_of_zero() -> None:
    [example] = made(ranked([["a"], ["b"]], answers="ab"), "rank", "ranks", shape="margin").examples
    assert example.row["margin"] == 0.0 and isinstance(example.row["margin"], float) and example.meta["grade"] is None


# --- orders ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.8, 0.94, 0.06])
def test_rows_for_kto_are_mixed(share: float) -> None:
    """Blocks of one label, as trl makes them of pairs, are what this guards against."""
    chance = random.Random(1)
    prompts = [number // 2 for number in range(2000)]
    labels = sorted((chance.random() < share for _ in prompts), reverse=True)
    order = orders.mixed(prompts, labels, 42)
    assert sorted(order) == list(range(2000)) and order == orders.mixed(prompts, labels, 42) != orders.mixed(prompts, labels, 43)
    assert orders.same_neighbours([prompts[row] for row in order]) == 0
    assert orders.longest_run([labels[row] for row in order]) <= 20


@pytest.mark.parametrize("biggest", [0.3, 0.48])
def test_a_prompt_with_many_rows_is_spread(biggest: float) -> None:
    prompts = [0 if number < 600 * biggest else number for number in range(600)]
    for labels in ([number % 2 == 0 for number in range(600)], [prompt == 0 for prompt in prompts]):
        order = orders.mixed(prompts, labels, 7)
        assert sorted(order) == list(range(600)) and orders.same_neighbours([prompts[row] for row in order]) == 0


def test_what_cannot_be_mixed_is_still_whole() -> None:
    assert sorted(orders.mixed([1] * 9, [True, False, True] * 3, 1)) == list(range(9))
    assert orders.mixed([], [], 1) == []
    assert sorted(orders.mixed([1, 2, 3], [True] * 3, 1)) == [0, 1, 2]


def test_whole_groups_are_held_out() -> None:
    groups = [number % 50 for number in range(500)]
    held = orders.held_out(groups, 0.1, 42)
    assert sum(held) == 50 and len({group for group, each in zip(groups, held, strict=True) if each}) == 5
    assert held == orders.held_out(groups, 0.1, 42) != orders.held_out(groups, 0.1, 43)
    assert not any(orders.held_out(groups, 0.0, 42)) and not any(orders.held_out([1] * 9, 0.5, 42))
    assert 0 < sum(orders.held_out([1, 1, 2], 0.9, 1)) < 3
    assert sum(orders.held_out([0] * 500 + list(range(1, 501)), 0.1, 3)) <= 150
