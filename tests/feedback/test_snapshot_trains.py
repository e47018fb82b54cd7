"""Frozen ratings load into trl's trainers of every method and train: two steps on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from app import methods, storage
from app.datasets.tables import Dataset
from app.feedback import snapshots
from app.feedback.rules import FORMS, METHODS, Rules
from tests.conftest import Stack
from tests.feedback.rated import add_item, add_project, add_rater, rated_pairs, say
from tests.methods import child

# peft calls names of transformers that are to go; that is between the two.
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
@pytest.mark.parametrize("shape", ["preference", "margin", "unpaired", "rated", "prompt_completion", "chat"])
def test_a_snapshot_trains(stack: Stack, tmp_path: Path, shape: str) -> None:
    method = METHODS[shape]
    if method not in methods.registry():
        pytest.skip(f"there is no method {method}")
    rules: dict[str, Any] = {"shape": shape, "held_out": 0.25, "strong_pairs": True}
    with stack.database.write() as session:
        if shape == "rated":
            project = add_project(session, stack.workspace_id, "single")
            rater = add_rater(session, project)
            for number in range(16):
                item = add_item(session, project, f"{number} + 1 =", [f"It is {number + number % 5}."])
                say(session, item, rater, score=float(1 + number % 5), left=None)
        else:
            project = rated_pairs(session, stack.workspace_id, 24)
        snapshot = snapshots.freeze(session, project, Rules(**rules), None)
        dataset = session.get_one(Dataset, snapshot.dataset_id)
        assert dataset.train_rows >= 12 and dataset.eval_rows >= 4
    part = {"path": str(storage.path(f"{dataset.path}/rows.jsonl")), "shape": FORMS[shape], "sha256": dataset.sha256}
    job = child.spec(tmp_path / "job", method, "lora", params={"max_steps": 2, "eval_steps": 2})
    done, report = child.run({**job, "train": {**part, "split": "train"}, "eval": {**part, "split": "eval"}})
    losses = report.curve("loss")
    assert done and sorted(losses) == [1, 2] and all(0 < loss < 100 for loss in losses.values())
    if method == "dpo":
        assert losses[1] == pytest.approx(0.6931, abs=1e-3)
