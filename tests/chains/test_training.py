"""The classic chain on a real worker: SFT, a reward model on it, and PPO from that, with a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

pytest.importorskip("torch", reason="needs the train extra")

from app import storage
from app.checkpoints import service as checkpoints
from app.runs.tables import Run
from tests.chains.links import run_of, statuses
from tests.conftest import Stack
from tests.factories import add_dataset
from tests.feedback.test_generation import add_model
from tests.methods.child import write_rows

pytestmark = [pytest.mark.train, pytest.mark.soak, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]
QUICK = {"max_steps": 2, "batch_size": 4, "precision": "fp32", "sample_tokens": 4, "learning_rate": 1e-3}


def _data(stack: Stack, shape: str) -> str:
    with stack.database.write() as session:
        dataset = add_dataset(session, stack.workspace_id, name=shape, shape=shape, rows=24, train_rows=24)
        storage.path(dataset.path).mkdir(parents=True)
        write_rows(storage.path(dataset.path) / "rows.jsonl", shape)
        return dataset.id


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_the_three_steps_train_one_after_the_other(stack: Stack, api: TestClient, work: Callable[..., None]) -> None:
    model = add_model(stack, "tiny").id
    rewards = [{"kind": "model", "checkpoint": "$2"}]
    last: dict[str, Any] = {**QUICK, "rewards": rewards, "max_completion_length": 8}
    asked = [
        {"method": "sft", "checkpoint": model, "dataset": _data(stack, "prompt_completion"), "params": QUICK},
        {"method": "reward", "checkpoint": "$1", "dataset": _data(stack, "preference"), "params": QUICK},
        {"method": "ppo", "checkpoint": "$1", "dataset": _data(stack, "prompt"), "params": last},
    ]
    answer = api.post("/api/v1/chains", json={"steps": asked})
    assert answer.status_code == 201, answer.text
    chain_id = answer.json()["id"]
    work()
    found = [
        run_of(stack, chain_id, number) for number in range(1, len([each for each in statuses(stack, chain_id) if each != "waiting"]) + 1)
    ]
    assert statuses(stack, chain_id) == ["succeeded"] * 3, [run.reason for run in found]
    sft, reward, rl = found
    with stack.database.read() as session:
        assert rl.checkpoint_id == checkpoints.of_run(session, sft.id)[0].id
        assert session.get_one(Run, rl.id).params["rewards"][0]["checkpoint"] == checkpoints.of_run(session, reward.id)[0].id
    assert "reward" in rl.latest, rl.latest
    assert api.get(f"/api/v1/chains/{chain_id}").json()["status"] == "succeeded"
