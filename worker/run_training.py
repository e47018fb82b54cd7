"""Do one queued run: claim it, pick its last good checkpoint, hold the lease while the trainer works, commit its checkpoints."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import BaseModel
from sqlalchemy import or_, select
from sqlalchemy.exc import DBAPIError

from app import storage
from app.checkpoints import manifest as manifests
from app.checkpoints import references
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import Database
from app.datasets.tables import Dataset
from app.errors import StudioError
from app.leases import Claim, LeaseLost
from app.methods import service as methods
from app.metrics import service as metrics
from app.runs import graded, progress
from app.runs import service as runs
from app.runs.progress import Batch
from app.runs.tables import Run, RunLog
from app.settings import Settings
from worker.allocator import preload_env
from worker.curves import Curves
from worker.process import Child, log_level
from worker.supervise import Holding, scratch, why

log = logging.getLogger(__name__)


def one(database: Database, settings: Settings, worker_id: str, device: str, shutdown: Event) -> bool:
    """Claim and train the next run on a device; False when none waits."""
    with database.write() as session:
        mine = progress.claim(session, worker_id, settings.lease_seconds)
    if mine is None:
        return False
    try:
        _train(database, settings, mine, device, shutdown)
    except LeaseLost:
        log.warning("Run %s (attempt %d) belongs to another worker now.", mine.id, mine.attempt)
    return True


def _train(database: Database, settings: Settings, mine: Claim, device: str, shutdown: Event) -> None:
    resume, resume_step = last_good(database, mine)
    folder = scratch(settings, f"{mine.id}-{mine.attempt}")
    try:
        try:
            with database.write() as session:
                run = progress.begin(session, mine, resume_step)
                spec = _spec(session, settings, run, folder, device, resume, resume_step)
        except StudioError as error:
            with database.write() as session:
                progress.failed(session, mine, "config", error.message)
            return
        _sweep_run_folder(database, mine.id)
        child = Child(spec, folder, {**preload_env(), **_threads(spec["threads"]), **_device_environment(device), **_allowed(settings)})
        with database.write() as session:
            progress.set_child(session, mine, child.mark)
        holding = Holding(database, settings, Run, mine, child, shutdown)
        curves = Curves(database, settings, mine.id, mine.attempt, resume_step, partial(_say, database, mine))
        try:
            writer = Writer(database, mine, folder, curves)
            holding.run(writer.write, pausable=True)
            _end(database, mine, child, holding)
            curves.end()
        finally:
            curves.abandon()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _say(database: Database, mine: Claim, level: str, text: str) -> None:
    """Put a line of this worker into the run's log, also when the attempt has just ended and nobody has taken the run since."""
    log.log(logging.WARNING if level == "warning" else logging.INFO, "Run %s: %s", mine.id, text)
    with contextlib.suppress(DBAPIError), database.write() as session:  # this worker's own log has it in any case
        query = select(Run).where(Run.id == mine.id, Run.attempt == mine.attempt)
        run = session.scalars(query.where(or_(Run.lease_owner == mine.owner, Run.lease_owner.is_(None))).with_for_update()).first()
        if run is not None:
            seq = runs.touch(session, run)
            session.add(RunLog(run_id=run.id, seq=seq, number=0, at=time.time(), attempt=mine.attempt, level=level, text=text))


def last_good(database: Database, mine: Claim) -> tuple[Path | None, int]:
    """Folder and step of the newest committed checkpoint whose every byte is as it was written; bad ones are quarantined.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    with database.read() as session:
        found = [(row.id, row.step or 0, row.path or "") for row in checkpoints.of_run(session, mine.id)]
    for checkpoint_id, step, path in found:
        folder = storage.path(path)
        try:
            manifests.verify_manifest(folder)
        except (ValueError, OSError) as error:
            log.error("Checkpoint %s is damaged: %s", checkpoint_id, error)
            with database.write() as session:
                progress.quarantined(session, mine, step, str(error))
                checkpoints.quarantine(session, checkpoint_id, str(error))
            continue
        return folder, step
    return None, 0


def _sweep_run_folder(database: Database, run_id: str) -> None:
    """Remove folders of checkpoints that were renamed but never committed."""
    folder = storage.path(f"runs/{run_id}/checkpoints")
    if not folder.is_dir():
        return
    with database.read() as session:
        kept = {Path(row.path or "").name for row in checkpoints.of_run(session, run_id, any_status=True)}
    for place in folder.iterdir():
        if place.name not in kept:
            shutil.rmtree(place, ignore_errors=True)


def _threads(threads: int) -> dict[str, str]:
    # A thread that waits sleeps: by default it spins, and where anything else wants a core the steps take up to ten times as long.
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": policy}


def _allowed(settings: Settings) -> dict[str, str]:
    """What the child reads of this worker's settings."""
    return {"LUTHIER_PYTHON_REWARDS": "1"} if settings.python_rewards else {}


def _device_environment(device: str) -> dict[str, str]:
    """One device each: the child sees its GPU as number 0."""
    if device == "cpu":
        return {"CUDA_VISIBLE_DEVICES": ""}
    return {"CUDA_VISIBLE_DEVICES": device.partition(":")[2] or "0"}


