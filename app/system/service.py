"""How the studio is doing: workers and what they do, the queue, disk, database, versions, what failed lately. Reads other nouns' rows."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from importlib import metadata
from typing import Any

from sqlalchemy import func, or_, select, text
from sqlalchemy.orm import Session

from app import __version__, leases, storage
from app.accounts.schemas import Principal
from app.chats.tables import Answer
from app.checkpoints import imports as checkpoint_imports
from app.checkpoints.tables import Checkpoint
from app.database import iso
from app.datasets import imports as dataset_imports
from app.datasets import tokens
from app.datasets.tables import Dataset
from app.errors import Conflict
from app.exports import service as exports
from app.exports.tables import Export
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.runs import service as runs
from app.runs.tables import Run
from app.settings import Settings
from app.workers import service as workers
from app.workers.tables import Worker

QUEUE_ROWS = 100
FAILURES = 12
KINDS = {
    "import_dataset": "Reading a dataset",
    "make_dataset": "Making a dataset",
    "count_tokens": "Counting tokens",
    "import_checkpoint": "Importing a model",
    "export": "Packing an export",
}
FAILED: dict[str, Callable[[Session, Job, str, str], None]] = {
    "import_dataset": dataset_imports.import_failed,
    "make_dataset": dataset_imports.import_failed,
    "count_tokens": tokens.count_failed,
    "import_checkpoint": checkpoint_imports.import_failed,
    "export": exports.export_failed,
}
"""What is written on the row that a job works for when the job comes to nothing."""
PAGES = {"import_checkpoint": "/models", "export": "/exports"}
CANCELLED = "Cancelled on request."


def overview(session: Session, who: Principal, settings: Settings) -> dict[str, Any]:
    """Everything the page and REST show. Paths and addresses only for an admin; names only of the caller's workspace."""
    is_admin = who.role == "admin"
    return {
        "workers": _workers(session, who, settings),
        "queue": {"runs": _runs(session, who.workspace_id), "jobs": _jobs(session, who.workspace_id), "answers": _answers(session)},
        "disk": _disk(session, who, settings if is_admin else None),
        "database": _database(session, settings if is_admin else None),
        "versions": _versions(),
        "failures": _failures(session, who.workspace_id),
    }


# --- workers --------------------------------------------------------------------------------------------------------------


def _workers(session: Session, who: Principal, settings: Settings) -> list[dict[str, Any]]:
    mine, anybody = workers.doing(session, who.workspace_id), workers.doing(session)
    alive = {worker.id for worker in workers.alive(session, settings.lease_seconds)}
    return [
        _worker(worker, mine.get(worker.id), anybody.get(worker.id), worker.id in alive, who.role == "admin")
        for worker in workers.list_workers(session)
    ]


def _worker(worker: Worker, mine: dict[str, Any] | None, anybody: dict[str, Any] | None, is_alive: bool, is_admin: bool) -> dict[str, Any]:
    nothing: dict[str, Any] = {"run_id": None, "run": None, "jobs": [], "answers": 0}
    own, every = mine or nothing, anybody or nothing
    speaker = (worker.state or {}).get("speaker") or {}
    loaded = list(speaker.get("models") or [])
    return {
        "id": worker.id,
        "host": worker.host.partition("/")[0],
        "status": "lost" if not is_alive else "busy" if anybody else "idle",
        "problem": worker.problem,
        "lanes": worker.lanes,
        "devices": [
            {
                "name": device.get("name"),
                "kind": device.get("kind"),
                "total_bytes": device.get("memory_bytes"),
                "used_bytes": workers.used_bytes(worker, number),
            }
            for number, device in enumerate(worker.devices)
        ],
        "run_id": own["run_id"],
        "run": own["run"],
        "jobs": [{**job, "title": KINDS.get(job["kind"], job["kind"])} for job in own["jobs"]],
        "answers": own["answers"],
        "elsewhere": bool(
            (every["run_id"] and not own["run_id"]) or len(every["jobs"]) > len(own["jobs"]) or every["answers"] > own["answers"]
        ),
        "loaded": loaded if is_admin else len(loaded),
        "versions": worker.versions,
        "started_at": iso(worker.started_at),
        "heartbeat_at": iso(worker.heartbeat_at),
        "started": worker.started_at,
        "heartbeat": worker.heartbeat_at,
    }


# --- the queue ------------------------------------------------------------------------------------------------------------


def _runs(session: Session, workspace_id: str) -> list[dict[str, Any]]:
    places = runs.queue_places(session)
    query = select(Run).where(Run.workspace_id == workspace_id, Run.status == "queued").order_by(Run.priority.desc(), Run.id)
    return [
        {
            "id": run.id,
            "name": run.name,
            "place": places.get(run.id),
            "reason": run.reason,
            "created_at": iso(run.created_at),
            "at": run.created_at,
        }
        for run in session.scalars(query.limit(QUEUE_ROWS))
    ]


def _jobs(session: Session, workspace_id: str) -> list[dict[str, Any]]:
    active = Job.status.in_(("queued", "running"))
    query = select(Job).where(Job.workspace_id == workspace_id, active).order_by(Job.status.desc(), Job.priority.desc(), Job.id)
    waiting = select(Job.id).where(Job.status == "queued").order_by(Job.priority.desc(), Job.id)
    places = {job_id: place for place, job_id in enumerate(session.scalars(waiting), start=1)}
    return [
        {
            "id": job.id,
            "kind": job.kind,
            "title": KINDS.get(job.kind, job.kind),
            "status": job.status,
            "place": places.get(job.id),
            "subject": job.subject_id,
            "page": page_of(job),
            "progress": (job.progress or {}).get("text"),
            "created_at": iso(job.created_at),
            "at": job.created_at,
        }
        for job in session.scalars(query.limit(QUEUE_ROWS))
    ]


