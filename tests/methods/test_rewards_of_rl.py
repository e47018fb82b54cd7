"""Rewards: each rule by hand, bad settings in words, models and judges as what they are, and several added up."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from app import references, rewards
from app.errors import Invalid
from app.methods import service
from app.methods.grpo import GrpoParams
from app.rewards.base import Answered
from app.rewards.numeric_answer import last_number
from app.rewards.rubric import questions
from tests.models import tiny_llama_folder

READ: TypeAdapter[Any] = TypeAdapter(rewards.RewardSettings)


def score(settings: dict[str, Any], text: str, expected: str | None = None, tokens: int = 0) -> float:
    params = READ.validate_python(settings)
    return rewards.of(params).score(params, Answered("Q?", text, tokens, expected))


@pytest.mark.parametrize(
    ("settings", "text", "expected", "found"),
    [
        ({"kind": "exact_match"}, "  Paris ", "paris", 1),
        ({"kind": "exact_match", "ignore_case": False}, "Paris", "paris", 0),
        ({"kind": "exact_match"}, "New\n York", "new york", 1),
        ({"kind": "exact_match"}, "Paris.", "Paris", 0),
        ({"kind": "exact_match", "ignore_punctuation": True}, "(Paris).", "Paris", 1),
        ({"kind": "numeric_answer"}, "3 times 357.33 is 1,072.", "#### 1072", 1),
        ({"kind": "numeric_answer"}, "It is 1.50", "1.5", 1),
        ({"kind": "numeric_answer"}, "It is −7", "5-12=-7", 1),
        ({"kind": "numeric_answer"}, "7", "-7", 0),
        ({"kind": "numeric_answer"}, "3.14", "3.14159", 0),
        ({"kind": "numeric_answer", "tolerance": 0.01}, "3.14", "3.14159", 1),
        ({"kind": "numeric_answer"}, "no idea", "12", 0),
        ({"kind": "numeric_answer"}, "12", "none", 0),
        ({"kind": "numeric_answer"}, "9" * 400, "9" * 399 + "8", 0),
        ({"kind": "similarity"}, "the cat sat", "The cat sat on it", 2 * 3 / 8),
        ({"kind": "similarity"}, "a a a", "a", 2 * 1 / 4),
        ({"kind": "similarity"}, "dogs", "cats", 0),
        ({"kind": "similarity"}, "...", "cats", 0),
        ({"kind": "similarity", "measure": "characters"}, "abcd", "abxx", 2 * 2 / 8),
        ({"kind": "length", "target": 4}, "one two three", None, 0.75),
        ({"kind": "length", "target": 4}, "1 2 3 4 5", None, 0.75),
        ({"kind": "length", "target": 2}, "1 2 3 4 5", None, 0),
        ({"kind": "length", "unit": "characters", "minimum": 4}, "ab", None, 0.5),
        ({"kind": "length", "unit": "characters", "maximum": 4}, "abcdef", None, 0.5),
        ({"kind": "length", "unit": "characters", "minimum": 2, "maximum": 4}, "abc", None, 1),
        ({"kind": "length", "minimum": 3}, "", None, 0),
        ({"kind": "json_valid"}, ' {"a": [1, 2]} ', None, 1),
        ({"kind": "json_valid"}, '{"a": NaN}', None, 0),
        ({"kind": "json_valid"}, '{"a": 1} there', None, 0),
        ({"kind": "json_valid"}, "[" * 9000, None, 0),
        ({"kind": "json_valid"}, '```json\n{"a": 1}\n```', None, 1),
        ({"kind": "json_valid", "fenced": False}, '```json\n{"a": 1}\n```', None, 0),
        ({"kind": "json_valid", "keys": ["a", "b"]}, '{"a": 1}', None, 0.5),
        ({"kind": "json_valid", "keys": ["a"]}, '["a"]', None, 0),
        ({"kind": "json_valid"}, '"' + "x" * 30_000 + '"', None, 0),
        ({"kind": "format", "begins_with": "<a>", "ends_with": "</a>"}, " <a>7</a>\n", None, 1),
        ({"kind": "format", "begins_with": "<a>", "contains": ["7", "8"], "forbids": ["sorry"]}, "Sorry 7", None, 0.5),
        ({"kind": "format", "forbids": ["sorry"], "ignore_case": True}, "Sorry 7", None, 0),
    ],
)
def test_each_rule_by_hand(settings: dict[str, Any], text: str, expected: str | None, found: float) -> None:
    assert score(settings, text, expected) == pytest.approx(found)


def test_tokens_are_those_of_the_model() -> None:
    assert score({"kind": "length", "unit": "tokens", "target": 10}, "x", tokens=5) == 0.5


@pytest.mark.parametrize(
    ("text", "number"),
    [("1,072.", "1072"), ("a1b-2", "2"), ("x = -2", "-2"), ("1e3", "1E+3"), ("$.5", "0.5"), ("12,34", "34"), ("none", None)],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    found = last_number(text)
    assert (None if found is None else str(found)) == number


def test_a_pattern_that_explodes_is_stopped_and_named() -> None:
    pytest.importorskip("regex")
    assert score({"kind": "regex", "pattern": r"\A\d{4}-\d\d\Z"}, "2024-05") == 1
    assert score({"kind": "regex", "pattern": "YES", "ignore_case": True}, "oh yes") == 1
    assert score({"kind": "regex", "pattern": "sorry", "absent": True}, "sorry") == 0
    with pytest.raises(ValueError, match="took longer than a second"):
        score({"kind": "regex", "pattern": r"(?:a|a|b)+(?:a|aa)+$"}, "a" * 5000 + "c")
    assert score({"kind": "regex", "pattern": "end"}, "x" * 30_000 + "end") == 0, "what comes after 20,000 characters is not looked at"


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ([], "params.rewards", "Name at least one"),
        ("nonsense", "params.rewards", "written as JSON"),
        ([{"maximum": 3}], "params.rewards", "needs its kind"),
        ([{"kind": "lenght", "maximum": 3}], "params.rewards", "Did you mean “length”?"),
        ([{"kind": "length"}], "params.rewards.0", "set target"),
        ([{"kind": "length", "target": 3, "minimum": 2}], "params.rewards.0", "does not go with"),
        ([{"kind": "length", "minimum": 5, "maximum": 2}], "params.rewards.0", "is more than the maximum"),
        ([{"kind": "regex", "pattern": "("}], "params.rewards.0.pattern", "no regular expression"),
        ([{"kind": "regex", "pattern": "a" * 301}], "params.rewards.0.pattern", "at most 300"),
        ([{"kind": "format"}], "params.rewards.0", "begins_with"),
        ([{"kind": "rubric", "checkpoint": "cp_1", "rules": [" "]}], "params.rewards.0.rules", "A rule is empty"),
        ([{"kind": "rubric", "checkpoint": "cp_1", "rules": []}], "params.rewards.0.rules", "no rule to ask about"),
        ([{"kind": "similarity", "weight": 0}], "params.rewards", "nothing to learn from"),
        ([{"kind": "similarity", "weight": float("nan")}], "params.rewards.0.weight", "finite"),
        ([{"kind": "model", "model": "cp_1"}], "params.rewards.0.checkpoint", "needed"),
        ([{"kind": "similarity", "colour": 1}], "params.rewards.0.colour", "no such field|no setting"),
    ],
)
def test_what_is_wrong_with_rewards_is_said(given: Any, field: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        service.validate("grpo", "lora", {"rewards": given}, {}, "prompt_completion")
    assert refused.value.field == field
    assert any(each in refused.value.message for each in words.split("|")), refused.value.message


def test_rewards_can_be_typed_as_json_and_survive_a_second_time() -> None:
    params, _ = service.validate("grpo", "lora", {"rewards": '{"kind": "length", "maximum": 50, "weight": -1}'}, {}, "prompt")
    assert params["rewards"] == [{"kind": "length", "weight": -1.0, "unit": "words", "target": None, "minimum": None, "maximum": 50}]
    assert service.validate("grpo", "lora", params, {}, "prompt")[0] == params
    schema = GrpoParams.model_json_schema()
    assert {"length", "model", "rubric"} <= set(schema["properties"]["rewards"]["items"]["discriminator"]["mapping"])
    for kind in rewards.registry().values():
        assert kind.params.model_config["title"] == kind.title and kind.params.__doc__ == kind.summary  # what forms show
        assert all(field.description and field.title for name, field in kind.params.model_fields.items() if name != "kind")


def test_texts_can_be_typed_in_lines() -> None:
    for typed in ("Be kind.\n\n Be short. ", '["Be kind.", "Be short."]', ["Be kind.", "Be short."]):
        assert READ.validate_python({"kind": "rubric", "checkpoint": "cp_1", "rules": typed}).rules == ["Be kind.", "Be short."]


def test_checkpoints_that_rewards_name_are_found() -> None:
    given = [
        {"kind": "similarity"},
        {"kind": "model", "checkpoint": "cp_a"},
        {"kind": "rubric", "checkpoint": "cp_b", "rules": ["Be kind."]},
    ]
    found = list(references.named(GrpoParams.model_validate({"rewards": given})))
    assert [(each.field, each.id, each.tasks) for each in found] == [
        ("rewards.1.checkpoint", "cp_a", ("reward", "score")),
        ("rewards.2.checkpoint", "cp_b", ("policy",)),
    ]


def test_rewards_that_need_an_answer_refuse_rows_of_prompts() -> None:
    from app import methods

    grpo: Any = methods.registry()["grpo"]
    params = GrpoParams.model_validate({"rewards": [{"kind": "exact_match"}, {"kind": "length", "maximum": 3}]})
    assert grpo.misfit(params, True) is None
    assert "the reward exact_match compares with the answer of a row" in grpo.misfit(params, False)
    [(field, words)] = grpo.problems_with(params, "prompt")
    assert field == "params.rewards" and words.startswith("The reward exact_match") and words.endswith("rows with answers.")
    assert not list(grpo.problems_with(params, "chat"))
    assert grpo.misfit(GrpoParams.model_validate({"rewards": [{"kind": "length", "maximum": 3}]}), False) is None


SHOUT = '''
"""A reward somebody dropped in."""

from typing import Literal

from app.rewards.base import Reward, RewardParams


class ShoutParams(RewardParams):
    kind: Literal["shout"] = "shout"


class Shout(Reward):
    name = "shout"
    title = "Shout"
    summary = "Capitals."
    params = ShoutParams

    def score(self, params, answered):
        return float(answered.text.isupper())
'''


@pytest.fixture
def dropped_in(tmp_path: Path) -> Iterator[None]:
    folder = tmp_path / "app.rewards"
    folder.mkdir()
    (folder / "shout.py").write_text(SHOUT)
    rewards.__path__.append(str(folder))
    importlib.invalidate_caches()
    yield
    rewards.__path__.pop()
    sys.modules.pop("app.rewards.shout", None)
    vars(rewards).pop("shout", None)


def test_a_file_that_is_dropped_in_is_a_reward(dropped_in: None) -> None:
    assert rewards.registry()["shout"].title == "Shout"
    params = TypeAdapter(rewards._settings()).validate_python({"kind": "shout"})
    assert rewards.of(params).score(params, Answered("", "HO", 1)) == 1


# --- with models ----------------------------------------------------------------------------------------------------------


def given(text: str, prompt: str = "Say it.", expected: str | None = None) -> Answered:
    return Answered([{"role": "user", "content": prompt}], text, 3, expected)


def with_other_tokens(folder: Path) -> Path:
    """The tiny model with a tokenizer that numbers its tokens the other way round, as that of another family would."""
    shutil.copytree(tiny_llama_folder(), folder)
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    special = {each["content"] for each in told["added_tokens"]}
    vocabulary = told["model"]["vocab"]
    plain = [token for token in vocabulary if token not in special]
    vocabulary.update(zip(plain, [vocabulary[token] for token in reversed(plain)], strict=True))
    file.write_text(json.dumps(told))
    return folder


@pytest.mark.train
def test_a_reward_model_gives_what_it_gives_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from tests.methods import child, toys
    from worker import rewards as scoring
    from worker.engines import rewarding
    from worker.engines.rewarding import Rewards

    job = toys.spec(tmp_path, "score", "lora", toys.ratings, max_steps=20, learning_rate=5e-3)
    _, report = child.run(job)
    checkpoint = {"path": job["model"]["path"], "adapter": report.of("checkpoint")[-1]["folder"], "name": "stars"}
    params = [
        READ.validate_python({"kind": "model", "checkpoint": "cp_1", "weight": 2}),
        READ.validate_python({"kind": "length", "target": 4}),
    ]
    answers = [given("kind warm true calm"), given("rude cold"), given("mean")]
    made = Rewards(params, {"cp_1": checkpoint}, "cpu", "float32")
    columns = made.columns(answers)
    expected = scoring.score(checkpoint, [[*each.prompt, {"role": "assistant", "content": each.text}] for each in answers])
    assert columns[0] == pytest.approx(expected, abs=1e-5) and columns[1] == [1, 0.5, 0.25]
    assert made.total(columns).tolist() == pytest.approx([2 * one + two for one, two in zip(*columns, strict=True)], abs=1e-5)
    assert made.figures(columns) == pytest.approx({"rewards/model": sum(expected) / 3, "rewards/length": 1.75 / 3}, abs=1e-5)

    judge = {"path": job["model"]["path"], "adapter": None, "name": "judge"}
    both = [{"kind": "model", "checkpoint": "cp_1"}, {"kind": "rubric", "checkpoint": "cp_2", "rules": ["It is kind."]}]
    learner = child.spec(
        tmp_path / "rl", "rloo", "lora", params={"rewards": both, "max_steps": 1}, others={"cp_1": checkpoint, "cp_2": judge}
    )
    learner["model"]["path"] = str(with_other_tokens(tmp_path / "other"))
    scored: list[tuple[Answered, float]] = []
    of_model = rewarding.ScoredByModel.__call__

    def listen(self: Any, answers: Sequence[Answered]) -> Sequence[float]:
        found = of_model(self, answers)
        scored.extend(zip(answers, found, strict=True))
        return found

    monkeypatch.setattr(rewarding.ScoredByModel, "__call__", listen)
    _, report = child.run(learner)
    again = scoring.score(checkpoint, [{"prompt": each.prompt, "completion": each.text} for each, _ in scored])
    assert len(scored) >= 4 and [number for _, number in scored] == pytest.approx(again, abs=1e-5), "it reads texts by its own tokenizer"
    assert 0 < report.curve("rewards/rubric")[1] < 1 and report.curve("reward")[1] == pytest.approx(
        report.curve("rewards/model")[1] + report.curve("rewards/rubric")[1], abs=1e-5
    )


@pytest.mark.train
def test_a_rubric_is_the_chance_of_yes_over_rules_and_both_orders() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from worker.engines.rewarding import Rewards

    params = READ.validate_python({"kind": "rubric", "checkpoint": "cp_1", "rules": ["It is polite.", "It is short, by all means."]})
    answers = [given("Thank you!"), given("No.")]
    made = Rewards([params], {"cp_1": {"path": str(tiny_llama_folder()), "adapter": None, "name": "judge"}}, "cpu", "float32")
    found = made.columns(answers)
    assert made.figures(found) == {}, "one reward needs no curve of its own"

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_llama_folder()), AutoModelForCausalLM.from_pretrained(tiny_llama_folder()).eval()
    a, b = (tokenizer(letter)["input_ids"][0] for letter in "AB")

    def shares(text: str) -> Any:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=True)["input_ids"]
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)

    for answer, number in zip(answers, found[0], strict=True):
        yes = []
        for rule in params.rules:
            first, second = questions(rule, answer.prompt, answer.text)
            assert "A: yes\nB: no" in first and "A: no\nB: yes" in second and rule in first and answer.text in first and "Say it." in first
            for text, right, wrong in ((first, a, b), (second, b, a)):
                share = shares(text)
                yes.append(float(share[right] / (share[right] + share[wrong])))
        assert number == pytest.approx(math.fsum(yes) / 4, abs=1e-5)


@pytest.mark.train
def test_what_is_no_number_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from worker.engines.rewarding import Rewards
    from worker.reporting import Failed

    made = Rewards([READ.validate_python({"kind": "length", "target": 4})] * 2, {}, "cpu", "float32")
    assert made.names == ["length", "length_2"]
    made.parts[1] = lambda answers: [math.nan]
    with pytest.raises(Failed, match="length_2 gave no number"):
        made.columns([given("x")])
    with pytest.raises(Failed, match="are gone"):
        Rewards([READ.validate_python({"kind": "model", "checkpoint": "cp_9"})], {}, "cpu", "float32")
