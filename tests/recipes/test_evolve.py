"""Evolve: each round goes on from the one before; what went wrong is dropped by rule, counted, and the task is tried again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import recipes
from app.errors import Invalid
from app.recipes.evolve import OPERATORS
from tests.recipes.scripted import Reply, Scripted, last, prompts, run

PARAMS = {"prompts": "p", "rounds": 2}


def evolving(body: dict[str, Any]) -> str | None:
    """The task that is to be evolved; None for a task that is to be answered."""
    return last(body).partition("[Task]\n")[2] or None


def test_rounds_go_on_from_each_other(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        task = evolving(body)
        return f"Answer: {last(body)}" if task is None else f" {task} Also name {len(task)} reasons why {len(task)} matters so. "

    data = {
        "p": [*prompts("Name a fish", "What is rain?"), {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}]
    }
    with Scripted(answer).up() as server:
        made = run(tmp_path, "evolve", PARAMS, data, endpoint=server)
    rows = made.rows["train"]
    first = "Name a fish Also name 11 reasons why 11 matters so."
    second = f"{first} Also name {len(first)} reasons why {len(first)} matters so."
    assert [row["prompt"] for row in rows if row["prompt"].startswith("Name a fish")] == ["Name a fish", first, second]
    assert len(rows) == 6 and all(row["completion"] == f"Answer: {row['prompt']}" for row in rows)
    steps = next(row for row in rows if row["prompt"] == second)["steps"]
    assert [step["step"] for step in steps] == ["evolve", "evolve", "answer"] and [steps[0]["from"], steps[1]["from"]] == [
        "Name a fish",
        first,
    ]
    for step in steps[:2]:
        assert step["asked"][0]["content"].startswith(OPERATORS[step["operator"]]) and step["asked"] in [
            each["messages"] for each in server.asked
        ]
    counts = made.report["counts"]
    assert counts["prompts"] == 3 and counts["prompts of several messages left out"] == 1
    assert sum(count for name, count in counts.items() if name.startswith("tasks evolved by")) == 4
    assert len(server.asked) == 10 and made.told.progressed[0][1] == 6
    without = {**PARAMS, "keep_originals": False, "operators": ["broaden"]}
    with Scripted(answer).up() as server:
        made = run(tmp_path / "2", "evolve", without, data, endpoint=server)
    assert len(made.rows["train"]) == 4 and made.report["counts"]["tasks evolved by broaden"] == 4
    assert all(OPERATORS["broaden"] in last(body) for body in server.asked if evolving(body))


@pytest.mark.parametrize(
    ("evolution", "rule"),
    [
        (Reply("name a FISH!"), "evolutions that change nothing"),
        (Reply("Tell me what rain is made of today."), "evolutions too like other tasks"),
        (Reply("Rewritten task: name two fishes of the North Sea"), "evolutions that repeat the request"),
        (Reply("I'm sorry, but I cannot rewrite this."), "evolutions that are refusals"),
        (Reply(None, refusal="no"), "evolutions that are refusals"),
        (Reply("Name a fish that lives in cold water and", finish="length"), "evolutions cut at the limit"),
        (Reply("?!"), "evolutions without words"),
        (Reply("Name the fish that nobody has ever seen"), "evolutions that cannot be answered"),
    ],
)
def test_what_went_wrong_is_dropped_and_tried_again(tmp_path: Path, evolution: Reply, rule: str) -> None:
    asked = []

    def answer(body: dict[str, Any]) -> Reply | str:
        task = evolving(body)
        if task is None:
            return "Sorry, nobody knows." if "nobody has" in last(body) else "Fine."
        if task != "Name a fish":
            return f"{task} {task} Twice {len(task)} and in verse."
        asked.append(task)
        return evolution if len(asked) == 1 else "Name a fish of the deep sea and say what it eats there."

    data = {"p": prompts("Name a fish", "Tell me what rain is made of today?")}
    with Scripted(answer).up() as server:
        made = run(tmp_path, "evolve", {**PARAMS, "keep_originals": False}, data, endpoint=server)
    fish = [row for row in made.rows["train"] if "fish" in row["prompt"]]
    assert [row["prompt"] for row in fish] == ["Name a fish of the deep sea and say what it eats there."]
    assert len(asked) == 2 and made.report["counts"][rule] == 1 and [step["step"] for step in fish[0]["steps"]] == ["evolve", "answer"]


@pytest.mark.parametrize(
    ("params", "field"), [({"operators": []}, "operators"), ({"operators": ["grow"]}, "operators.0"), ({"rounds": 9}, "rounds")]
)
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("evolve", {"prompts": "p", **params})
    assert found.value.field == field
