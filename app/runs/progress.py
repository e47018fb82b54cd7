"""What a worker writes about a run it holds, each write fenced by the attempt; and what happens to runs whose worker is gone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from app import leases, queue
from app.checkpoints.tables import Checkpoint
from app.database import now
from app.leases import Claim
from app.metrics import service as metrics
from app.runs import service
from app.runs.tables import Run, RunEvent, RunGrade, RunLog, RunSample
from app.workers.tables import Worker

POISON = 5
"""Attempts in a row without a newly committed checkpoint after which a run is not tried again."""
MAX_LOG_LINES = 100_000
SPARK_POINTS = 64
FINAL = {"config", "data", "model", "diverged", "no_torch", "memory"}
"""Failures that another attempt would only repeat."""


@dataclass
class Batch:
    """What a trainer reported since the last write."""

    points: list[metrics.Point] = field(default_factory=list)
    step: int | None = None
    total: int | None = None
    phase: str | None = None
    resolved: dict[str, Any] | None = None
    logs: list[tuple[float, str, str]] = field(default_factory=list)
    """(time, level, text)"""
    samples: list[dict[str, Any]] = field(default_factory=list)
    grades: list[dict[str, Any]] = field(default_factory=list)
    """Fields of `RunGrade`."""
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    """(kind, message, data)"""

    def __bool__(self) -> bool:
        return bool(
            self.points
            or self.step is not None
            or self.total is not None
            or self.phase
            or self.resolved
            or self.logs
            or self.samples
            or self.grades
            or self.events
        )


def claim(session: Session, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the next waiting run, or None."""
    return leases.claim(session, Run, worker_id=worker_id, lease_seconds=lease_seconds, taken="preparing")


def begin(session: Session, mine: Claim, resume_step: int, child: str | None = None) -> Run:
    """Start the attempt at a verified checkpoint (0: the beginning): whatever an earlier attempt wrote past it is void.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    run: Run = leases.hold(session, Run, mine)
    metrics.truncate(session, run.id, resume_step if resume_step else -1)
    for told in (RunSample, RunGrade):
        session.execute(delete(told).where(told.run_id == run.id, told.step > (resume_step if resume_step else -1)))
    run.step = run.attempt_start_step = resume_step
    run.committed_step = resume_step or None
    run.latest = dict(metrics.last_values(session, run.id))
    run.spark = [point for point in run.spark if point[0] <= resume_step]
    run.phase, run.child = "Starting", child
    run.started_at = run.started_at or now()
    run.finished_at = None
    if run.attempt == 1:
        service.add_event(session, run, "started", "A worker took the run.", **_where(session, mine))
    else:
        where = f"at step {resume_step}, from its checkpoint" if resume_step else "at the beginning, since no checkpoint was committed yet"
        service.add_event(
            session,
            run,
            "attempt",
            f"Attempt {run.attempt} goes on {where}.",
            step=resume_step,
            truncate=resume_step,
            **_where(session, mine),
        )
    session.flush()
    return run


def _where(session: Session, mine: Claim) -> dict[str, str]:
    """Worker and host of an attempt, for the history: the lease is gone when it is over."""
    worker = session.get(Worker, mine.owner.partition("/")[0])
    return {"worker": mine.owner.partition("/")[0], **({"host": worker.host.partition("/")[0]} if worker else {})}


def set_child(session: Session, mine: Claim, child: str) -> None:
    """Note the trainer's process, so that a successor can end it."""
    run: Run = leases.hold(session, Run, mine)
    run.child = child


