"""What the tests of trackers share: a toy that is trained under the real supervisor, and what REST says about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from app.metrics import service as metrics
from app.runs.tables import Run, RunLog
from tests.factories import add_run
from worker import run_training
from worker.tasks import Station

TOTAL, SAVE = 12, 5


@pytest.fixture
def toy(stack: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Replaces what is trained, not how it is supervised."""
    extra: dict[str, Any] = {"total": TOTAL, "save": SAVE}

    def spec(session: Any, settings: Any, run: Run, folder: Path, device: str, resume: Path | None, resume_step: int) -> dict[str, Any]:
        return {
            "module": "tests.worker.toy_child",
            "lease_seconds": settings.lease_seconds,
            "run_id": run.id,
            "attempt": run.attempt,
            "work": str(folder),
            "resume_step": resume_step,
            "threads": 1,
            **extra,
        }

    monkeypatch.setattr(run_training, "_spec", spec)
    monkeypatch.setattr(run_training, "preload_env", dict)
    for name, value in (("lease_seconds", 3.0), ("heartbeat_seconds", 0.3)):
        monkeypatch.setattr(stack.settings, name, value)
    yield extra


def start(stack: Any, **fields: Any) -> str:
    with stack.database.write() as session:
        return add_run(session, stack.workspace_id, name="curves", tags=["t"], **fields).id


def train(stack: Any, attempts: int = 6) -> None:
    station = Station(stack.database, stack.settings)
    station.problem = None
    station.arrive()
    for _ in range(attempts):
        with stack.database.write() as session:
            session.execute(update(Run).values(not_before=None))
        if not run_training.one(stack.database, stack.settings, station.id, "cpu", station.shutdown):
            break


def status(stack: Any, run_id: str) -> str:
    with stack.database.read() as session:
        return session.get_one(Run, run_id).status


def rest(stack: Any, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """What REST gives, in the precision of event files."""
    with stack.database.read() as session:
        series = metrics.series(session, run_id, points=10**6)
    return {
        name: [(step, float(np.float32(value))) for step, value in zip(steps.tolist(), values.tolist(), strict=True)]
        for name, (steps, values) in series.items()
    }


def log_of(stack: Any, run_id: str) -> str:
    with stack.database.read() as session:
        return "\n".join(session.scalars(select(RunLog.text).where(RunLog.run_id == run_id)))


def until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return found
