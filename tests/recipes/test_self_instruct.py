"""Self-instruct: lists are read, tasks too like others, forbidden, too short or cut are left out and counted, the rest is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app.recipes.base import Answer
from app.recipes.self_instruct import SelfInstruct
from app.recipes.texts import alike, is_refusal, likeness, words
from tests.recipes.scripted import Reply, Scripted, last, prompts, run

SEEDS = ["Name three kinds of bread.", "Write a poem about the sea.", "Explain why the sky is blue.", "What is the capital of Chad?"]
PARAMS = {"seeds": "p", "rows": 4, "each": 4}


class Counts(dict[str, int]):
    """Stands for what counts."""

    def count(self, what: str, times: int = 1) -> None:
        self[what] = self.get(what, 0) + times


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("1. Name a fish.\n2. Count to ten.", ["Name a fish.", "Count to ten."]),
        ("Sure! Here they are:\n\n1) Name a fish.\n2) Write:\na\nb\n\n3: End", ["Name a fish.", "Write:\na\nb", "End"]),
        ("**1.** Name a fish.\n**Task 2:** Count.", ["Name a fish.", "Count."]),
        ("1.\n2. Count.", ["Count."]),
        ("Name a fish.", []),
    ],
)
def test_lists_of_tasks(text: str, tasks: list[str]) -> None:
    counts = Counts()
    assert SelfInstruct()._read(Answer(text), counts) == tasks  # type: ignore[arg-type]
    assert counts == ({} if tasks else {"lists that cannot be read": 1})
    assert SelfInstruct()._read(Answer(text, "length"), Counts()) == tasks[:-1]  # type: ignore[arg-type]


def test_likeness_is_rouge_l() -> None:
    assert likeness(["a", "b", "c", "d"], ["a", "x", "c", "d"]) == 0.75
    assert likeness(["a", "b", "c"], ["c", "b", "a"]) == pytest.approx(1 / 3)
    assert likeness([], ["a"]) == 0 and likeness(["a"], ["a"]) == 1
    pool = [words("Name three kinds of bread."), words("Explain why the sky is blue.")]
    for text, most, same in [
        ("name three kinds of cake", 0.7, True),
        ("name three kinds of cake", 0.81, False),
        ("kinds name of", 0.6, False),
    ]:
        assert alike(words(text), pool, most) is same is (max(likeness(words(text), each) for each in pool) >= most)


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I cannot help with that.", True),
        ("I'm sorry, but I can't do this.", True),
        ("Unfortunately, as things are, I am unable to say.", True),
        ("As an AI language model, I don't have opinions.", True),
        ("I’m not able to open links.", True),
        ("I can't believe it is summer already!", False),
        ("I'm sorry to hear that. Try some tea.", False),
        ("Sorry I am late, said the hare.", False),
        ("You can say: I cannot come.", False),
        ("", False),
    ],
)
def test_refusals(text: str, refuses: bool) -> None:
    assert is_refusal(text) is refuses


def test_new_tasks_are_made_and_answered(tmp_path: Path) -> None:
    lists = [
        "1. Name three kinds of bread!\n2. Draw a horse.\n3. Cook.\n4. Describe how a bicycle pump works.",
        "1. Translate “good morning” into Latin.\n2. describe how the bicycle pump works\n"
        "3. Give me an unethical plan.\n4. Say nothing at all please.",
        "1. List five rivers of Asia.\n2. Invent a name for a bakery.\n3. Plan a day in Rome and",
    ]
    replies = [Reply(lists[0]), Reply(lists[1]), Reply(lists[2], finish="length")]

    def answer(body: dict[str, Any]) -> Reply:
        if "Write 4 new tasks" in last(body):
            return replies.pop(0)
        return {"Give me an unethical plan.": Reply("I cannot do that."), "Say nothing at all please.": Reply("")}.get(
            last(body), Reply(f"Answer: {last(body)}")
        )

    with Scripted(answer).up() as server:
        made = run(tmp_path, "self_instruct", PARAMS, {"p": prompts(*SEEDS)}, endpoint=server)
    rows = made.rows["train"]
    assert [row["prompt"] for row in rows] == [
        "Describe how a bicycle pump works.",
        "Translate “good morning” into Latin.",
        "List five rivers of Asia.",
        "Invent a name for a bakery.",
    ]
    assert all(row["completion"] == f"Answer: {row['prompt']}" for row in rows)
    assert made.report["counts"] == {
        "requests for tasks": 3,
        "tasks too like others": 2,
        "tasks with a forbidden word": 1,
        "tasks too short or too long": 1,
        "refusals": 1,
        "empty": 1,
        "tasks cut at the limit": 1,
    }
    assert "Tasks too like others: 2." in made.report["words"]
    requests = [body for body in server.asked if "Write 4 new tasks" in last(body)]
    shown = [[text.strip() for text in re.findall(r"^\d+\. (.*)$", last(body), re.MULTILINE)] for body in requests]
    assert [len(each) for each in shown] == [3, 4, 4] and set(shown[0]) <= set(SEEDS)
    assert len(set(shown[1]) - set(SEEDS)) == 1 and "Describe how a bicycle pump works." in shown[1]  # a new one is shown too
    assert {body["temperature"] for body in requests} == {1.0} and rows[0]["steps"][0]["answer"] == lists[0]
    assert rows[0]["steps"][0]["asked"] == requests[0]["messages"] and len(server.asked) == 3 + 6
    assert made.told.progressed[0][:2] == (0, 4)


def test_it_ends_when_nothing_new_comes(tmp_path: Path) -> None:
    with Scripted(lambda _: "1. Name three kinds of bread.").up() as server:
        made = run(tmp_path, "self_instruct", PARAMS, {"p": prompts(*SEEDS)}, endpoint=server)
    assert made.rows["train"] == [] and len(server.asked) == made.report["counts"]["requests for tasks"] == 5
    assert made.report["figures"] == {"missing": 4} and "ended after 0 rows" in made.report["words"][-1]


def test_it_goes_on_without_asking_again(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        if "new tasks" in last(body):
            return "\n".join(f"{number}. Say {body['seed'] * number} in {number} other ways {body['seed']}" for number in range(1, 5))
        return f"Answer: {last(body)}"

    params = {**PARAMS, "rows": 12, "likeness": 1}
    count = [0]

    def dies(body: dict[str, Any]) -> Reply | str:
        count[0] += 1
        return answer(body) if count[0] <= 9 else Reply(status=401)

    with Scripted(dies).up() as server, pytest.raises(Exception, match="does not accept the key"):
        run(tmp_path, "self_instruct", params, {"p": prompts(*SEEDS)}, endpoint=server)
    had = (tmp_path / "answered.jsonl").read_bytes().count(b"\n")
    with Scripted(answer).up() as again, Scripted(answer).up() as fresh:
        resumed = run(tmp_path, "self_instruct", params, {"p": prompts(*SEEDS)}, endpoint=again)
        whole = run(tmp_path / "2", "self_instruct", params, {"p": prompts(*SEEDS)}, endpoint=fresh)
    assert had >= 5 and resumed.rows == whole.rows and len(whole.rows["train"]) == 12
    assert len(again.asked) == len(fresh.asked) - had


def test_no_seeds(tmp_path: Path) -> None:
    with Scripted(lambda _: "").up() as server, pytest.raises(ValueError, match="holds no prompt"):
        run(tmp_path, "self_instruct", PARAMS, {"p": prompts("  ")}, endpoint=server)
