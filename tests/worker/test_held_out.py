"""Held-out pairs by grade: what the child tells is what its trainer reckons, for each pair, and only where people graded them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the train extra")

from app.runs.graded import level
from tests.methods import child
from worker.held_out import by_grade

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]


def graded_rows(file: Path, trained: int, held_out: int) -> Path:
    """Pairs as a snapshot has them: the grade of each stands beside it; one is much longer than the others."""
    with file.open("w", encoding="utf-8") as stream:
        for number in range(trained + held_out):
            prompt = f"{number} + {number + 1} =" + " please" * (30 if number == trained else number % 5)
            row = {"prompt": prompt, "chosen": str(2 * number + 1), "rejected": str(2 * number + 2)}
            source = {**row, "meta": {"grade": [1.0, 2.0, 2.5, None][number % 4], "item": f"itm_{number}"}}
            split = "train" if number < trained else "eval"
            stream.write(json.dumps({"line": number + 1, "split": split, "row": row, "source": source}) + "\n")
    return file


def job_for(folder: Path, method: str, *, is_graded: bool = True, **params: Any) -> dict[str, Any]:
    job = child.spec(folder, method, "lora", params={"max_steps": 2, "eval_steps": 1, "batch_size": 4, **params})
    part = {"path": str(graded_rows(folder / "graded.jsonl", 16, 12)), "shape": "preference"}
    return {**job, "train": {**part, "split": "train", "sha256": "x"}, "eval": {**part, "split": "eval", "graded": is_graded}}


@pytest.mark.parametrize(("method", "params"), [("dpo", {"precompute_reference": True, "loss": "ipo"}), ("reward", {"max_length": 120})])
def test_the_figures_are_those_of_the_trainer(tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    _, report = child.run(job_for(tmp_path, method, **params))
    told = [each for message in report.of("graded") for each in message["grades"]]
    assert [each["step"] for each in told] == sorted(each["step"] for each in told) and {each["step"] for each in told} == {1, 2}
    last = [each for each in told if each["step"] == 2]
    # A reward model leaves out pairs that are too long: the first of the held-out ones, slightly better.
    expected = {3: 3, 2: 3, 1: 2 if method == "reward" else 3, 0: 3}
    assert {each["grade"]: each["pairs"] for each in last} == expected and [each["grade"] for each in last] == [3, 2, 1, 0]
    for name, told in (("accuracies", "right"), ("margins", "margin")):
        ours = sum(each[told] * (1 if told == "right" else each["pairs"]) for each in last) / sum(expected.values())
        assert ours == pytest.approx(report.curve(f"eval_rewards/{name}")[2], rel=1e-3, abs=1e-6)
    assert report.curve("eval_rewards/margins")[2] != 0


def test_nothing_is_told_of_pairs_that_nobody_graded(tmp_path: Path) -> None:
    _, report = child.run(job_for(tmp_path, "dpo", is_graded=False))
    assert not report.of("graded") and 2 in report.curve("eval_loss")


def test_medians_stand_for_the_grade_above() -> None:
    assert [level(each) for each in (None, 0.5, 1, 1.5, 2, -2.5, 3)] == [0, 1, 1, 2, 2, 3, 3]
    assert by_grade([3.0, None, 2.5], [0.5, -1.0, -0.25]) == [
        {"grade": 3, "pairs": 2, "right": 1, "margin": 0.125},
        {"grade": 0, "pairs": 1, "right": 0, "margin": -1.0},
    ]
