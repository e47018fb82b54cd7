"""AI feedback: both orders are asked and averaged, or must agree; the bias for a place is reported; reckoned by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from app import recipes
from app.errors import Invalid
from app.recipes.judging import Judge, Pair
from tests.recipes.scripted import Reply, Scripted, last, prompts, run

PARAMS = {"prompts": "p", "principles": ["Be short."]}
ROWS = {"p": prompts("one", "two", "three")}


def shown(body: dict[str, Any]) -> tuple[str, str]:
    """The two answers a judge is shown."""
    found = re.search(r"\[Answer A\]\n(.*)\n\n\[Answer B\]\n(.*)\n\n\[Question\]", last(body), re.DOTALL)
    assert found
    return found[1], found[2]


def is_judged(body: dict[str, Any]) -> bool:
    return "[Answer A]" in last(body)


def written(body: dict[str, Any]) -> str:
    """Two different answers to each prompt: of one word and of three, told apart by the seed alone."""
    known = SEEDS.setdefault(last(body), [])
    if body["seed"] not in known:
        known.append(body["seed"])
    return last(body) if known.index(body["seed"]) == 0 else f"{last(body)} and more"


SEEDS: dict[str, list[int]] = {}


def test_probabilities_of_both_orders_are_averaged(tmp_path: Path) -> None:
    SEEDS.clear()

    def answer(body: dict[str, Any]) -> Reply | str:
        if not is_judged(body):
            return written(body)
        first, second = shown(body)
        # Likes the shorter answer (by 1.0 in log-odds) and the first place (by 2.0), so that the place wins without averaging.
        lead = 2.0 + (1.0 if len(first) < len(second) else -1.0)
        return Reply("A", logs={"A": -math.log1p(math.exp(-lead)), "B": -math.log1p(math.exp(lead))})

    with Scripted(answer).up() as server:
        made = run(tmp_path, "ai_feedback", PARAMS, ROWS, endpoint=server)
    rows = made.rows["train"]
    assert sorted((row["prompt"], row["chosen"], row["rejected"]) for row in rows) == [
        (text, text, f"{text} and more") for text in ("one", "three", "two")
    ]
    high, low = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(-1))  # P(first place), where the short one stands there and where it does not
    for row in rows:
        first, second, judged = row["steps"]
        short_first = first["answer"] == row["prompt"]
        assert {first["answer"], second["answer"]} == {row["chosen"], row["rejected"]} and judged["principle"] == "Be short."
        where_second, where_first = (1 - high, low) if short_first else (1 - low, high)
        assert judged["where_second"] == pytest.approx(where_second) and judged["where_first"] == pytest.approx(where_first)
        assert judged["second_picked"] == pytest.approx((where_second + where_first) / 2)
        assert judged["certainty"] == pytest.approx(abs(where_second + where_first - 1))
    figures = made.report["figures"]
    assert figures["first_place"] == pytest.approx((high + low) / 2) and figures["flips"] == 1
    assert "picked with a probability of 84 %".replace(" %", "%") in made.report["words"][-2]
    assert len([body for body in server.asked if is_judged(body)]) == 6
    pairs = {frozenset(shown(body)) for body in server.asked if is_judged(body)}
    assert len(pairs) == 3 and {shown(body)[0] for body in server.asked if is_judged(body)} >= {"one", "one and more"}


def test_without_probabilities_both_orders_must_agree(tmp_path: Path) -> None:
    SEEDS.clear()

    def answer(body: dict[str, Any]) -> Reply | str:
        if not is_judged(body):
            return written(body)
        first, second = shown(body)
        if "one" in first:
            return "A" if len(first) < len(second) else "B"  # the shorter one, wherever it stands
        return "A" if "two" in first else "Both are good."  # always the first; and no letter

    with Scripted(answer).up() as server:
        made = run(tmp_path, "ai_feedback", PARAMS, ROWS, endpoint=server)
    [row] = made.rows["train"]
    assert (row["prompt"], row["chosen"], row["rejected"], row["steps"][2]["certainty"]) == ("one", "one", "one and more", 1)
    assert {row["steps"][2]["named"], row["steps"][2]["named_swapped"]} == {"A", "B"}
    assert made.report["counts"] == {"prompts": 3, "pairs judged otherwise when swapped": 1, "pairs without a verdict": 1}
    assert made.report["figures"] == {"first_place": 0.75, "flips": 0.5}


def test_answers_of_a_preference_dataset_are_judged_anew(tmp_path: Path) -> None:
    data = {"p": [{"prompt": f"q{number}", "chosen": f"long answer {number}", "rejected": f"short {number}"} for number in range(12)]}
    data["p"].append({"prompt": "same", "chosen": "It is", "rejected": "it  is"})

    def answer(body: dict[str, Any]) -> Reply:
        assert is_judged(body), "nothing is written"
        first, second = shown(body)
        lead = 2.0 if len(first) < len(second) else -2.0
        return Reply("A", logs={"A": lead - 5, "B": -5})

    with Scripted(answer).up() as server:
        made = run(tmp_path, "ai_feedback", PARAMS, data, endpoint=server, shapes={"p": "preference"})
    assert len(made.rows["train"]) == 12 and all(row["chosen"].startswith("short") for row in made.rows["train"])
    assert {row["steps"][0]["answer"].split()[0] for row in made.rows["train"]} == {"long", "short"}, "the row's order is not kept"
    assert made.report["counts"] == {"prompts": 13, "pairs of the same answer": 1} and made.report["figures"]["flips"] == 0
    assert made.report["figures"]["first_place"] == pytest.approx(0.5)
    assert recipes.check("ai_feedback", PARAMS)[1].writers(["preference"]) == ["judge"]  # type: ignore[attr-defined]


def test_unsure_pairs_ties_and_unusable_answers(tmp_path: Path) -> None:
    SEEDS.clear()

    def answer(body: dict[str, Any]) -> Reply | str:
        if not is_judged(body):
            return "I cannot say." if last(body) == "three" else written(body)
        first, second = shown(body)
        lead = 0.0 if "two" in first else 0.4 if len(first) < len(second) else -0.4
        return Reply("A", logs={"A": lead - 3, "B": -3})

    with Scripted(answer).up() as server:
        made = run(tmp_path, "ai_feedback", {**PARAMS, "least_certainty": 0.3}, ROWS, endpoint=server)
    assert made.rows["train"] == []
    assert made.report["counts"] == {"prompts": 3, "refusals": 2, "ties": 1, "pairs the judge is not sure of": 1}


def test_principles_are_drawn_by_the_seed(tmp_path: Path) -> None:
    SEEDS.clear()
    rows = {"p": prompts(*(f"question {number}" for number in range(20)))}
    with Scripted(lambda body: Reply("A", logs={"A": -0.1, "B": -2.5}) if is_judged(body) else written(body)).up() as server:
        run(tmp_path, "ai_feedback", {**PARAMS, "principles": [" Be short. ", "Be kind."]}, rows, endpoint=server)
    asked = [re.search(r"Principle: (.*)", last(body))[1] for body in server.asked if is_judged(body)]  # type: ignore[index]
    assert set(asked) == {"Be short.", "Be kind."} and len(asked) == 40
    of_pair: dict[frozenset[str], set[str]] = {}
    for body, principle in zip([each for each in server.asked if is_judged(each)], asked, strict=True):
        of_pair.setdefault(frozenset(shown(body)), set()).add(principle)
    assert len(of_pair) == 20 and all(len(each) == 1 for each in of_pair.values()), "both orders are asked about the same principle"


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"prompts": "p", "principles": []}, "principles"),
        ({**PARAMS, "principles": ["  "]}, "principles"),
        ({**PARAMS, "least_certainty": 1}, "least_certainty"),
    ],
)
def test_settings_that_cannot_be_used(params: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as found:
        recipes.check("ai_feedback", params)
    assert found.value.field == field


@pytest.mark.train
def test_a_checkpoint_judges_by_its_probabilities(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from app.recipes.judging import _asked
    from tests.models import tiny_llama_folder
    from tests.recipes.scripted import Told
    from worker import generate
    from worker.writing import Writing
    from worker.writing_journal import Journal

    tiny = {"path": str(tiny_llama_folder()), "adapter": None, "name": "tiny"}
    journal = Journal(tmp_path / "j")
    maker = Writing({"checkpoints": {"t": tiny}, "datasets": {}, "endpoint": None}, journal, Told())  # type: ignore[arg-type]
    pair = Pair([{"role": "user", "content": "Hi"}], "Ho", "Hello there", "Which?")
    [verdict] = Judge(maker, "t")([pair])
    journal.close()
    speaker = generate.load(tiny_llama_folder())
    picked = []
    for swapped in (False, True):
        ids = speaker.tokenizer.apply_chat_template(
            _asked(pair, swapped), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            logits = speaker.model(**ids).logits[0, -1]
        a, b = (logits[speaker.tokenizer.convert_tokens_to_ids(letter)] for letter in ("A", "B"))
        picked.append(float(torch.sigmoid(a - b if swapped else b - a)))
    assert verdict.detail["where_second"] == pytest.approx(picked[0], abs=1e-5)
    assert verdict.detail["where_first"] == pytest.approx(picked[1], abs=1e-5)
    assert verdict.detail["second_picked"] == pytest.approx(sum(picked) / 2, abs=1e-5)