def record(session: Session, mine: Claim, batch: Batch) -> Run:
    """Write what a trainer reported, in one transaction with the fence.

    Raises:
        LeaseLost: the run is no longer ours; nothing is written.
    """
    run: Run = leases.hold(session, Run, mine)
    seq = service.touch(session, run)
    if batch.points:
        metrics.record(session, run.id, attempt=mine.attempt, seq=seq, points=batch.points)
        run.latest = {
            **run.latest,
            **{name: metrics.kind_of(value) or value for name, _, value in sorted(batch.points, key=lambda p: p[1])},
        }
        run.spark = _spark(run.spark, [[step, value] for name, step, value in batch.points if name == "loss" and math.isfinite(value)])
    if batch.total is not None:
        run.total_steps = batch.total
    if batch.step is not None and batch.step > run.step:
        run.step = batch.step
        if run.status == "preparing":
            run.status = "running"
            run.phase = None
    if batch.phase is not None:
        run.phase = batch.phase
    if batch.resolved is not None:
        run.resolved = batch.resolved
    if batch.logs and seq <= MAX_LOG_LINES:
        rows = [
            {"run_id": run.id, "seq": seq, "number": number, "at": at, "attempt": mine.attempt, "level": level, "text": text}
            for number, (at, level, text) in enumerate(batch.logs)
        ]
        session.execute(insert(RunLog), rows)
    for sample in batch.samples:
        session.merge(RunSample(run_id=run.id, seq=seq, **sample))
    for grade in batch.grades:
        session.merge(RunGrade(run_id=run.id, seq=seq, **grade))
    for kind, message, data in batch.events:
        service.add_event(session, run, kind, message, **data)
    session.flush()
    return run