def _spec(session: Any, settings: Settings, run: Run, folder: Path, device: str, resume: Path | None, resume_step: int) -> dict[str, Any]:
    base = session.get(Checkpoint, run.checkpoint_id)
    dataset = session.get(Dataset, run.dataset_id)
    other = session.get(Dataset, run.eval_dataset_id) if run.eval_dataset_id else None
    evaluate = None
    if other is not None:
        evaluate = {
            "path": str(storage.path(f"{other.path}/rows.jsonl")),
            "split": None if not other.eval_rows else "eval",
            "shape": other.shape,
        }
    elif dataset.eval_rows:
        evaluate = {"path": str(storage.path(f"{dataset.path}/rows.jsonl")), "split": "eval", "shape": dataset.shape}
    if evaluate is not None:
        evaluate["graded"] = graded.origin(session, other or dataset) is not None
    offsets = (
        {name: metrics.value_at(session, run.id, name, resume_step) or 0.0 for name in ("elapsed_seconds", "tokens")} if resume_step else {}
    )
    return {
        "module": "worker.train",
        "lease_seconds": settings.lease_seconds,
        "run_id": run.id,
        "attempt": run.attempt,
        "work": str(folder),
        "method": run.method,
        "tuner": run.tuner,
        "params": run.params,
        "tuner_params": run.tuner_params,
        "seed": run.seed,
        "model": checkpoints.training_paths(session, base),
        "others": references.paths(session, run.workspace_id, *declared(run)),
        "train": {
            "path": str(storage.path(f"{dataset.path}/rows.jsonl")),
            "split": "train",
            "shape": dataset.shape,
            "sha256": dataset.sha256,
        },
        "eval": evaluate,
        "resume": str(resume) if resume else None,
        "resume_step": resume_step,
        "offsets": offsets,
        "adjustments": run.adjustments,
        "device": "cpu" if device == "cpu" else "cuda:0",
        "threads": settings.threads or os.cpu_count() or 1,
        "sample_prompts": settings.sample_prompts,
    }


def declared(run: Run) -> list[BaseModel]:
    """The settings of a run, as its method and its tuner declare them."""
    pairs = ((methods.objective(run.method), run.params), (methods.tuner(run.tuner), run.tuner_params))
    return [each.params.model_validate(values) for each, values in pairs]


class Writer:
    """Writes a trainer's messages: a batch a transaction, a checkpoint together with everything reported before it."""

    def __init__(self, database: Database, mine: Claim, folder: Path, curves: Curves | None = None) -> None:
        self.database, self.mine, self.folder, self.curves = database, mine, folder, curves

    def write(self, messages: list[dict[str, Any]]) -> None:
        """Write messages in their order; what is written leaves the list, so that a retry goes on where it stopped.

        Raises:
            LeaseLost: the run is no longer ours.
        """
        while messages:
            batch = Batch()
            count = 0
            ready = None
            for message in messages:
                count += 1
                if message["kind"] == "checkpoint":
                    ready = message
                    break
                add(batch, message)
            if ready:
                self._commit(batch, ready)
            elif batch:
                with self.database.write() as session:
                    progress.record(session, self.mine, batch)
            del messages[:count]

    def _commit(self, batch: Batch, message: dict[str, Any]) -> None:
        """Rename the finished folder into place, then commit its row with the fence; a lost fence takes the folder back."""
        step = int(message["step"])
        target = storage.path(f"runs/{self.mine.id}/checkpoints/step-{step}-attempt-{self.mine.attempt}")
        source = Path(message["folder"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            shutil.rmtree(target, ignore_errors=True)
            source.rename(target)
            storage.fsync_folder(target.parent)
        manifest = manifests.read_manifest(target)
        try:
            with self.database.write() as session:
                run = progress.record(session, self.mine, batch)
                checkpoint = checkpoints.commit_run_checkpoint(
                    session,
                    run_id=run.id,
                    workspace_id=run.workspace_id,
                    name=f"{run.name} · step {step}",
                    step=step,
                    attempt=self.mine.attempt,
                    kind=message["tuner_kind"],
                    base_id=run.checkpoint_id,
                    path=storage.relative(target),
                    manifest=manifest,
                    metrics=dict(run.latest),
                    created_by=run.created_by,
                    task=message.get("task", "policy"),
                    peft_type=message.get("peft_type"),
                    reshaped=message.get("reshaped"),
                )
                progress.committed(session, run, checkpoint)
                stale = checkpoints.retention(session, run.id, int(run.params.get("keep_checkpoints") or 0))
        except LeaseLost:
            shutil.rmtree(target, ignore_errors=True)
            raise
        if self.curves is not None:
            self.curves.committed(step)
        for path in stale:
            storage.remove(path)


def add(batch: Batch, message: dict[str, Any]) -> None:
    """Put one message of a trainer into a batch."""
    match message["kind"]:
        case "metrics":
            batch.points += [(name, int(message["step"]), float(value)) for name, value in message["values"].items()]
        case "step":
            batch.step = int(message["step"])
        case "total":
            batch.total = int(message["steps"])
        case "phase":
            batch.phase = message["text"]
        case "resolved":
            batch.resolved = message["config"]
        case "sample":
            batch.samples.append({name: message[name] for name in ("step", "number", "prompt", "text", "expected")})
        case "graded":
            batch.grades += message["grades"]
        case "event":
            batch.events.append((message["name"], message["message"], message["data"]))
        case "log":
            batch.logs.append((message["at"], log_level(message["text"]), message["text"].replace("\x00", "")))


def _end(database: Database, mine: Claim, child: Child, holding: Holding) -> None:
    result = holding.outcome["result"] if holding.outcome and holding.outcome["kind"] == "result" else None
    with database.write() as session:
        if result and result["outcome"] == "finished":
            progress.finish(session, mine)
        elif result or (holding.kill_reason and holding.kill_reason[0] in ("stopped", "preempted")):
            progress.stopped(session, mine)
        else:
            progress.failed(session, mine, *why(child, holding.outcome, holding.kill_reason))
