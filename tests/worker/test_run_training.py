"""The supervisor around a trainer: faults, pause, stop, shutdown, disk and database trouble, with real processes and a toy trainer."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app import storage
from app.checkpoints.tables import Checkpoint
from app.metrics.tables import Metric
from app.runs import service
from app.runs.tables import Run, RunEvent
from tests.factories import add_run
from worker import run_training
from worker.tasks import Station

TOTAL, SAVE = 12, 5


@pytest.fixture
def toy(stack: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Replaces what is trained, not how it is supervised; fields put in here reach the child."""
    extra: dict[str, Any] = {"total": TOTAL, "save": SAVE}
    real = run_training._spec

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

    assert real is not None
    monkeypatch.setattr(run_training, "_spec", spec)
    monkeypatch.setattr(run_training, "preload_env", dict)
    for name, value in (("lease_seconds", 2.0), ("heartbeat_seconds", 0.3), ("sweep_seconds", 0.3)):
        monkeypatch.setattr(stack.settings, name, value)
    yield extra


def _station(stack: Any) -> Station:
    station = Station(stack.database, stack.settings)
    station.problem = None
    station.arrive()
    return station


def _add(stack: Any, **fields: Any) -> str:
    with stack.database.write() as session:
        return add_run(session, stack.workspace_id, **fields).id


def _train(stack: Any, station: Station | None = None, attempts: int = 6) -> None:
    station = station or _station(stack)
    for _ in range(attempts):
        with stack.database.write() as session:
            session.execute(update(Run).values(not_before=None))
        if not run_training.one(stack.database, stack.settings, station.id, "cpu", station.shutdown):
            break


def _run(stack: Any, run_id: str) -> Run:
    with stack.database.read() as session:
        return session.get_one(Run, run_id)


def _steps(stack: Any, run_id: str) -> list[int]:
    with stack.database.read() as session:
        return list(session.scalars(select(Metric.step).where(Metric.run_id == run_id, Metric.name == "loss").order_by(Metric.step)))


def _checkpoints(stack: Any, run_id: str) -> list[int]:
    with stack.database.read() as session:
        rows = session.scalars(
            select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.status == "ready").order_by(Checkpoint.step)
        ).all()
    assert all(storage.path(row.path).is_dir() for row in rows)
    return [row.step for row in rows]


def _whole(stack: Any, run_id: str) -> None:
    run = _run(stack, run_id)
    assert (run.status, run.step, run.lease_owner) == ("succeeded", TOTAL, None), run.reason
    assert _steps(stack, run_id) == list(range(1, TOTAL + 1))
    assert _checkpoints(stack, run_id) == [5, 10, 12]
    work = stack.settings.storage / "work"
    assert not any(work.iterdir()), "scratch folders are left behind"


def test_a_run_from_start_to_end(stack: Any, toy: dict[str, Any]) -> None:
    run_id = _add(stack)
    _train(stack)
    _whole(stack, run_id)
    assert _run(stack, run_id).attempt == 1


@pytest.mark.parametrize("what", ["kill", "exit", "crash", "freeze"])
def test_a_trainer_that_dies_goes_on_from_its_last_checkpoint(stack: Any, toy: dict[str, Any], what: str) -> None:
    toy["accident"] = {"what": what, "step": 8}
    run_id = _add(stack)
    began = time.monotonic()
    _train(stack)
    _whole(stack, run_id)
    run = _run(stack, run_id)
    assert (run.attempt, run.attempt_start_step) == (2, 5)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("what", "status", "words"),
    [("config", "failed", "learning rate"), ("disk", "paused", "disk is full"), ("oom", "failed", "batch size")],
)
def test_failures_that_another_attempt_would_repeat(stack: Any, toy: dict[str, Any], what: str, status: str, words: str) -> None:
    toy["accident"] = {"what": what, "step": 8, "attempts": 99}
    run_id = _add(stack)
    _train(stack)
    run = _run(stack, run_id)
    assert run.status == status and words in (run.reason or "")
    assert "Traceback" not in (run.reason or "")
    assert _checkpoints(stack, run_id) == [5]


def test_a_paused_run_resumes_where_it_stopped(stack: Any, toy: dict[str, Any]) -> None:
    toy["pause"] = 0.25
    run_id = _add(stack)
    thread = threading.Thread(target=_train, args=(stack,), kwargs={"attempts": 1})
    thread.start()
    _until(lambda: _run(stack, run_id).step >= 2)
    with stack.database.write() as session:
        assert service.pause(session, stack.workspace_id, run_id).status == "pausing"
    thread.join(20)
    paused = _run(stack, run_id)
    assert paused.status == "paused" and paused.step < TOTAL and paused.committed_step == paused.step
    toy["pause"] = 0
    with stack.database.write() as session:
        service.resume(session, stack.workspace_id, run_id)
    _train(stack)
    run = _run(stack, run_id)
    assert run.status == "succeeded" and run.attempt_start_step == paused.committed_step
    assert _steps(stack, run_id) == list(range(1, TOTAL + 1))


