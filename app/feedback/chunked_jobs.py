"""What jobs of feedback have in common whose child works in chunks: how they stand, ending, going on, and what is finished of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import leases, queue, storage
from app.database import after_commit
from app.jobs import service as jobs
from app.jobs.tables import Job

STARTING = {"done": 0, "total": None, "text": "Waiting for a worker"}
"""Progress of a job that nobody has taken yet."""


def active(session: Session, kind: str, subject_id: str) -> Job | None:
    """The job of a kind that waits or goes on for a row."""
    return jobs.active_for(session, kind, subject_id)


def latest(session: Session, kind: str, subject_id: str) -> Job | None:
    """The newest job of a kind for a row, in whatever state."""
    return session.scalars(select(Job).where(Job.kind == kind, Job.subject_id == subject_id).order_by(Job.id.desc()).limit(1)).first()


def shown(job: Job | None) -> dict[str, Any] | None:
    """How a job stands: `{job, status, reason, done, total, text}`; None where there is none."""
    if job is None:
        return None
    said = job.progress or {}
    return {"job": job.id, "status": job.status, "reason": job.reason, **{name: said.get(name) for name in ("done", "total", "text")}}


def locked(session: Session, job: Job | None) -> Job | None:
    """The job as it is now, while no worker writes to it."""
    if job is not None:
        session.refresh(job, with_for_update=True)
    return job


def cancel(session: Session, job: Job | None, words: str) -> bool:
    """End a job that waits or goes on, with words for its reason. False when it was over."""
    job = locked(session, job)
    if job is None or job.status not in ("queued", "running"):
        return False
    job.status, job.reason = "cancelled", words
    leases.free(job)  # the worker that holds it sees the lease gone and ends its child
    session.flush()
    return True


def again(session: Session, job: Job | None) -> Job | None:
    """Queue a job again that failed or was cancelled; it goes on where it stopped. None when it was neither."""
    job = locked(session, job)
    if job is None or job.status not in ("failed", "cancelled"):
        return None
    job.status, job.reason, job.reason_code, job.failures, job.finished_at = "queued", None, None, 0, None
    job.not_before = None
    session.flush()
    queue.ring(session, job.lane)
    return job


def finished(folder: Path, number: int, most: int | None) -> list[Path]:
    """Files of finished chunks, in order from a number on, without a gap; at most so many, or all."""
    found: list[Path] = []
    while (most is None or len(found) < most) and (file := folder / f"{number + len(found):06}.jsonl").is_file():
        found.append(file)
    return found


def went_on(job: Job, progress: dict[str, Any]) -> None:
    """Note how far a job is; what went on does not count as a failure."""
    state = job.result or {}
    if (progress.get("done") or 0) > state.get("done", 0):
        job.result, job.failures = {**state, "done": progress["done"]}, 0


def sweep(session: Session, folder: str, kept: str) -> None:
    """Remove, after the commit, what earlier jobs left in a folder below the storage root; that of the job `kept` stays."""
    place = storage.path(folder)
    stale = [f"{folder}/{each.name}" for each in place.iterdir() if each.name != kept] if place.is_dir() else []
    for path in stale:
        after_commit(session, partial(storage.remove, path))
