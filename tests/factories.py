"""Rows for tests that are not about how such rows come about."""

from __future__ import annotations

import secrets
from typing import Any

from sqlalchemy.orm import Session

from app import leases
from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.leases import Claim
from app.runs.tables import Run


def add_checkpoint(session: Session, workspace_id: str, **fields: Any) -> Checkpoint:
    """A ready base checkpoint (its files are not there)."""
    values = {
        "name": "tiny",
        "kind": "base",
        "status": "ready",
        "source": "folder",
        "parameters": 1000,
        "shapes": {},
        "config": {},
        **fields,
    }
    checkpoint = Checkpoint(workspace_id=workspace_id, **values)
    session.add(checkpoint)
    session.flush()
    return checkpoint


def add_dataset(session: Session, workspace_id: str, **fields: Any) -> Dataset:
    """A ready dataset of prompts and answers (its files are not there)."""
    name = f"data-{secrets.token_hex(4)}"
    values = {
        "name": name,
        "version": 1,
        "status": "ready",
        "shape": "prompt_completion",
        "rows": 10,
        "train_rows": 10,
        "source_name": "x.jsonl",
        "path": f"datasets/{name}",
        **fields,
    }
    dataset = Dataset(workspace_id=workspace_id, **values)
    session.add(dataset)
    session.flush()
    return dataset


def add_run(session: Session, workspace_id: str, **fields: Any) -> Run:
    """A queued run."""
    values: dict[str, Any] = {"name": "a run", "method": "sft", "tuner": "lora", "params": {"batch_size": 8}, **fields}
    if "checkpoint_id" not in values:
        values["checkpoint_id"] = add_checkpoint(session, workspace_id).id
    if "dataset_id" not in values:
        values["dataset_id"] = add_dataset(session, workspace_id).id
    run = Run(workspace_id=workspace_id, **values)
    session.add(run)
    session.flush()
    return run


def claim_run(session: Session) -> Claim:
    """Claim the next run as a worker would."""
    mine = leases.claim(session, Run, worker_id="w", lease_seconds=60, taken="preparing")
    assert mine is not None
    return mine