def test_cancel_ends_the_trainer_within_five_seconds_and_keeps_its_checkpoint(stack: Any, toy: dict[str, Any]) -> None:
    toy["pause"] = 0.3
    run_id = _add(stack)
    thread = threading.Thread(target=_train, args=(stack,), kwargs={"attempts": 1})
    thread.start()
    _until(lambda: _run(stack, run_id).committed_step == 5)
    asked = time.monotonic()
    with stack.database.write() as session:
        service.cancel(session, stack.workspace_id, run_id)
        service.cancel(session, stack.workspace_id, run_id)
    thread.join(20)
    assert time.monotonic() - asked < 5
    run = _run(stack, run_id)
    assert run.status == "cancelled" and run.finished_at
    assert _checkpoints(stack, run_id) == [5]


def test_a_worker_that_shuts_down_gives_the_run_back_with_a_checkpoint(stack: Any, toy: dict[str, Any]) -> None:
    toy["pause"] = 0.25
    run_id = _add(stack)
    station = _station(stack)
    thread = threading.Thread(target=_train, args=(stack, station), kwargs={"attempts": 1})
    thread.start()
    _until(lambda: _run(stack, run_id).step >= 2)
    station.shutdown.set()
    thread.join(20)
    run = _run(stack, run_id)
    assert run.status == "queued" and run.failures == 0 and (run.committed_step or 0) >= 2
    toy["pause"] = 0
    _train(stack)
    assert _steps(stack, run_id) == list(range(1, TOTAL + 1))


def test_a_damaged_checkpoint_is_quarantined_and_the_one_before_is_taken(stack: Any, toy: dict[str, Any]) -> None:
    toy["accident"] = {"what": "kill", "step": 11}
    run_id = _add(stack)
    _train(stack, attempts=1)
    assert _checkpoints(stack, run_id) == [5, 10]
    with stack.database.read() as session:
        newest = session.scalars(select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.step == 10)).one()
    file = storage.path(newest.path) / "adapter_model.safetensors"
    file.write_bytes(b"11")
    _train(stack)
    run = _run(stack, run_id)
    assert run.status == "succeeded" and run.attempt_start_step == 5
    with stack.database.read() as session:
        event = session.scalars(select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.kind == "quarantined")).one()
    assert "adapter_model.safetensors" in event.message and event.data == {"step": 10}
    assert _steps(stack, run_id) == list(range(1, TOTAL + 1))


def test_folders_that_were_never_committed_are_removed(stack: Any, toy: dict[str, Any]) -> None:
    run_id = _add(stack)
    orphan = storage.path(f"runs/{run_id}/checkpoints/step-5-attempt-0")
    orphan.mkdir(parents=True)
    (orphan / "half.safetensors").write_bytes(b"x")
    _train(stack)
    _whole(stack, run_id)
    assert not orphan.exists()


def test_a_lost_lease_stops_the_trainer_and_writes_nothing(stack: Any, toy: dict[str, Any]) -> None:
    toy["pause"] = 0.3
    run_id = _add(stack)
    thread = threading.Thread(target=_train, args=(stack,), kwargs={"attempts": 1})
    thread.start()
    _until(lambda: _run(stack, run_id).step >= 2)
    with stack.database.write() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_owner="somebody/else", attempt=7))
    thread.join(20)
    assert not thread.is_alive()
    before = _steps(stack, run_id)
    time.sleep(1)
    run = _run(stack, run_id)
    assert run.attempt == 7 and run.status == "running" and _steps(stack, run_id) == before


def test_the_trainer_sees_no_secret_of_the_worker(stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTHIER_DATABASE_URL", stack.settings.database)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    seen: list[str] = []
    real = shutil.rmtree

    def keep(path: Any, *args: Any, **kwargs: Any) -> None:
        file = Path(path) / "environment"
        if file.exists():
            seen.extend(file.read_text().splitlines())
        real(path, *args, **kwargs)

    monkeypatch.setattr(run_training.shutil, "rmtree", keep)
    _add(stack)
    _train(stack)
    assert "PATH" in seen
    assert not {"LUTHIER_DATABASE_URL", "LUTHIER_BROKER_URL", "AWS_SECRET_ACCESS_KEY"} & set(seen)


def test_history_tells_what_happened(stack: Any, toy: dict[str, Any]) -> None:
    toy["accident"] = {"what": "kill", "step": 8}
    run_id = _add(stack)
    _train(stack)
    with stack.database.read() as session:
        kinds = list(session.scalars(select(RunEvent.kind).where(RunEvent.run_id == run_id).order_by(RunEvent.seq, RunEvent.number)))
    assert kinds == ["started", "checkpoint", "interrupted", "attempt", "checkpoint", "checkpoint", "succeeded"]


def _until(condition: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