def _spark(points: list[list[float]], new: list[list[float]]) -> list[list[float]]:
    """The small curve with new points; when it grows too long, one point stays in each of equally long stretches, and the newest."""
    joined = [*points, *new]
    if len(joined) <= SPARK_POINTS:
        return joined
    first, last = joined[0][0], joined[-1][0]
    stretch = (last - first) / (SPARK_POINTS // 2) or 1
    kept = {int((point[0] - first) / stretch): point for point in reversed(joined)}
    return [*(kept[each] for each in sorted(kept) if kept[each][0] < last), joined[-1]]


def committed(session: Session, run: Run, checkpoint: Checkpoint) -> None:
    """Note a checkpoint that was committed in this transaction, and seal the part of the curve it makes final."""
    run.committed_step = checkpoint.step
    run.failures = 0
    sealed = metrics.seal(session, run.id, checkpoint.step or 0)
    run.sealed_seq = max(run.sealed_seq, sealed)
    service.add_event(
        session, run, "checkpoint", f"Checkpoint at step {checkpoint.step} committed.", step=checkpoint.step, checkpoint=checkpoint.id
    )


def quarantined(session: Session, mine: Claim, step: int, problem: str) -> None:
    """Note that a committed checkpoint turned out damaged and was put aside.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    run: Run = leases.hold(session, Run, mine)
    service.add_event(session, run, "quarantined", f"Checkpoint at step {step} is damaged ({problem}) and was put aside.", step=step)


def finish(session: Session, mine: Claim) -> None:
    """The run has done all its steps.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    run: Run = leases.hold(session, Run, mine)
    service.set_status(session, run, "succeeded")
    service.add_event(session, run, "succeeded", f"Finished after {run.step} steps.")


def stopped(session: Session, mine: Claim) -> None:
    """The trainer ended because a person asked to pause or stop, or because its worker shuts down.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    run: Run = leases.hold(session, Run, mine)
    _settle(session, run, "preempted", "The worker shut down; the run goes on from its last checkpoint.")


def failed(session: Session, mine: Claim, code: str, reason: str) -> None:
    """The attempt ended badly: fail for good, or queue the next attempt.

    Raises:
        LeaseLost: the run is no longer ours.
    """
    run: Run = leases.hold(session, Run, mine)
    _settle(session, run, code, reason)


def reap(session: Session) -> int:
    """Take over runs whose lease ran out. Returns how many there were."""
    rows = leases.expired(session, Run)
    for run in rows:
        _settle(session, run, "lost", "The worker stopped answering.")
    return len(rows)


def release_worker(session: Session, worker_id: str) -> list[str]:
    """Free at once the runs of a worker known to be dead; returns the marks of trainers it may have left behind."""
    runs = leases.owned_by(session, Run, worker_id)
    children = [run.child for run in runs if run.child]
    for run in runs:
        _settle(session, run, "lost", "The worker was killed.")
    return children


def _settle(session: Session, run: Run, code: str, reason: str) -> None:
    """What becomes of a run whose attempt is over without success."""
    if run.status == "stopping":
        service.set_status(session, run, "cancelled", "Stopped on request.")
        service.add_event(session, run, "cancelled", "Stopped on request.")
        return
    if run.status == "pausing":
        service.set_status(session, run, "paused", f"Paused on request at step {run.committed_step or 0}.")
        service.add_event(session, run, "paused", f"Paused; it goes on from step {run.committed_step or 0}.")
        return
    if code == "preempted":
        _requeue(session, run, reason, code, counts=False)
    elif code == "disk_full":
        service.set_status(session, run, "paused", reason, "disk_full")
        service.add_event(session, run, "disk_full", reason)
    elif code == "oom":
        _out_of_memory(session, run, reason)
    elif code in FINAL:
        _fail(session, run, reason, code)
    else:
        _requeue(session, run, reason, code, counts=True)


def _requeue(session: Session, run: Run, reason: str, code: str, *, counts: bool) -> None:
    progressed = (run.committed_step or 0) > run.attempt_start_step
    run.failures = (0 if progressed else run.failures + 1) if counts else run.failures
    if counts and run.failures >= POISON:
        _fail(
            session,
            run,
            f"{reason} That happened {POISON} times in a row without a new checkpoint, so the run is not tried again. The log says more.",
            code,
        )
        return
    wait = leases.back_off_seconds(run.failures) if counts else 0.0
    service.set_status(session, run, "queued", reason, code)
    run.not_before = now() + wait if wait else None
    run.dispatched_at = now()
    service.add_event(session, run, "interrupted", f"{reason} Next attempt {f'in {wait:.0f} s' if wait else 'at once'}.", code=code)
    queue.ring(session, "device")


def _out_of_memory(session: Session, run: Run, reason: str) -> None:
    """Halve the micro-batch and double the accumulation, so that the experiment stays the same; at most four times."""
    divisor = int(run.adjustments.get("batch_divisor", 1)) * 2
    batch = int(run.params.get("batch_size", 1))
    if divisor > 16 or divisor > batch or batch % divisor:
        _fail(session, run, f"{reason} Lower the batch size or the maximum length, or take a tuner that trains fewer weights.", "oom")
        return
    run.adjustments = {**run.adjustments, "batch_divisor": divisor}
    message = f"Out of memory: going on with batches of {batch // divisor} and {divisor} times the accumulation; the effective batch stays."
    service.set_status(session, run, "queued", message, "oom")
    run.dispatched_at = now()
    service.add_event(session, run, "out_of_memory", message, batch_divisor=divisor)
    queue.ring(session, "device")


def _fail(session: Session, run: Run, reason: str, code: str) -> None:
    service.set_status(session, run, "failed", reason, code)
    service.add_event(session, run, "failed", reason, code=code)


def ring_again(session: Session, redispatch_seconds: float) -> bool:
    """Whether runs wait whose bell was rung long ago; notes that it rings now."""
    waiting = list(
        session.scalars(
            select(Run)
            .where(Run.status == "queued", (Run.not_before.is_(None)) | (Run.not_before <= now()))
            .where((Run.dispatched_at.is_(None)) | (Run.dispatched_at < now() - redispatch_seconds) | Run.not_before.is_not(None))
            .limit(100)
            .with_for_update(skip_locked=True)
        )
    )
    for run in waiting:
        run.dispatched_at = now()
    return bool(waiting)


def explain_waiting(session: Session, reason: str | None) -> None:
    """Say on waiting runs why nobody takes them (no worker that can train); None takes such a note away."""
    note = "no_worker"
    if reason is None:
        rows = session.scalars(select(Run).where(Run.status == "queued", Run.reason_code == note).with_for_update(skip_locked=True))
    else:
        rows = session.scalars(select(Run).where(Run.status == "queued", Run.reason_code.is_(None)).with_for_update(skip_locked=True))
    for run in rows:
        run.reason, run.reason_code = reason, note if reason else None
        service.touch(session, run)


def history(session: Session, run_id: str, seq: int) -> list[RunEvent]:
    """Events after a cursor."""
    return list(
        session.scalars(select(RunEvent).where(RunEvent.run_id == run_id, RunEvent.seq > seq).order_by(RunEvent.seq, RunEvent.number))
    )
