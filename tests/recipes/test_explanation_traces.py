"""Explanation traces: each prompt is asked under a system message that the row keeps, or not, as asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import recipes
from app.errors import Invalid
from tests.recipes.scripted import Reply, Scripted, last, prompts, run

PARAMS: dict[str, Any] = {"prompts": "p", "systems": ["Explain.", "Go step by step.", "Say why."]}
DATA = {"p": prompts(*(f"question {number}" for number in range(20)))}


def answer(body: dict[str, Any]) -> Reply | str:
    if last(body) == "question 7":
        return Reply("Because of", finish="length")
    return f"{body['messages'][0]['content']} So: {last(body)}"


def test_rows_keep_the_system_message(tmp_path: Path) -> None:
    with Scripted(answer).up() as server:
        made = run(tmp_path, "explanation_traces", PARAMS, DATA, endpoint=server)
    rows = made.rows["train"]
    assert (
        len(rows) == 19 and made.report["counts"] == {"prompts": 20, "cut": 1} and {body["max_tokens"] for body in server.asked} == {1024}
    )
    for row in rows:
        system, question = row["prompt"]
        assert (system["role"], question["role"]) == ("system", "user") and row[
            "completion"
        ] == f"{system['content']} So: {question['content']}"
        [step] = row["steps"]
        assert step["asked"] == row["prompt"] and step["system"] == system["content"]
        assert row["prompt"] in [body["messages"] for body in server.asked]
    assert {row["prompt"][0]["content"] for row in rows} == set(PARAMS["systems"])


def test_several_each_and_without(tmp_path: Path) -> None:
    params = {**PARAMS, "each": 2, "keep_system": False}
    with Scripted(answer).up() as server:
        made = run(tmp_path, "explanation_traces", params, {"p": DATA["p"][:4]}, endpoint=server)
    rows = made.rows["train"]
    assert len(rows) == len(server.asked) == 8 and all(isinstance(row["prompt"], str) for row in rows)
    used = {text: {row["steps"][0]["system"] for row in rows if row["prompt"] == text} for text in {row["prompt"] for row in rows}}
    assert len(used) == 4 and all(len(each) == 2 for each in used.values())


@pytest.mark.parametrize(("params", "field"), [({"systems": []}, "systems"), ({"systems": [" "]}, "systems"), ({"each": 0}, "each")])
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("explanation_traces", {"prompts": "p", **params})
    assert found.value.field == field
