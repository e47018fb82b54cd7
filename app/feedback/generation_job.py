"""The job that generates items: what its child is told, and how its answers become items, each once. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import storage
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import after_commit
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.errors import Conflict, NotFound, StudioError
from app.feedback import chunked_jobs, items, projects
from app.feedback.generation import CHUNK, PROJECT_GONE, folder_of
from app.feedback.schemas import ItemIn
from app.feedback.tables import Project
from app.jobs import service as jobs
from app.jobs.tables import Job

TAKEN_AT_ONCE = 500
"""Items that are added in one transaction while the job goes on."""
CHECKPOINT_GONE = (
    "The checkpoint “{name}” was deleted before it had answered every prompt, so the job ended. Items that were complete stay; "
    "start again with another checkpoint."
)


def generate_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the child that generates is told.

    Raises:
        NotFound: the project or the dataset was deleted meanwhile.
        Conflict: a checkpoint was deleted meanwhile, or its files are not there.
    """
    project = session.get(Project, job.subject_id)
    if project is None:
        raise NotFound(PROJECT_GONE)
    found = []
    for candidate in job.payload["candidates"]:
        checkpoint = session.get(Checkpoint, candidate["checkpoint_id"])
        if checkpoint is None:
            raise Conflict(CHECKPOINT_GONE.format(name=candidate["name"]))
        found.append({**candidate, "model": checkpoints.training_paths(session, checkpoint)})
    folder = storage.path(folder_of(project.id, job.id))
    rows, shape = None, None
    if job.payload["texts"] is None and not (folder / "prompts.jsonl").is_file():
        dataset = session.get(Dataset, job.payload["dataset_id"])
        if dataset is None:
            raise NotFound("The dataset with the prompts was deleted before they were read. Start again with another one.")
        rows, shape = str(datasets.rows_file(dataset)), dataset.shape
    return {**job.payload, "candidates": found, "folder": str(folder), "rows": rows, "shape": shape}


def generate_progress(session: Session, job: Job, progress: dict[str, Any]) -> None:
    """Add the items that are complete; end the job when the project or a checkpoint is gone."""
    project = _project(session, job)
    if project is None:
        jobs.fail(session, job, PROJECT_GONE, "deleted")
        path = folder_of(str(job.subject_id))
        after_commit(session, lambda: storage.remove(path))
        return
    there = _there(session, job)
    gone = next((each["name"] for each in job.payload["candidates"] if each["checkpoint_id"] not in there), None)
    try:
        with session.begin_nested():
            _take(session, project, job, there, TAKEN_AT_ONCE)
    except StudioError as error:
        jobs.fail(session, job, error.message, error.code)
    else:
        if gone is not None:
            jobs.fail(session, job, CHECKPOINT_GONE.format(name=gone), "deleted")
    chunked_jobs.went_on(job, progress)
    projects.count(session, project)
    session.flush()


def generate_done(session: Session, job: Job, result: dict[str, Any]) -> None:
    """All is answered: the rest of the items is added, and the raw answers are removed.

    Raises:
        NotFound: the project was deleted meanwhile.
    """
    project = _project(session, job)
    if project is None:
        raise NotFound(PROJECT_GONE)
    _take(session, project, job, _there(session, job), None)
    path = folder_of(project.id, job.id)
    after_commit(session, lambda: storage.remove(path))
    projects.count(session, project)
    session.flush()


def generate_failed(session: Session, job: Job, reason: str, code: str) -> None:
    """It cannot be done: the job's row says why. Raw answers stay, so that it can go on, unless there is no project any more."""
    project = session.get(Project, job.subject_id)
    if project is None:
        path = folder_of(str(job.subject_id))
        after_commit(session, lambda: storage.remove(path))
        return
    projects.count(session, project)
    session.flush()


def _project(session: Session, job: Job) -> Project | None:
    """The project of a job, whose counters nobody else changes meanwhile."""
    query = select(Project).where(Project.id == job.subject_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).first()


def _there(session: Session, job: Job) -> set[str]:
    """Those of the job's checkpoints that have not been deleted."""
    ids = [each["checkpoint_id"] for each in job.payload["candidates"]]
    return set(session.scalars(select(Checkpoint.id).where(Checkpoint.id.in_(ids))))


def _take(session: Session, project: Project, job: Job, there: set[str], most: int | None) -> None:
    """Add the items of finished chunks, in order. How many chunks were taken is written in the same transaction: none comes twice."""
    state = dict(job.result or {})
    number = int(state.get("taken", 0))
    folder = storage.path(folder_of(project.id, job.id)) / "items"
    chunks = chunked_jobs.finished(folder, number, None if most is None else -(-most // CHUNK))
    if chunks:
        items.add(session, project, _read(chunks, there))
        job.result = {**state, "taken": number + len(chunks)}


def _read(chunks: list[Path], there: set[str]) -> Iterator[ItemIn]:
    for file in chunks:
        for line in file.read_bytes().splitlines():
            row = orjson.loads(line)
            for response in row["responses"]:
                if response["checkpoint"] not in there:
                    response["checkpoint"] = None  # its name stays as the source
            yield ItemIn.model_validate(row)
