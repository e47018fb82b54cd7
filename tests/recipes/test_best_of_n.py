"""Best of n: the best by rules or a reward model, pairs of best and worst, and the rewards in the report; all reckoned by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import recipes
from app.errors import Invalid
from tests.recipes.scripted import Reply, Scripted, last, prompts, run

WORDS = {"kind": "length", "unit": "words", "target": 4}
PARAMS = {"prompts": "p", "rules": [WORDS], "answers": 4}


def scripted(answers: dict[str, list[Reply | str]]) -> Scripted:
    """Each prompt gets its answers in the order of the seeds, so that it does not matter which request arrives first."""
    seeds: dict[str, list[int]] = {}

    def answer(body: dict[str, Any]) -> Reply | str:
        known = seeds.setdefault(last(body), [])
        known.append(body["seed"])
        return answers[last(body)][len(known) - 1]

    return Scripted(answer)


def test_the_best_is_kept_and_pairs_are_made(tmp_path: Path) -> None:
    answers: dict[str, list[Reply | str]] = {
        "fish": ["one", "one two three four", "one two", "ONE  two"],  # rewards 0.25, 1, 0.5; the last one repeats another
        "bird": ["a b", "c d", "I cannot say.", Reply("e f g h", finish="length")],  # 0.5, 0.5; a refusal and a cut one
        "rock": ["", "", "", ""],
    }
    with scripted(answers).up() as server:
        made = run(tmp_path, "best_of_n", PARAMS, {"p": prompts("fish", "bird", "rock")}, endpoint=server)
    best = {row["prompt"]: row for row in made.rows["train"]}
    assert set(best) == {"fish", "bird"} and best["fish"]["completion"] == "one two three four"
    assert best["bird"]["completion"] in ("a b", "c d")
    assert [step["reward"] for step in best["fish"]["steps"]] == [1.0, 0.5, 0.25]
    [pair] = made.rows["pairs"]
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("fish", "one two three four", "one")
    counts = {"prompts": 3, "duplicate answers": 1, "refusals": 1, "cut": 1, "empty": 4, "prompts without a pair": 1}
    assert made.report["counts"] == counts
    assert made.report["figures"] == {"mean_reward": pytest.approx(2.75 / 5), "best_reward": 0.75}
    assert made.report["words"][-2:] == [
        "The mean reward of all 5 answers is 0.55.",
        "The mean reward of the 2 chosen ones is 0.75.",
    ]
    assert len({(last(body), body["seed"]) for body in server.asked}) == 12 and {body["temperature"] for body in server.asked} == {0.9}


def test_rules_are_weighed_and_added(tmp_path: Path) -> None:
    rules = [{**WORDS, "weight": 2}, {"kind": "format", "contains": ["x"], "weight": -3}]
    answers: dict[str, list[Reply | str]] = {"q": ["a b c x", "a b"]}  # 2 - 3 = -1, and 1
    with scripted(answers).up() as server:
        made = run(tmp_path, "best_of_n", {**PARAMS, "rules": rules, "answers": 2}, {"p": prompts("q")}, endpoint=server)
    [pair] = made.rows["pairs"]
    assert (pair["chosen"], pair["rejected"], [step["reward"] for step in pair["steps"]]) == ("a b", "a b c x", [1.0, -1.0])


def test_pairs_ask_for_a_difference(tmp_path: Path) -> None:
    answers: dict[str, list[Reply | str]] = {"q": ["a b c d", "a b"]}  # 1 and 0.5
    for number, (least, pairs) in enumerate([(0.4, 1), (0.5, 0)]):
        params = {**PARAMS, "answers": 2, "least_difference": least}
        with scripted(answers).up() as server:
            made = run(tmp_path / str(number), "best_of_n", params, {"p": prompts("q")}, endpoint=server)
        assert (len(made.rows["train"]), len(made.rows["pairs"])) == (1, pairs)


def test_rules_that_compare_with_the_rows_answer(tmp_path: Path) -> None:
    params = {**PARAMS, "answers": 2, "rules": [{"kind": "numeric_answer"}]}
    data = {"p": [{"prompt": "2 + 2?", "completion": "4"}]}
    with scripted({"2 + 2?": ["It is 5", "It is 4"]}).up() as server:
        made = run(tmp_path / "1", "best_of_n", params, data, endpoint=server, shapes={"p": "prompt_completion"})
    assert made.rows["pairs"][0]["chosen"] == "It is 4"
    with scripted({}).up() as server, pytest.raises(ValueError, match="these rows have none"):
        run(tmp_path / "2", "best_of_n", params, {"p": prompts("2 + 2?")}, endpoint=server)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"prompts": "p"}, "set reward, or add rules"),
        ({**PARAMS, "rules": [{"kind": "model", "checkpoint": "c"}]}, "is no rule"),
        ({**PARAMS, "temperature": 0}, "all answers are the same"),
        ({**PARAMS, "answers": 1}, "at least 2"),
        ({**PARAMS, "rules": [{"kind": "luck"}]}, "luck"),
    ],
)
def test_settings_that_cannot_be_used(params: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        recipes.check("best_of_n", params)


@pytest.mark.train
def test_a_reward_model_scores(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the train extra")
    from tests.feedback.test_judging import rewarding
    from tests.models import tiny_llama_folder
    from worker import rewards

    rewarding(tmp_path / "marks")
    tiny, marks = ({"path": str(path), "adapter": None, "name": path.name} for path in (tiny_llama_folder(), tmp_path / "marks"))
    params = {"prompts": "p", "writer": "w", "reward": "r", "max_tokens": 6, "temperature": 1.5, "leave_out": []}
    named = {"w": tiny, "r": marks}
    made = run(tmp_path / "1", "best_of_n", params, {"p": prompts("Hello", "Hi there")}, checkpoints=named)
    assert len(made.rows["train"]) == 2 and len(made.rows["pairs"]) == 2
    expected: list[float] = []
    for row in made.rows["train"]:
        talks = [
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": step["answer"].strip()}] for step in row["steps"]
        ]
        scores = rewards.score(marks, talks)
        expected += scores
        assert [step["reward"] for step in row["steps"]] == pytest.approx(scores, abs=1e-4) == sorted(scores, reverse=True)
        assert row["completion"] == row["steps"][0]["answer"].strip()
    figures = made.report["figures"]
    assert (
        figures["mean_reward"] == pytest.approx(sum(expected) / len(expected), abs=1e-4) and figures["best_reward"] > figures["mean_reward"]
    )
    again = run(tmp_path / "2", "best_of_n", params, {"p": prompts("Hello", "Hi there")}, checkpoints=named)
    assert again.rows == made.rows
