"""Ghost attention: the writer is told in each turn, the row says it once, and sft learns the last answer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import recipes, shapes
from app.errors import Invalid
from tests.recipes.scripted import Reply, Scripted, last, prompts, run
from worker.rows import to_trl

RHYME = "Always rhyme."
PARAMS: dict[str, Any] = {"prompts": "p", "instructions": [RHYME], "turns": 3}
TALK = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u1"},
    {"role": "assistant", "content": "old answer"},
    {"role": "user", "content": "u2"},
    {"role": "assistant", "content": "old answer"},
]


def answer(body: dict[str, Any]) -> Reply | str:
    asked = last(body).removeprefix(f"{RHYME}\n\n")
    return Reply("I cannot say.") if asked == "refuse" else f"{asked}, thyme"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_the_row_says_once_what_the_writer_was_told_each_time(tmp_path: Path) -> None:
    with Scripted(answer).up() as server:
        made = run(tmp_path, "ghost_attention", PARAMS, {"p": [{"messages": TALK}]}, endpoint=server, shapes={"p": "chat"})
    [row] = made.rows["train"]
    first, second = f"{RHYME}\n\nu1", f"{RHYME}\n\nu2"
    assert row["messages"] == [user(first), said("u1, thyme"), user("u2"), said("u2, thyme")]
    assert [body["messages"] for body in server.asked] == [[user(first)], [user(first), said("u1, thyme"), user(second)]]
    assert [step["asked"] for step in row["steps"]] == [body["messages"] for body in server.asked]
    assert row["meta"] == {"instruction": RHYME} and made.report["counts"] == {"dialogues": 1}
    form = shapes.detect(row)
    assert form == "chat"
    sides = to_trl(shapes.read(row, form).row, "chat", has_template=True)
    assert sides["completion"] == [said("u2, thyme")] and sides["prompt"] == row["messages"][:3]


def test_told_in_the_first_turn_only(tmp_path: Path) -> None:
    params = {**PARAMS, "told": "first"}
    with Scripted(answer).up() as server:
        run(tmp_path, "ghost_attention", params, {"p": [{"messages": TALK}]}, endpoint=server, shapes={"p": "chat"})
    assert [last(body) for body in server.asked] == [f"{RHYME}\n\nu1", "u2"]


def test_single_prompts_are_put_together(tmp_path: Path) -> None:
    names = [f"question {number}" for number in range(11)]
    params = {**PARAMS, "instructions": [RHYME, "Be brief."]}
    with Scripted(lambda body: f"about {last(body)[-11:]}").up() as server:
        made = run(tmp_path, "ghost_attention", params, {"p": prompts(*names)}, endpoint=server)
    rows = made.rows["train"]
    assert len(rows) == 3 and len(server.asked) == 9 and made.report["counts"] == {"prompts left over": 2, "dialogues": 3}
    questions = [message["content"].split("\n\n")[-1] for row in rows for message in row["messages"] if message["role"] == "user"]
    assert len(set(questions)) == 9 and set(questions) <= set(names)
    for row in rows:
        assert len(row["messages"]) == 6 and row["messages"][0]["content"].startswith(row["meta"]["instruction"])
        assert not any(row["meta"]["instruction"] in message["content"] for message in row["messages"][1:])


def test_a_dialogue_with_a_refusal_is_left_out_whole(tmp_path: Path) -> None:
    talks = [[user("a"), said("x"), user("refuse"), said("x"), user("c"), said("x")], [user("d"), said("x"), user("e"), said("x")]]
    with Scripted(answer).up() as server:
        made = run(
            tmp_path, "ghost_attention", PARAMS, {"p": [{"messages": each} for each in talks]}, endpoint=server, shapes={"p": "chat"}
        )
    assert [row["messages"][-2]["content"] for row in made.rows["train"]] == ["e"]
    assert made.report["counts"] == {"dialogues": 2, "refusals": 1, "dialogues left out for one of their answers": 1}
    assert not [body for body in server.asked if last(body).endswith("c")], "what comes after is not asked"


@pytest.mark.parametrize(
    ("params", "field"), [({"instructions": []}, "instructions"), ({"instructions": [""]}, "instructions"), ({"turns": 1}, "turns")]
)
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("ghost_attention", {**PARAMS, **params})
    assert found.value.field == field
