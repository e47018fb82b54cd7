"""Context distillation: asked under the system prompt, kept without it; refusals, empty and cut answers and doubles, all counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app import recipes
from app.errors import Invalid
from tests.recipes.scripted import KEY, Reply, Scripted, last, prompts, run

SYSTEM = "Answer like a pirate."
PARAMS = {"prompts": "p", "system": SYSTEM}


def pirate(body: dict[str, Any]) -> Reply:
    return {
        "refuse": Reply("I cannot help with that."),
        "filtered": Reply(None, refusal="No."),
        "empty": Reply("  \n"),
        "cut": Reply("Arr, and then", finish="length"),
    }.get(last(body), Reply(f" Arr, {last(body)} "))


def test_rows_have_no_system_prompt_and_steps_have_it(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And you?"}]
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}, {"role": "user", "content": "Who?"}]
    data = {"p": [*prompts("Hello", "hello ", "Name a fish"), {"prompt": own}, {"prompt": talk}]}
    with Scripted(pirate).up() as server:
        made = run(tmp_path, "context_distillation", PARAMS, data, endpoint=server)
    rows = {str(row["prompt"]): row for row in made.rows["train"]}
    assert set(rows) == {"Hello", "Name a fish", str(own), str(talk)}
    assert rows["Hello"]["completion"] == "Arr, Hello"
    systems = {last(body): body["messages"][0] for body in server.asked}
    assert systems == {
        "Hello": {"role": "system", "content": SYSTEM},
        "Name a fish": {"role": "system", "content": SYSTEM},
        "And you?": {"role": "system", "content": f"{SYSTEM}\n\nBe brief."},
        "Who?": {"role": "system", "content": SYSTEM},
    }
    for row in rows.values():
        [step] = row["steps"]
        assert SYSTEM not in str(row["prompt"]) + row["completion"] and step["asked"][0]["content"].startswith(SYSTEM)
        assert step["asked"] in [body["messages"] for body in server.asked] and step["answer"].strip() == row["completion"]
    assert made.report["counts"] == {"duplicate prompts": 1, "prompts": 4}
    assert made.report["words"] == [
        "Asked: “known” at the studio’s endpoint.",
        "1 prompt left out that repeats another one.",
        "4 prompts asked.",
    ]
    assert made.told.progressed[0][:2] == (0, 4) and "4 prompts" in made.told.progressed[0][2]


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    data = {"p": prompts("refuse", "filtered", "empty", "cut", "Hello")}
    with Scripted(pirate).up() as server:
        made = run(tmp_path / "1", "context_distillation", PARAMS, data, endpoint=server)
        kept = run(tmp_path / "2", "context_distillation", {**PARAMS, "leave_out": []}, data, endpoint=server)
    assert [row["prompt"] for row in made.rows["train"]] == ["Hello"]
    assert made.report["counts"] == {"prompts": 5, "refusals": 2, "empty": 1, "cut": 1}
    assert "2 refusals left out." in made.report["words"] and "1 answer left out that was cut at the limit." in made.report["words"]
    assert sorted(row["prompt"] for row in kept.rows["train"]) == ["Hello", "cut", "filtered", "refuse"]
    assert kept.report["counts"] == {"prompts": 5, "empty": 1, "refusals kept": 2, "cut kept": 1}


def test_several_answers_and_their_doubles(tmp_path: Path) -> None:
    seeds: list[int] = []

    def answer(body: dict[str, Any]) -> str:
        seeds.append(body["seed"])
        return "same" if last(body) == "one" else f"answer {body['seed']}"

    with Scripted(answer).up() as server:
        made = run(tmp_path, "context_distillation", {**PARAMS, "answers": 3}, {"p": prompts("one", "two")}, endpoint=server)
    assert sorted(row["prompt"] for row in made.rows["train"]) == ["one", "two", "two", "two"] and len(set(seeds)) == 6
    assert made.report["counts"] == {"prompts": 2, "duplicate answers": 2}


def test_the_seed_fixes_prompts_and_order(tmp_path: Path) -> None:
    data = {"p": prompts(*(f"question {number}" for number in range(40)))}
    found = []
    with Scripted(pirate).up() as server:
        for number, (seed, order) in enumerate([(1, 1), (1, -1), (2, 1)]):
            params = {**PARAMS, "limit": 10, "seed": seed}
            made = run(tmp_path / str(number), "context_distillation", params, {"p": data["p"][::order]}, endpoint=server)
            found.append([row["prompt"] for row in made.rows["train"]])
    assert len(found[0]) == 10 and found[0] == found[1] and set(found[0]) != set(found[2])


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    data = {"p": prompts(*(f"question {number:02}" for number in range(40)))}
    waiting = [0]

    def dies(body: dict[str, Any]) -> Reply:
        waiting[0] += 1
        return pirate(body) if waiting[0] <= 25 else Reply(status=401)

    with Scripted(dies).up() as server, pytest.raises(Exception, match="does not accept the key"):
        run(tmp_path, "context_distillation", PARAMS, data, endpoint=server)
    kept = (tmp_path / "answered.jsonl").read_bytes()
    had = {last(body) for body in server.asked[:25]}
    count = kept.count(b"\n")
    assert 16 <= count <= 25 and KEY.encode() not in kept
    (tmp_path / "answered.jsonl").write_bytes(kept + b'["half a li')  # a kill in the middle of a line
    with Scripted(pirate).up() as again, Scripted(pirate).up() as fresh:
        resumed = run(tmp_path, "context_distillation", PARAMS, data, endpoint=again)
        whole = run(tmp_path / "whole", "context_distillation", PARAMS, data, endpoint=fresh)
    assert len(again.asked) == 40 - count and len(fresh.asked) == 40
    assert len({last(body) for body in again.asked} & had) == 25 - count  # only what had not arrived any more
    assert resumed.rows == whole.rows and resumed.report == whole.report


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"system": "x"}, "prompts"),
        ({"prompts": "p", "system": "  "}, "system"),
        ({**PARAMS, "answers": 0}, "answers"),
        ({**PARAMS, "temperature": 3}, "temperature"),
        ({**PARAMS, "leave_out": ["all"]}, "leave_out.0"),
        ({**PARAMS, "teacher": "x"}, "teacher"),
    ],
)
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("context_distillation", params)
    assert found.value.field == field
