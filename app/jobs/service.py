"""Queue jobs and move them through their states. What a kind of job does is said in `worker.jobs`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import leases, queue
from app.database import now
from app.errors import NotFound
from app.jobs.tables import Job

MAX_FAILURES = 3


def enqueue(
    session: Session,
    *,
    workspace_id: str,
    kind: str,
    subject_id: str | None = None,
    payload: dict[str, Any] | None = None,
    created_by: str | None = None,
    lane: str = "cpu",
) -> Job:
    """Write a queued job and ring for its lane after the commit."""
    job = Job(
        workspace_id=workspace_id,
        kind=kind,
        lane=lane,
        subject_id=subject_id,
        payload=payload or {},
        created_by=created_by,
        dispatched_at=now(),
    )
    session.add(job)
    session.flush()
    queue.ring(session, lane)
    return job


def get(session: Session, workspace_id: str, job_id: str) -> Job:
    """A job of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    job = session.scalars(select(Job).where(Job.id == job_id, Job.workspace_id == workspace_id)).first()
    if job is None:
        raise NotFound("There is no such job.")
    return job


def active_for(session: Session, kind: str, subject_id: str) -> Job | None:
    """The queued or running job of a kind that works for a row."""
    return session.scalars(select(Job).where(Job.kind == kind, Job.subject_id == subject_id, Job.status.in_(("queued", "running")))).first()


def finish(session: Session, job: Job, result: dict[str, Any]) -> None:
    """Mark a job of ours as done."""
    job.status, job.result, job.finished_at, job.progress = "succeeded", result, now(), None
    leases.free(job)


def fail(session: Session, job: Job, reason: str, code: str) -> None:
    """Mark a job as failed for good."""
    job.status, job.reason, job.reason_code, job.finished_at = "failed", reason, code, now()
    leases.free(job)


def give_back(session: Session, job: Job, *, counts: bool) -> bool:
    """Put a job back into the queue; False when it has failed too often and is now failed."""
    if counts:
        job.failures += 1
    if job.failures >= MAX_FAILURES:
        fail(
            session,
            job,
            f"The worker died {MAX_FAILURES} times while doing this, so it is not tried again. The log of the worker says more.",
            "killed",
        )
        return False
    job.status = "queued"
    job.not_before = now() + leases.back_off_seconds(job.failures) if counts else None
    leases.free(job)
    queue.ring(session, job.lane)
    return True