def _answers(session: Session) -> int:
    return int(session.scalar(select(func.count()).select_from(Answer).where(Answer.status == "queued")) or 0)


def page_of(job: Job) -> str | None:
    """Address of what a job works for."""
    return f"{PAGES.get(job.kind, '/datasets')}/{job.subject_id}" if job.subject_id else None


def cancel_job(session: Session, workspace_id: str, job_id: str) -> Job:
    """Stop a job for good; what it works for says so. A worker that does it sees its lease gone and ends its child.

    Raises:
        NotFound: there is none with that id in the workspace.
        Conflict: it is over.
    """
    job = jobs.get(session, workspace_id, job_id)
    if job.status not in ("queued", "running"):
        raise Conflict(f"This job has already {job.status}; there is nothing to cancel.")
    failed = FAILED.get(job.kind)
    if failed is not None:
        failed(session, job, CANCELLED, "cancelled")
    job.status, job.reason, job.reason_code = "cancelled", CANCELLED, "cancelled"
    leases.free(job)
    session.flush()
    return job


# --- disk, database, versions ---------------------------------------------------------------------------------------------


def _disk(session: Session, who: Principal, settings: Settings | None) -> dict[str, Any]:
    def total(column: Any, table: Any) -> int:
        query = select(func.coalesce(func.sum(column), 0))
        return int(session.scalar(query if settings else query.where(table.workspace_id == who.workspace_id)) or 0)

    place = storage.root()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    return {
        "scope": "studio" if settings else "workspace",
        "home": str(settings.home) if settings else None,
        "storage": str(settings.storage) if settings else None,
        "datasets_bytes": total(Dataset.source_bytes, Dataset),
        "checkpoints_bytes": total(Checkpoint.size_bytes, Checkpoint),
        "exports_bytes": total(Export.size_bytes, Export),
        "free_bytes": usage.free,
        "total_bytes": usage.total,
    }


def _database(session: Session, settings: Settings | None) -> dict[str, Any]:
    bind = session.get_bind()
    is_sqlite = bind.dialect.name == "sqlite"
    if is_sqlite:
        version = session.scalar(text("SELECT sqlite_version()"))
        size = session.scalar(text("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"))
    else:
        version = str(session.scalar(text("SHOW server_version"))).split(" ")[0]
        size = session.scalar(text("SELECT pg_database_size(current_database())"))
    return {
        "kind": "SQLite" if is_sqlite else "PostgreSQL",
        "version": str(version),
        "size_bytes": int(size or 0),
        "revision": _revision(session),
        "address": bind.engine.url.render_as_string(hide_password=True) if settings else None,
    }


def _revision(session: Session) -> str | None:
    there = "SELECT name FROM sqlite_master" if session.get_bind().dialect.name == "sqlite" else "SELECT tablename AS name FROM pg_tables"
    if session.scalar(text(f"SELECT count(*) FROM ({there}) AS t WHERE name = 'alembic_version'")):
        return str(session.scalar(text("SELECT version_num FROM alembic_version")))
    return None


def _versions() -> dict[str, str]:
    found = {"luthier": __version__, "python": platform.python_version()}
    for package in ("fastapi", "sqlalchemy", "celery", "pydantic"):
        found[package] = metadata.version(package)
    return found


# --- what failed ----------------------------------------------------------------------------------------------------------


def _failures(session: Session, workspace_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def note(kind: str, name: str, reason: str | None, url: str, at: float | None) -> None:
        first = (reason or "It says no reason.").strip().splitlines()[0]
        found.append({"kind": kind, "name": name, "reason": first[:300], "url": url, "finished_at": iso(at), "at": at or 0.0})

    failed_runs = (
        select(Run).where(Run.workspace_id == workspace_id, Run.status == "failed").order_by(Run.finished_at.desc()).limit(FAILURES)
    )
    for run in session.scalars(failed_runs):
        note("run", run.name, run.reason, f"/runs/{run.id}", run.finished_at)
    made: tuple[tuple[type[Any], str, str], ...] = ((Dataset, "dataset", "/datasets"), (Checkpoint, "model", "/models"))
    for table, kind, where in made:
        failed = or_(table.status == "failed", table.status == "quarantined")
        query = select(table).where(table.workspace_id == workspace_id, failed).order_by(table.id.desc()).limit(FAILURES)
        for row in session.scalars(query):
            note(kind, row.name, row.reason, f"{where}/{row.id}", row.created_at)
    packed = select(Export).where(Export.workspace_id == workspace_id, Export.status == "failed").order_by(Export.id.desc()).limit(FAILURES)
    for export in session.scalars(packed):
        note("export", export.file_name, export.reason, f"/exports/{export.id}", export.finished_at or export.created_at)
    counts = (
        select(Job)
        .where(Job.workspace_id == workspace_id, Job.status == "failed", Job.kind == "count_tokens")
        .order_by(Job.id.desc())
        .limit(FAILURES)
    )
    for job in session.scalars(counts):
        note("job", KINDS[job.kind], job.reason, page_of(job) or "/datasets", job.finished_at)
    answers = (
        select(Answer)
        .where(Answer.workspace_id == workspace_id, Answer.status == "failed")
        .order_by(Answer.finished_at.desc())
        .limit(FAILURES)
    )
    for answer in session.scalars(answers):
        note("answer", answer.checkpoint_name, answer.reason, f"/playground/{answer.chat_id}", answer.finished_at)
    return sorted(found, key=lambda each: -each["at"])[:FAILURES]
