"""Every method and tuner can be planned before it is started, and what the settings name is looked up there."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from app import methods, storage, tuners
from app.checkpoints.bits import Bits
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.plans.test_plan import CONFIG, SHAPES

pytestmark = pytest.mark.one_stack
NEEDED: dict[str, dict[str, Any]] = {
    name: {"rewards": [{"kind": "length", "maximum": 10}]} for name in ("grpo", "rloo", "ppo", "online_dpo")
}
PAIRS = [(method, tuner) for method, each in methods.registry().items() for tuner in each.accepts_tuners if tuner != "xlora"]


@pytest.fixture
def made(stack: Stack) -> dict[str, str]:
    """A model, others that settings may name, and a dataset of each shape."""
    with stack.database.write() as session:
        own = stack.workspace_id
        root = add_checkpoint(session, own, name="root", shapes=SHAPES, config={**CONFIG, "model_type": "llama"}, parameters=90_624)
        found = {
            "root": root,
            "teacher": add_checkpoint(session, own, name="teacher", shapes=SHAPES, config=CONFIG),
            "reward": add_checkpoint(session, own, name="judge", kind="full", config={"task": "reward"}),
            "importing": add_checkpoint(session, own, name="not yet", status="importing"),
            "lora": add_checkpoint(session, own, name="lora", kind="adapter", base_id=root.id, config={"peft_type": "LORA"}),
            "other lora": add_checkpoint(session, own, name="other lora", kind="adapter", base_id=root.id),
            "prefix": add_checkpoint(session, own, name="prefix", kind="adapter", base_id=root.id, config={"peft_type": "PREFIX_TUNING"}),
        }
        elsewhere = add_checkpoint(session, own, name="elsewhere")
        found["held lora"] = add_checkpoint(session, own, name="held lora", kind="adapter", base_id=root.id, path="checkpoints/held")
        storage.path("checkpoints/held").mkdir(parents=True)
        Bits("nf4").keep(storage.path("checkpoints/held"))
        found["stray lora"] = add_checkpoint(session, own, name="stray lora", kind="adapter", base_id=elsewhere.id)
        ids = {name: each.id for name, each in found.items()}
        shapes = {shape for each in methods.registry().values() for shape in each.consumes}
        return ids | {shape: add_dataset(session, own, shape=shape, rows=120, train_rows=100, eval_rows=20).id for shape in shapes}


def asked(made: dict[str, str], method: str, tuner: str, params: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A plan that can be made, but for what a test changes."""
    objective = methods.registry()[method]
    shape = "prompt_completion" if "prompt_completion" in objective.consumes else objective.consumes[0]
    needed = {"teacher": made["teacher"]} if method == "distill" else NEEDED.get(method, {})
    settings = {**needed, **(params or {})}
    if method == "pretrain" and tuners.registry()[tuner].traits & {"soft", "prefix"}:
        settings.setdefault("packing", False)
    return {"method": method, "tuner": tuner, "checkpoint": made["root"], "dataset": made[shape], "params": settings, **more}


def test_every_pair_can_be_planned(api: TestClient, made: dict[str, str]) -> None:
    for method, tuner in PAIRS:
        answer = api.post("/api/v1/runs/plan", json=asked(made, method, tuner))
        assert answer.status_code == 200, (method, tuner, answer.text)
        told = answer.json()
        assert told["steps"] > 0 and told["memory"]["total"] > 0, (method, tuner)
        assert told["trainable_parameters"] > 0 or method == "features", (method, tuner)


