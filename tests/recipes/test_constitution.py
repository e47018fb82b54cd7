"""Constitution: draft, critique and revision as they were asked for, all kept; preferences by the critic in both orders."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app import recipes
from app.errors import Invalid
from tests.recipes.scripted import Reply, Scripted, last, prompts, run

RULES = [
    {"id": "kind", "text": "Be kind.", "critique": "What is unkind?", "revision": "Say it kindly."},
    {"id": "short", "text": "Be short.", "critique": "What is too long?", "revision": "Say it shortly."},
]
PARAMS: dict[str, Any] = {"prompts": "p", "principles": RULES[:1]}


def answer(body: dict[str, Any]) -> Reply | str:
    asked, turns = last(body), len(body["messages"])
    if "[Answer A]" in asked:
        first = re.search(r"\[Answer A\]\n(.*)\n\n\[Answer B\]", asked, re.DOTALL)
        assert first
        lead = 1.5 if "kindly" in first[1] else -0.5  # likes the revision, and a little the first place
        if "worse when revised" in asked:
            lead = -1.5 if "kindly" in first[1] else 0.5
        return Reply("A", logs={"A": lead - 3, "B": -3.0})
    if asked == RULES[0]["critique"]:
        return "" if "no critique" in body["messages"][0]["content"] else f"Critique of: {body['messages'][-2]['content']}"
    if asked == RULES[0]["revision"]:
        first_prompt = body["messages"][0]["content"]
        if first_prompt == "unchanged":
            return str(body["messages"][-4]["content"])
        return {"cut": Reply("Cut off", finish="length"), "declined": Reply("I cannot say that kindly.")}.get(
            first_prompt, Reply(f"{body['messages'][-4]['content']} kindly")
        )
    assert turns == 1
    return "Draft of " + asked


def test_every_step_is_asked_for_and_kept(tmp_path: Path) -> None:
    with Scripted(answer).up() as server:
        made = run(tmp_path, "constitution", PARAMS, {"p": prompts("fish")}, endpoint=server)
    [row] = made.rows["train"]
    assert (row["prompt"], row["completion"]) == ("fish", "Draft of fish kindly")
    assert row["steps"] == [
        {"step": "draft", "answer": "Draft of fish", "finish": "stop"},
        {"step": "critique", "answer": "Critique of: Draft of fish", "finish": "stop", "principle": "kind", "asked": "What is unkind?"},
        {"step": "revision", "answer": "Draft of fish kindly", "finish": "stop", "principle": "kind", "asked": "Say it kindly."},
    ]
    talks = [body["messages"] for body in server.asked]
    draft = [{"role": "user", "content": "fish"}]
    critique = [*draft, {"role": "assistant", "content": "Draft of fish"}, {"role": "user", "content": "What is unkind?"}]
    revision = [*critique, {"role": "assistant", "content": "Critique of: Draft of fish"}, {"role": "user", "content": "Say it kindly."}]
    assert talks[:3] == [draft, critique, revision] and len(talks) == 5
    [pair] = made.rows["preferences"]
    assert (pair["chosen"], pair["rejected"]) == ("Draft of fish kindly", "Draft of fish") and pair["steps"][:3] == row["steps"]
    judged = pair["steps"][3]
    # P(revision) is sigmoid(1.5) where it stands first, and sigmoid(0.5) where it stands second.
    where = {"revision": (1 - 0.8175745, 1 - 0.6224593), "draft": (0.6224593, 0.8175745)}[judged["first"]]
    assert (judged["where_second"], judged["where_first"]) == pytest.approx(where, abs=1e-6)
    assert judged["certainty"] == pytest.approx(2 * (0.8175745 + 0.6224593) / 2 - 1, abs=1e-6) and judged["principle"] == "kind"
    assert "Principle: Be kind.\n" in last(server.asked[3]) and made.report["counts"] == {"prompts": 1, "pairs won by the revision": 1}
    assert made.report["figures"]["flips"] == 0


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    data = {"p": prompts("no critique", "cut", "declined", "unchanged", "worse when revised")}
    with Scripted(answer).up() as server:
        made = run(tmp_path / "1", "constitution", PARAMS, data, endpoint=server)
        strict = run(tmp_path / "2", "constitution", {**PARAMS, "leave_out": ["refusals", "cut"]}, data, endpoint=server)
    rows = {row["prompt"]: row["completion"] for row in made.rows["train"]}
    assert rows == {
        "declined": "I cannot say that kindly.",
        "unchanged": "Draft of unchanged",
        "worse when revised": "Draft of worse when revised kindly",
    }
    pairs = {row["prompt"]: row["chosen"] for row in made.rows["preferences"]}
    assert pairs == {"declined": "I cannot say that kindly.", "worse when revised": "Draft of worse when revised"}
    assert made.report["counts"] == {
        "prompts": 5,
        "critiques that are empty or could not be asked for": 1,
        "cut": 1,
        "refusals kept": 1,
        "revisions that change nothing": 1,
        "pairs won by the revision": 1,
        "pairs won by the draft": 1,
    }
    assert {row["prompt"] for row in strict.rows["train"]} == {"unchanged", "worse when revised"} and strict.report["counts"][
        "refusals"
    ] == 1


def test_several_revisions_take_different_principles(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        asked = last(body)
        return f"{body['messages'][-4]['content']} + {asked}" if asked.startswith("Say it") else f"re: {asked}"

    params = {**PARAMS, "principles": RULES, "revisions": 3, "preferences": False}
    with Scripted(answer).up() as server:
        made = run(tmp_path, "constitution", params, {"p": prompts(*(f"question {number}" for number in range(12)))}, endpoint=server)
    assert set(made.rows) == {"train"} and len(server.asked) == 12 * 7
    orders = set()
    for row in made.rows["train"]:
        used = [step["principle"] for step in row["steps"] if step["step"] == "revision"]
        orders.add(tuple(used))
        assert set(used[:2]) == {"kind", "short"} and len(used) == 3
        says = {"kind": "Say it kindly.", "short": "Say it shortly."}
        assert row["completion"] == " + ".join([f"re: {row['prompt']}", *(says[name] for name in used)])
    assert len(orders) > 1, "the seed draws them"


def test_another_checkpoint_may_be_the_critic() -> None:
    kind, params = recipes.check("constitution", {**PARAMS, "writer": "a", "critic": "b"})
    assert kind.parts(params) == {"train": "", "preferences": "-preferences"}
    from app import references

    assert [(each.field, each.id) for each in references.named(params)] == [("writer", "a"), ("critic", "b")]
    defaults = recipes.check("constitution", {"prompts": "p"})[1]
    assert len({each.id for each in defaults.principles}) == len(defaults.principles) >= 4  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({**PARAMS, "principles": []}, "principles"),
        ({**PARAMS, "principles": [{**RULES[0], "revision": " "}]}, "principles.0.revision"),
        ({**PARAMS, "principles": [RULES[0], RULES[0]]}, "principles"),
        ({**PARAMS, "revisions": 0}, "revisions"),
    ],
)
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("constitution", params)
    assert found.value.field == field
