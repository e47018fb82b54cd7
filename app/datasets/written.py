"""Datasets whose rows a model writes: what their recipe may name, the one job that makes all parts, what its child is told."""

from __future__ import annotations

import shutil
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import references, storage
from app.checkpoints import references as checkpoint_references
from app.checkpoints import service as checkpoints
from app.database import after_commit
from app.datasets import service
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, NotFound
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.recipes.base import JOURNAL, RecipeParams, WrittenParams
from app.settings import get_settings


def check(session: Session, workspace_id: str, params: RecipeParams) -> None:
    """See that everything the settings name is there and can be used.

    Raises:
        Invalid: a checkpoint or a dataset cannot be used, or nobody is there to write; the message names the field.
    """
    try:
        named = checkpoint_references.check(session, workspace_id, "params", params)
    except Invalid as error:
        raise Invalid(error.message, field=(error.field or "").removeprefix("params.") or None) from None
    for each in named:
        checkpoints.training_paths(session, each)  # its files, and those below it
    shapes = [str(_dataset(session, workspace_id, data).shape) for data in references.named_data(params)]
    for field in asks_endpoint(params, shapes):
        settings = get_settings()
        if not settings.writer_url or not settings.writer_model:
            does = "judges" if field == "judge" else "writes"
            otherwise = "It can be left empty once an admin has set LUTHIER_WRITER_URL and LUTHIER_WRITER_MODEL."
            raise Invalid(f"Name a checkpoint that {does}. {otherwise}", field=field)


def asks_endpoint(params: RecipeParams, shapes: list[str]) -> list[str]:
    """Fields that name who writes and are empty, so that the endpoint is asked."""
    return [name for name in params.writers(shapes) if not getattr(params, name)] if isinstance(params, WrittenParams) else []


def _dataset(session: Session, workspace_id: str, named: references.NamedData) -> Dataset:
    try:
        dataset = service.get(session, workspace_id, named.id)
    except NotFound:
        raise Invalid("There is no such dataset. It may have been deleted; choose another.", field=named.field) from None
    if dataset.status != "ready":
        raise Invalid(f"“{dataset.name}” is {dataset.status}; choose one that is ready.", field=named.field)
    if dataset.shape not in named.shapes:
        raise Invalid(f"“{dataset.name}” has rows of the shape {dataset.shape}; this needs {' or '.join(named.shapes)}.", field=named.field)
    return dataset


def enqueue(session: Session, user_id: str | None, params: RecipeParams, recipe: str, made: list[Dataset]) -> Job:
    """The one job that makes all parts, on a device where checkpoints are asked; it goes on with what an earlier try had answered."""
    first = made[0]
    parts = {str((each.lineage or {})["part"]): each.id for each in made}
    part = next(iter(parts))
    before = _tried(session, first)
    if before is not None:
        target, source = storage.path(first.path), storage.path(before.path) / JOURNAL
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / JOURNAL)
    payload = {
        "recipe": recipe,
        "params": params.model_dump(mode="json"),
        "part": part,
        "others": {name: id for name, id in parts.items() if name != part},
    }
    lane = "device" if list(references.named(params)) else "cpu"
    return jobs.enqueue(
        session,
        workspace_id=first.workspace_id,
        kind="make_dataset",
        subject_id=first.id,
        payload=payload,
        created_by=user_id,
        lane=lane,
    )


def _tried(session: Session, dataset: Dataset) -> Dataset | None:
    """The latest version before it that failed under the same settings, where its answers are still there."""
    same = (Dataset.workspace_id == dataset.workspace_id) & (Dataset.name == dataset.name) & (Dataset.version < dataset.version)
    for before in session.scalars(select(Dataset).where(same, Dataset.status == "failed").order_by(Dataset.version.desc()).limit(5)):
        keys = ("recipe", "part", "params")
        alike = all((before.lineage or {}).get(key) == (dataset.lineage or {}).get(key) for key in keys)
        if alike and (storage.path(before.path) / JOURNAL).is_file():
            return before
    return None


def spec(session: Session, job: Job, params: RecipeParams) -> dict[str, Any]:
    """What the child is told of those it may ask. The key is in here and nowhere else.

    Raises:
        Invalid: a checkpoint or dataset is gone.
        Conflict: its files are gone, or no endpoint is set any more.
    """
    settings = get_settings()
    data = {each.id: _dataset(session, job.workspace_id, each) for each in references.named_data(params)}
    endpoint = None
    if asks_endpoint(params, [str(each.shape) for each in data.values()]):
        if not settings.writer_url or not settings.writer_model:
            raise Conflict("This worker has no LUTHIER_WRITER_URL and LUTHIER_WRITER_MODEL. An admin has to set them for workers too.")
        endpoint = {"url": settings.writer_url, "key": settings.writer_key.strip(), "model": settings.writer_model}
    return {
        "checkpoints": checkpoint_references.paths(session, job.workspace_id, params),
        "datasets": {id: {"file": str(service.rows_file(each)), "shape": each.shape, "name": each.name} for id, each in data.items()},
        "endpoint": endpoint,
    }


def forget(session: Session, job: Job) -> None:
    """Remove the answers of a job that is done: the rows hold them now."""
    dataset = session.get(Dataset, job.subject_id) if job.subject_id else None
    if dataset is not None:
        file = f"{dataset.path}/{JOURNAL}"
        after_commit(session, lambda: storage.remove(file))