def test_every_other_pair_is_refused_with_its_reason_and_what_to_take(api: TestClient, made: dict[str, str]) -> None:
    refused = 0
    for method, objective in methods.registry().items():
        for tuner in set(tuners.registry()) - set(objective.accepts_tuners):
            answer = api.post("/api/v1/runs/plan", json=asked(made, method, tuner))
            error = answer.json()["error"]
            assert answer.status_code == 422 and error["field"] == "tuner", (method, tuner, answer.text)
            reason = objective.refusal(tuners.registry()[tuner])
            assert reason and reason.endswith(".") and reason in error["message"] and "Take one of:" in error["message"]
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("method", "tuner", "change", "field", "words"),
    [
        ("distill", "lora", {"params": {"teacher": "ckpt_none"}}, "params.teacher", "There is no such checkpoint"),
        (
            "distill",
            "lora",
            {"params": {"teacher": "reward"}},
            "params.teacher",
            "“judge” is a reward model; this needs one that writes text.",
        ),
        ("distill", "lora", {"params": {"teacher": "importing"}}, "params.teacher", "“not yet” is importing"),
        (
            "grpo",
            "lora",
            {"params": {"rewards": [{"kind": "length", "maximum": 9}, {"kind": "model", "checkpoint": "teacher"}]}},
            "params.rewards.1.checkpoint",
            "“teacher” writes text; this needs a reward model or a score model.",
        ),
        ("grpo", "lora", {"params": {"rewards": [{"kind": "length", "maximum": "many"}]}}, "params.rewards.0.maximum", "whole number"),
        ("grpo", "lora", {"params": {"rewards": []}}, "params.rewards", "at least"),
        ("sft", "xlora", {"tuner_params": {"adapters": ["lora", "stray lora"]}}, "tuner_params.adapters.1", "was trained on “elsewhere”"),
        (
            "sft",
            "xlora",
            {"tuner_params": {"adapters": ["lora", "held lora"]}},
            "tuner_params.adapters.1",
            "weights held in nf4",
        ),
        ("sft", "xlora", {"tuner_params": {"adapters": ["lora", "prefix"]}}, "tuner_params.adapters.1", "only LoRAs can be mixed"),
        ("sft", "xlora", {"tuner_params": {"adapters": ["lora", "teacher"]}}, "tuner_params.adapters.1", "is no adapter"),
        ("sft", "xlora", {"tuner_params": {"adapters": ["lora"]}}, "tuner_params.adapters", "at least 2"),
        ("sft", "xlora", {"tuner_params": {"adapters": ["lora", "lora"]}}, "tuner_params.adapters", "once"),
        ("sft", "lora", {"checkpoint": "prefix"}, "tuner", "Take the tuner prefix"),
        ("sft", "full", {"checkpoint": "prefix"}, "tuner", "cannot be merged into the weights"),
        ("sft", "lora", {"tuner_params": {"init": "pissa", "quantization": "nf4"}}, "tuner_params", "must not be quantised"),
        ("pretrain", "prompt", {"params": {"packing": True}}, "params.packing", "Switch packing off"),
        ("pretrain", "prefix", {"params": {"packing": True}}, "params.packing", "packing"),
        ("sft", "prefix", {"params": {"gradient_checkpointing": "on"}}, "params.gradient_checkpointing", "Set it to off or auto"),
    ],
)
def test_what_cannot_be_is_said_at_its_field(
    api: TestClient, made: dict[str, str], method: str, tuner: str, change: dict[str, Any], field: str, words: str
) -> None:
    def named(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: named(each) for name, each in value.items()}
        return [named(each) for each in value] if isinstance(value, list) else made.get(value, value) if isinstance(value, str) else value

    change = named(change)
    body = asked(made, method, tuner, change.pop("params", None)) | change
    for path in ("/api/v1/runs/plan", "/api/v1/runs"):
        answer = api.post(path, json=body)
        assert answer.status_code == 422, answer.text
        error = answer.json()["error"]
        assert error["field"] == field and words in error["message"], error


def test_a_mixture_can_be_planned_and_adapters_go_on(api: TestClient, made: dict[str, str]) -> None:
    mixed = asked(made, "sft", "xlora", tuner_params={"adapters": [made["lora"], made["other lora"]]})
    assert api.post("/api/v1/runs/plan", json=mixed).json()["trainable_parameters"] == 65 * 2
    for start, tuner in (("prefix", "prefix"), ("lora", "lora"), ("lora", "full"), ("other lora", "lora")):
        answer = api.post("/api/v1/runs/plan", json=asked(made, "sft", tuner, checkpoint=made[start]))
        assert answer.status_code == 200, (start, tuner, answer.text)


def test_other_models_are_in_the_memory_and_answers_in_the_tokens(api: TestClient, made: dict[str, str], stack: Stack) -> None:
    """A teacher is held beside the model; what a run writes is learned from, as often as it is used."""

    def planned(method: str, params: dict[str, Any]) -> dict[str, Any]:
        answer = api.post("/api/v1/runs/plan", json=asked(made, method, "lora", params))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    alone, taught = planned("sft", {})["memory"], planned("distill", {})["memory"]
    parts = ("weights", "gradients", "optimizer", "activations", "others")
    assert alone["others"] == 0 and taught["others"] == 2 * 90_624
    assert taught["total"] == sum(taught[part] for part in parts)
    model = {"rewards": [{"kind": "model", "checkpoint": made["reward"]}, {"kind": "length", "maximum": 3}]}
    assert planned("grpo", model)["memory"]["others"] > 0
    objective = methods.registry()["ppo"]
    params = objective.params(**NEEDED["ppo"], max_completion_length=50).model_dump()
    assert objective.tokens_a_row(params, 10.0) == 60 * params["ppo_epochs"]
    assert methods.registry()["sft"].tokens_a_row({}, 10.0) == 10.0
