"""The row's side of an import job: what the child is told, and what becomes of its answers. Touches no weights."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from app import storage
from app.checkpoints import service
from app.checkpoints.schemas import QUESTION_STEP, STEPS
from app.checkpoints.tables import Checkpoint
from app.database import after_commit
from app.errors import NotFound
from app.jobs.tables import Job
from app.settings import get_settings


def import_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the importing child needs to know.

    Raises:
        NotFound: the checkpoint was deleted meanwhile.
    """
    checkpoint = session.get(Checkpoint, job.subject_id)
    if checkpoint is None:
        raise NotFound("The checkpoint was deleted before its import began.")
    expect = job.payload.get("expect")
    return {
        "source": checkpoint.source,
        "ref": checkpoint.ref,
        "revision": checkpoint.revision,
        "allowed": job.payload.get("allowed"),
        "hub_url": get_settings().hub_url,
        "steps": [*STEPS[checkpoint.source], *([QUESTION_STEP] if expect else [])],
        "target": str(storage.path(service.import_path(checkpoint))),
        "expect": expect,
    }


def import_progress(session: Session, job: Job, progress: dict[str, Any]) -> None:
    """Show how far the child is."""
    checkpoint = session.get(Checkpoint, job.subject_id)
    if checkpoint is not None and checkpoint.status == "importing":
        checkpoint.progress = dict(progress)


def import_done(session: Session, job: Job, result: dict[str, Any]) -> None:
    """The files are in place and checked: the checkpoint is ready."""
    checkpoint = session.get(Checkpoint, job.subject_id)
    if checkpoint is None:
        path = f"checkpoints/{job.subject_id}"
        after_commit(session, lambda: storage.remove(path))
        return
    checkpoint.status, checkpoint.reason, checkpoint.progress = "ready", None, None
    checkpoint.path = service.import_path(checkpoint)
    checkpoint.size_bytes, checkpoint.sha256 = result["size_bytes"], result["sha256"]
    checkpoint.parameters, checkpoint.shapes, checkpoint.config = result["parameters"], result["shapes"], result["config"]
    checkpoint.revision = result["revision"] or checkpoint.revision
    session.flush()


def import_failed(session: Session, job: Job, reason: str, code: str) -> None:
    """The import cannot be done: the row says why. The child has left no files."""
    checkpoint = session.get(Checkpoint, job.subject_id)
    if checkpoint is not None:
        checkpoint.status, checkpoint.reason, checkpoint.progress = "failed", reason, None
        session.flush()
