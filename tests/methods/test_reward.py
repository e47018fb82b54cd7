"""A reward model: it learns a rule it was never told, keeps what it learned, uses margins, and is not mistaken for a model that writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.chats import service as chats
from app.errors import Invalid
from app.methods import service
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.methods import child, toys


def train(folder: Path, tuner: str = "lora", **params: Any) -> tuple[dict[str, Any], child.Kept]:
    job = toys.spec(folder, "reward", tuner, toys.pairs, **{"max_steps": 60, "learning_rate": 3e-3 if tuner == "lora" else 1e-3, **params})
    result, report = child.run(job)
    assert result["outcome"] == "finished"
    return job, report


@pytest.mark.train
@pytest.mark.parametrize("tuner", ["lora", pytest.param("full", marks=pytest.mark.every)])
def test_it_tells_better_from_worse_on_prompts_it_has_not_seen(tmp_path: Path, tuner: str) -> None:
    pytest.importorskip("torch")
    _, report = train(tmp_path, tuner)
    losses = report.curve("loss")
    assert min(losses.values()) < 0.5 * losses[1]
    assert report.curve("eval_rewards/accuracies")[60] > 0.9
    assert report.curve("eval_rewards/margins")[60] > 1
    assert all(report.curve(name)[60] for name in ("rewards/accuracies", "rewards/margins", "rewards/mean")) and not report.of("sample")
    told = report.of("checkpoint")[-1]
    assert (told["task"], told["tuner_kind"]) == ("reward", "adapter" if tuner == "lora" else "full")
    assert json.loads((Path(told["folder"]) / "head.json").read_text()) == {"task": "reward"}


@pytest.mark.train
def test_margins_are_on_every_row_and_can_be_left_unused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, used = train(tmp_path / "a", max_steps=1)
    _, unused = train(tmp_path / "b", max_steps=1, use_margin=False)
    assert used.curve("loss")[1] > unused.curve("loss")[1] + 0.05, "a third of the pairs has to win by 1"


@pytest.mark.train
def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    job = child.spec(tmp_path, "reward", "lora", params={"max_length": 56, "max_steps": 2})
    _, report = child.run(job)
    told = report.of("event")[0]
    assert told["name"] == "rows_dropped" and 0 < told["data"]["dropped"] < 24
    assert "rows are left out, because they are longer than the maximum length of 56 tokens" in told["message"]
    with pytest.raises(Failed, match=r"all answers are too long\. Raise max_length"):
        child.run({**job, "params": {**job["params"], "max_length": 16}})


@pytest.mark.train
def test_frozen_weights_in_bfloat16_leave_the_head_in_32_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    import torch
    from safetensors.torch import load_file

    from worker import loading

    monkeypatch.setattr(loading, "_cpu_has_bf16", lambda: True)
    _, report = train(tmp_path, max_steps=2, precision="auto")
    assert report.of("resolved")[0]["config"]["weights"] == "bfloat16"
    kept = load_file(Path(report.of("checkpoint")[-1]["folder"]) / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32} and "base_model.model.score.weight" in kept


@pytest.mark.train
def test_a_run_that_writes_does_not_start_from_it_and_another_reward_run_does(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    _, report = train(tmp_path / "first", max_steps=4)
    adapter = report.of("checkpoint")[-1]["folder"]
    policy = child.spec(tmp_path / "policy", "sft", "lora")
    with pytest.raises(Failed, match="gives numbers and no text"):
        child.run({**policy, "model": {**policy["model"], "adapter": adapter}})
    again = toys.spec(tmp_path / "again", "reward", "lora", toys.pairs, max_steps=1, learning_rate=1e-9)
    _, further = child.run({**again, "model": {**again["model"], "adapter": adapter}})
    assert further.curve("eval_rewards/margins")[1] == pytest.approx(report.curve("eval_rewards/margins")[4], abs=1e-4)


def test_what_makes_no_sense_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match="writes no answers that could be checked") as refused:
        service.validate("reward", "lora", {"answer_check": "last_integer"}, {}, "preference", has_eval=True)
    assert refused.value.field == "params.answer_check"
    with pytest.raises(Invalid, match="reward needs preference rows"):
        service.validate("reward", "lora", {}, {}, "chat")
    assert service.validate("reward", "lora", {}, {}, "preference")[0]["learning_rate"] == 3e-4


def test_a_reward_checkpoint_is_not_offered_where_text_is_wanted(api: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        base = add_checkpoint(session, stack.workspace_id, config=None)
        reward = add_checkpoint(session, stack.workspace_id, name="judge", kind="adapter", base_id=base.id, config={"task": "reward"})
        whole = add_checkpoint(session, stack.workspace_id, name="marks", kind="full", config={"hidden_size": 64, "task": "score"})
        data = add_dataset(session, stack.workspace_id)
        ids = {"checkpoint": reward.id, "dataset": data.id}
        assert [each.id for each in chats.askable(session, stack.workspace_id)] == [base.id]
        for each in (reward, whole):
            with pytest.raises(Invalid, match="gives numbers and writes no text"):
                chats.pick(session, stack.workspace_id, [each.id])
    for path in ("/api/v1/runs", "/api/v1/runs/plan"):
        refused = api.post(path, json={"method": "sft", "tuner": "lora", **ids})
        assert refused.status_code == 422 and "“judge” is a reward model" in refused.json()["error"]["message"], refused.text
    assert {each["name"]: each["task"] for each in api.get("/api/v1/checkpoints").json()["data"]} == {
        "judge": "reward",
        "marks": "score",
        "tiny": "policy",
    }


def test_the_checkpoint_of_a_run_says_what_it_does(stack: Stack) -> None:
    from app.checkpoints import heads
    from app.checkpoints import service as checkpoints
    from tests.factories import add_run

    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, method="reward")
        named: dict[str, Any] = {"workspace_id": stack.workspace_id, "run_id": run.id, "attempt": 1, "path": "x", "metrics": {}}
        named["manifest"] = {"files": {}}
        made = [
            checkpoints.commit_run_checkpoint(
                session, name=f"{kind} {task}", step=step, kind=kind, base_id=run.checkpoint_id, created_by=None, task=task, **named
            )
            for step, (kind, task) in enumerate([("adapter", "reward"), ("full", "score"), ("adapter", "policy"), ("full", "policy")], 1)
        ]
        assert [heads.task_of(each) for each in made] == ["reward", "score", "policy", "policy"]
        found = checkpoints.list_checkpoints(session, stack.workspace_id, kinds=["adapter", "full"], writing=True)
        assert [each.name for each in found] == ["full policy", "adapter policy"]


def test_a_plan_counts_the_pairs_that_are_too_long(api: TestClient, stack: Stack) -> None:
    from app import storage
    from app.datasets.tables import TokenCount

    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, shapes={"model.q_proj.weight": [64, 64]}, config={"hidden_size": 64})
        data = add_dataset(session, stack.workspace_id, shape="preference", rows=60, train_rows=60, sha256="x")
        ids = {"checkpoint": checkpoint.id, "dataset": data.id}
        path = f"{data.path}/tokens.npy"
        session.add(TokenCount(dataset_id=data.id, checkpoint_id=checkpoint.id, status="ready", path=path))
    file = storage.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.save(file, np.array([[10, 30, 90 if row < 12 else 40] for row in range(60)], dtype=np.uint32))
    np.save(file.with_suffix(".eval.npy"), np.zeros(60, dtype=bool))
    told = {}
    for method in ("reward", "dpo"):
        answer = api.post("/api/v1/runs/plan", json={"method": method, "tuner": "lora", "params": {"max_length": 64}, **ids})
        assert answer.status_code == 200, answer.text
        told[method] = answer.json()
    assert (told["reward"]["dropped_rows"], told["reward"]["cut_rows"], told["reward"]["steps"]) == (12, 0, 6)
    assert (told["dpo"]["dropped_rows"], told["dpo"]["cut_rows"], told["dpo"]["steps"]) == (0, 12, 8)
    assert any(
        "12 of 60 rows are left out, because they are longer than the maximum length" in each for each in told["reward"]["suggestions"]
    )
    assert told["reward"]["trainable_parameters"] == told["dpo"]["trainable_parameters"] + 64, "the head is trained too"


def test_what_is_written_for_an_export_names_the_class_with_a_head() -> None:
    from app.exports.schemas import ways
    from app.exports.tables import Export

    export = Export(file_name="judge-merged.zip", format="merged", facts={"base": "tiny", "task": "reward"}, sha256=None)
    assert [way.title for way in ways(export)] == ["transformers"] and "AutoModelForSequenceClassification" in ways(export)[0].text
    export.format = "adapter"
    assert "num_labels=1" in ways(export)[0].text and [way.title for way in ways(export)] == ["peft"]
