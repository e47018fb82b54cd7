"""A plan says, without torch and without starting anything, what a run would do and take, and what is not known yet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app import storage
from app.datasets.tables import TokenCount
from app.plans.memory import memory
from app.workers import service as workers
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset, add_run

CONFIG = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 259}
SHAPES = {
    "model.embed_tokens.weight": [259, 64],
    "model.norm.weight": [64],
    **{
        f"model.layers.{layer}.{name}.weight": shape
        for layer in (0, 1)
        for name, shape in {
            "self_attn.q_proj": [64, 64],
            "self_attn.k_proj": [32, 64],
            "self_attn.v_proj": [32, 64],
            "self_attn.o_proj": [64, 64],
            "mlp.gate_proj": [128, 64],
            "mlp.up_proj": [128, 64],
            "mlp.down_proj": [64, 128],
            "input_layernorm": [64],
            "post_attention_layernorm": [64],
        }.items()
    },
}


@pytest.fixture
def ids(stack: Stack) -> dict[str, str]:
    """A small model, 100 rows to train on and 20 to evaluate on."""
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, shapes=SHAPES, config=CONFIG, parameters=90_624)
        dataset = add_dataset(session, stack.workspace_id, rows=120, train_rows=100, eval_rows=20, sha256="x")
        return {"checkpoint": checkpoint.id, "dataset": dataset.id}


def count(stack: Stack, ids: dict[str, str], lengths: list[list[int]]) -> None:
    """Token lengths (prompt, whole row) as the counting job leaves them; the last 20 rows are for evaluation."""
    with stack.database.write() as session:
        known = session.get(TokenCount, (ids["dataset"], ids["checkpoint"])) or TokenCount(
            dataset_id=ids["dataset"], checkpoint_id=ids["checkpoint"]
        )
        known.status, known.path = "ready", f"datasets/{ids['dataset']}/tokens.npy"
        session.add(known)
        file = storage.path(known.path)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.array(lengths, dtype=np.uint32))
        np.save(file.with_suffix(".eval.npy"), np.array([row >= len(lengths) - 20 for row in range(len(lengths))]))


def add_worker(stack: Stack, memory_bytes: int, kind: str = "cpu") -> None:
    with stack.database.write() as session:
        devices = [{"name": "a processor", "kind": kind, "memory_bytes": memory_bytes, "bf16": True}]
        workers.register(session, lanes=["device", "cpu"], devices=devices, versions={}, problem=None)


def ask(api: TestClient, ids: dict[str, str], **changes: Any) -> dict[str, Any]:
    answer = api.post("/api/v1/runs/plan", json={"method": "sft", "tuner": "lora", **ids, **changes})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_until_the_tokens_are_counted_the_plan_says_so(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    for _ in range(2):
        told = ask(api, ids)
        assert told["counting"] is True and told["tokens"] is None and told["seconds"] is None and told["dropped_rows"] is None
        assert any("Counting" in note for note in told["notes"])
        assert (told["total_parameters"], told["trainable_parameters"], told["steps"]) == (90_624, 32_768, 13)
    with stack.database.read() as session:
        from app.jobs.tables import Job

        assert [job.kind for job in session.query(Job)] == ["count_tokens"], "asked for once"


def test_with_counted_tokens_the_plan_is_complete(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    add_worker(stack, 8 * 1024**3)
    # 90 rows of 40 tokens, 6 that are cut, 4 whose prompt alone is too long, and 20 rows for evaluation that do not count.
    count(stack, ids, [[30, 40]] * 90 + [[30, 80]] * 6 + [[60, 70]] * 4 + [[30, 1000]] * 20)
    told = ask(api, ids, params={"max_length": 50, "epochs": 2, "batch_size": 16, "gradient_accumulation": 2})
    assert (told["counting"], told["dropped_rows"], told["cut_rows"], told["rows"]) == (False, 4, 6, 100)
    assert told["steps"] == 6, "96 rows are 6 batches, 3 steps an epoch"
    assert told["tokens"] == 2 * (90 * 40 + 6 * 50)
    assert told["seconds"] > 0 and told["seconds_basis"] == "rough" and told["learning_rate"] == 2e-4
    assert told["memory"]["fits"] is True and told["memory"]["device_total"] == 8 * 1024**3
    assert told["memory"]["total"] == sum(told["memory"][name] for name in ("weights", "gradients", "optimizer", "activations"))
    assert any("4 of 100 rows are left out" in said for said in told["suggestions"])
    assert any("6 rows are cut" in said for said in told["suggestions"])


def test_time_is_measured_once_a_like_run_has_run(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    add_worker(stack, 8 * 1024**3)
    count(stack, ids, [[30, 40]] * 120)
    with stack.database.write() as session:
        for spent in (2.0, 4.0, 100.0):
            latest = {"tokens": 4000.0, "elapsed_seconds": spent}
            add_run(
                session, stack.workspace_id, status="succeeded", latest=latest, checkpoint_id=ids["checkpoint"], dataset_id=ids["dataset"]
            )
    told = ask(api, ids)
    assert (told["seconds"], told["seconds_basis"]) == (4.0, "measured")


def test_what_does_not_fit_is_said_with_what_to_do(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    assert ask(api, ids)["memory"]["fits"] is None
    assert any("No worker is there" in note for note in ask(api, ids)["notes"])
    add_worker(stack, 1024**3)
    count(stack, ids, [[30, 900]] * 120)
    told = ask(api, ids, tuner="full", params={"batch_size": 512})
    assert told["memory"]["fits"] is False and told["gradient_checkpointing"] is True
    assert any("Halve the batch size" in said and "LoRA" in said for said in told["suggestions"])


def test_wrong_settings_are_refused_as_they_would_be_at_the_start(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        pairs = add_dataset(session, stack.workspace_id, shape="preference").id
    body = {"method": "dpo", "tuner": "lora", **ids, "params": {"learning_rate": 3}}
    error = api.post("/api/v1/runs/plan", json=body).json()["error"]
    assert error["field"] == "params.learning_rate" and "Must be at most 1.0, and it is 3." in error["message"]
    assert [each["field"] for each in error["details"]] == ["params.learning_rate", "dataset"]
    assert api.post("/api/v1/runs/plan", json={**body, "dataset": "ds_none"}).status_code == 404
    misfit = api.post("/api/v1/runs/plan", json={**body, "method": "sft", "params": {}, "eval_dataset": pairs}).json()["error"]
    assert misfit["field"] == "eval_dataset" and "preference rows" in misfit["message"]
    told = ask(api, ids, tuner_params={"target_modules": "wrong_proj"}, params={"learning_rate": 0.01, "max_steps": 500})
    assert told["trainable_parameters"] == 0
    assert [any(word in said for said in told["suggestions"]) for word in ("all-linear", "0.0002 suits it")] == [True, True]


def test_a_plan_of_a_checkpoint_that_is_not_ready_says_so(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        other = add_checkpoint(session, stack.workspace_id, status="importing").id
    answer = api.post("/api/v1/runs/plan", json={"method": "sft", "tuner": "lora", **ids, "checkpoint": other})
    assert answer.status_code == 409 and "importing" in answer.json()["error"]["message"]


def test_memory_grows_with_what_is_trained_and_kept() -> None:
    base = {"trainable": 1000, "weight_bytes": 2, "family": "adapter", "tokens": 4096}
    lora = memory(SHAPES, CONFIG, **base)
    assert memory(SHAPES, CONFIG, **{**base, "tokens": 8192})["activations"] > 1.9 * lora["activations"]
    assert memory(SHAPES, CONFIG, **base, checkpointing=True)["activations"] < lora["activations"]
    full = memory(SHAPES, CONFIG, **{**base, "trainable": 90_624, "family": "full"})
    assert full["weights"] == 90_624 * 4 and full["gradients"] + full["optimizer"] == 90_624 * 12


def test_long_texts_are_split_and_packed_and_not_cut(api: TestClient, stack: Stack, ids: dict[str, str]) -> None:
    with stack.database.write() as session:
        text = add_dataset(session, stack.workspace_id, shape="text", rows=120, train_rows=100, eval_rows=20, sha256="t")
        ids = {**ids, "dataset": text.id}
    count(stack, ids, [[0, 50] if row % 2 else [0, 250] for row in range(120)])
    told = ask(api, ids, method="pretrain", params={"max_length": 100, "batch_size": 10})
    assert (told["dropped_rows"], told["cut_rows"], told["tokens"]) == (0, 0, 15_000)
    assert told["steps"] == 15, "150 rows of 100 tokens"
    told = ask(api, ids, method="pretrain", params={"max_length": 1000, "batch_size": 5})
    assert told["steps"] == 3
    told = ask(api, ids, method="pretrain", params={"max_length": 1000, "batch_size": 5, "packing": False})
    assert told["steps"] == 20
