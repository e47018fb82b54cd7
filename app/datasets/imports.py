"""Datasets coming about: by upload, from another version, by a recipe; and what the worker's jobs read and write of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import recipes, storage
from app.database import new_id
from app.datasets import service, written
from app.datasets.schemas import Split, clean_file_name, clean_name, format_of
from app.datasets.tables import Dataset, Problem
from app.datasets.uploads import Received
from app.errors import Conflict
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.recipes.base import WrittenRecipe
from app.settings import get_settings
from app.webhooks import service as webhooks

_WAITING = {"done": 0, "total": None, "text": "Waiting for a worker"}


# --- new versions ---------------------------------------------------------------------------------------------------------


def _add(session: Session, workspace_id: str, user_id: str | None, name: str, **fields: Any) -> Dataset:
    """A row that waits for its import."""
    return add_version(session, workspace_id, name, created_by=user_id, progress=dict(_WAITING), status="importing", **fields)


def add_version(session: Session, workspace_id: str, name: str, **fields: Any) -> Dataset:
    """A row with the next version of its name; of two at once each gets its own.

    Raises:
        Conflict: others add versions of this name all the time.
    """
    for _ in range(10):
        last = session.scalar(select(func.max(Dataset.version)).where(Dataset.workspace_id == workspace_id, Dataset.name == name))
        dataset = Dataset(workspace_id=workspace_id, name=name, version=(last or 0) + 1, **fields)
        try:
            with session.begin_nested():
                session.add(dataset)
        except IntegrityError:
            continue
        return dataset
    raise Conflict(f"Somebody else adds versions of “{name}” at this moment. Try again.")


def create_upload(
    session: Session,
    workspace_id: str,
    user_id: str | None,
    received: Received,
    *,
    name: str,
    mapping: dict[str, str] | None,
    split: Split | None,
) -> Dataset:
    """The row of a received upload, its folder put in place, and the job that parses it.

    Raises:
        Invalid: the name cannot be used.
    """
    dataset = _add(
        session,
        workspace_id,
        user_id,
        clean_name(name or received.file_name.rsplit(".", 1)[0]),
        id=received.dataset_id,
        mapping=mapping,
        split=split.model_dump() if split else None,
        source_name=received.file_name,
        source_bytes=received.size,
        source_sha256=received.sha256,
        path=received.path,
        lineage={"kind": "upload", "file": received.file_name},
    )
    received.place()
    jobs.enqueue(session, workspace_id=workspace_id, kind="import_dataset", subject_id=dataset.id, created_by=user_id)
    return dataset


def leave_out(session: Session, workspace_id: str, user_id: str | None, dataset_id: str) -> Dataset:
    """A new version of the same source without its error lines; a job makes it.

    Raises:
        Conflict: it has no error lines, or is not ready.
    """
    dataset = service.get(session, workspace_id, dataset_id)
    if dataset.status != "ready":
        raise Conflict(f"“{dataset.name}” is {dataset.status}, so no lines can be left out.")
    if not dataset.errors:
        raise Conflict(f"“{dataset.name}” has no lines with errors; there is nothing to leave out.")
    return _again(session, dataset, user_id, dataset.mapping, {"kind": "leave_out", "lines": dataset.errors})


def resplit(session: Session, workspace_id: str, user_id: str | None, dataset_id: str, split: Split | None) -> Dataset:
    """A new version of the same source with another share kept for evaluation; a job makes it.

    Raises:
        Conflict: it is not ready, or is split like that already.
    """
    dataset = service.get(session, workspace_id, dataset_id)
    if dataset.status != "ready":
        raise Conflict(f"“{dataset.name}” is {dataset.status}, so it cannot be split.")
    asked = split.model_dump() if split else None
    if asked == dataset.split:
        raise Conflict(
            f"“{dataset.name}” version {dataset.version} is split like that already. Choose another share or seed.", field="split"
        )
    kept = {"leave_out": True} if _leaves_out(dataset) else {}
    new = _again(session, dataset, user_id, dataset.mapping, {"kind": "split", **kept})
    new.split = asked
    return new


def remap(session: Session, workspace_id: str, user_id: str | None, dataset_id: str, mapping: dict[str, str] | None) -> Dataset:
    """Read the source again under another mapping: in place where the import failed, else as a new version.

    Raises:
        Conflict: it is being imported, or was not uploaded.
    """
    dataset = service.get(session, workspace_id, dataset_id)
    session.refresh(dataset, with_for_update=True)  # of two who map it at the same moment, one starts an import
    if dataset.status == "importing" or jobs.active_for(session, "import_dataset", dataset.id):
        raise Conflict(f"“{dataset.name}” is still being imported. Wait until that is done.")
    if (dataset.lineage or {}).get("recipe"):
        raise Conflict(f"“{dataset.name}” was made by a recipe and has no columns to map.")
    if dataset.status == "ready":
        return _again(session, dataset, user_id, mapping, {"kind": "mapping"})
    dataset.status, dataset.reason, dataset.mapping, dataset.progress = "importing", None, mapping, dict(_WAITING)
    dataset.errors = dataset.warnings = 0
    session.execute(delete(Problem).where(Problem.dataset_id == dataset.id))
    jobs.enqueue(session, workspace_id=workspace_id, kind="import_dataset", subject_id=dataset.id, created_by=user_id)
    return dataset


def _again(session: Session, parent: Dataset, user_id: str | None, mapping: dict[str, str] | None, lineage: dict[str, Any]) -> Dataset:
    new = new_id("ds")
    origin = {name: value for name, value in (parent.lineage or {}).items() if name in ("recipe", "params", "part", "made")}
    dataset = _add(
        session,
        parent.workspace_id,
        user_id,
        parent.name,
        id=new,
        mapping=mapping,
        split=parent.split,
        source_name=parent.source_name,
        source_bytes=parent.source_bytes,
        source_sha256=parent.source_sha256,
        path=f"datasets/{new}",
        parent_id=parent.id,
        lineage={**origin, **lineage, "from": parent.id, "from_version": parent.version, "file": parent.source_name},
    )
    jobs.enqueue(session, workspace_id=parent.workspace_id, kind="import_dataset", subject_id=dataset.id, created_by=user_id)
    return dataset


def create_from_recipe(
    session: Session, workspace_id: str, user_id: str | None, *, recipe: str, name: str, params: dict[str, Any], split: Split | None = None
) -> list[Dataset]:
    """Rows of the datasets a recipe makes (the first is the one to train on) and the jobs that make them.

    Raises:
        NotFound: there is no such recipe.
        Invalid: name or parameters cannot be used.
    """
    kind, checked = recipes.check(recipe, params)
    writes = isinstance(kind, WrittenRecipe)
    if writes:
        written.check(session, workspace_id, checked)
    made: list[Dataset] = []
    for part, ending in kind.parts(checked).items():
        new = new_id("ds")
        dataset = _add(
            session,
            workspace_id,
            user_id,
            clean_name(name + ending),
            id=new,
            split=split.model_dump() if split and not ending else None,
            source_name=clean_file_name(f"{name}{ending}.jsonl"),
            path=f"datasets/{new}",
            lineage={"kind": "recipe", "recipe": recipe, "part": part, "params": checked.model_dump(mode="json")},
        )
        payload = {"recipe": recipe, "params": checked.model_dump(mode="json"), "part": part}
        if not writes:
            jobs.enqueue(
                session, workspace_id=workspace_id, kind="make_dataset", subject_id=dataset.id, payload=payload, created_by=user_id
            )
        made.append(dataset)
    if writes:
        written.enqueue(session, user_id, checked, recipe, made)
    return made


# --- the jobs -------------------------------------------------------------------------------------------------------------


def import_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the parsing child is told.

    Raises:
        Conflict: the dataset was deleted meanwhile.
    """
    dataset = _subject(session, job)
    if dataset is None:
        raise Conflict("The dataset was deleted.")
    return _spec_of(session, dataset)


def _spec_of(session: Session, dataset: Dataset) -> dict[str, Any]:
    settings = get_settings()
    kind = format_of(dataset.source_name)
    parent = session.get(Dataset, dataset.parent_id) if dataset.parent_id else None
    before = service.version_before(session, dataset)
    return {
        "folder": str(storage.path(dataset.path)),
        "source": f"source.{kind}",
        "link_from": str(storage.path(parent.path)) if parent else None,
        "format": kind,
        "mapping": dataset.mapping,
        "split": dataset.split,
        "leave_out": _leaves_out(dataset),
        "compare_with": str(storage.path(before.path)) if before else None,
        "max_line_bytes": settings.max_line_bytes,
        "max_rows": settings.max_rows,
        "max_bytes": settings.max_upload_bytes,
        "memory_bytes": settings.parse_memory_bytes,
    }


def _leaves_out(dataset: Dataset) -> bool:
    """Whether lines with errors are left away."""
    lineage = dataset.lineage or {}
    return lineage.get("kind") == "leave_out" or bool(lineage.get("leave_out"))


def make_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the child that runs a recipe is told.

    Raises:
        Conflict: the dataset was deleted meanwhile.
    """
    spec = {**import_spec(session, job), "recipe": job.payload["recipe"], "params": job.payload["params"], "part": job.payload["part"]}
    kind, checked = recipes.check(job.payload["recipe"], job.payload["params"])
    if not isinstance(kind, WrittenRecipe):
        return spec
    others = {part: session.get(Dataset, id) for part, id in job.payload["others"].items()}
    return {
        **spec,
        "others": {part: {**_spec_of(session, each), "dataset": each.id} for part, each in others.items() if each is not None},
        "writing": written.spec(session, job, checked),
        "memory_bytes": None,  # of a process that reads a stranger's file; this one may hold models
    }


def _subject(session: Session, job: Job) -> Dataset | None:
    return session.get(Dataset, job.subject_id) if job.subject_id else None


def _made_by(session: Session, job: Job) -> list[Dataset]:
    """The datasets a job makes, those that were deleted left out."""
    ids = [job.subject_id, *(job.payload.get("others") or {}).values()]
    return [dataset for id in ids if id and (dataset := session.get(Dataset, id)) is not None]


def import_progress(session: Session, job: Job, progress: dict[str, Any]) -> None:
    """Show how far the child is."""
    for dataset in _made_by(session, job):
        dataset.progress = {name: progress.get(name) for name in ("done", "total", "text")}


def import_done(session: Session, job: Job, result: dict[str, Any]) -> None:
    """Write what the child found: counts and problems, or why no row can be used."""
    others = result.get("others") or {}
    for dataset in _made_by(session, job):
        its = result if dataset.id == job.subject_id else others.get(dataset.id)
        if its is not None:
            _done(session, dataset, {**its, "made": result.get("made")})
    if result.get("made"):
        written.forget(session, job)


def _done(session: Session, dataset: Dataset, result: dict[str, Any]) -> None:
    dataset.progress = None
    dataset.columns = result["columns"]
    dataset.errors, dataset.warnings = result.get("errors", 0), result.get("warnings", 0)
    lineage = {name: value for name, value in (dataset.lineage or {}).items() if name != "preview"}
    if result["made"]:
        lineage["made"] = result["made"]
    if result.get("failed"):
        dataset.status, dataset.reason = "failed", result["failed"]
        dataset.lineage = {**lineage, "unit": result["unit"], "preview": result["preview"]}
    else:
        dataset.status, dataset.reason, dataset.checks = "ready", None, _checked(session, dataset, result.get("checks") or {})
        for name in ("shape", "rows", "train_rows", "eval_rows", "left_out", "sha256"):
            setattr(dataset, name, result[name])
        dataset.lineage = {**lineage, "form": result["form"], "unit": result["unit"]}
    if "source_bytes" in result:
        dataset.source_bytes, dataset.source_sha256 = result["source_bytes"], result["source_sha256"]
    session.execute(delete(Problem).where(Problem.dataset_id == dataset.id))
    problems = [
        {"dataset_id": dataset.id, "number": number, **problem} for number, problem in enumerate(result.get("problems", []), start=1)
    ]
    if problems:
        session.execute(insert(Problem), problems)
    session.flush()
    webhooks.dataset_ended(session, dataset)


def _checked(session: Session, dataset: Dataset, checks: dict[str, Any]) -> dict[str, Any]:
    """What the child found out, with the version it compared with."""
    before = service.version_before(session, dataset) if checks.get("changes") else None
    return {**checks, "changes": {**checks["changes"], "version": before.version} if before else None}


def import_failed(session: Session, job: Job, reason: str, code: str) -> None:
    """Say why the import ended without a result."""
    if "others" in job.payload:  # a model wrote; it was no file that took too much
        code = ""
    for dataset in _made_by(session, job):
        _failed(session, dataset, reason, code)


def _failed(session: Session, dataset: Dataset, reason: str, code: str) -> None:
    if code in ("memory", "killed") and "memory" not in reason:
        reason = "The process that read the file was killed, most likely because it needed more memory than an import may take."
    if code in ("memory", "killed"):
        reason += " Split the file, write Parquet with smaller row groups, or ask an admin to raise LUTHIER_PARSE_MEMORY_BYTES."
    dataset.status, dataset.reason, dataset.progress = "failed", reason, None
    webhooks.dataset_ended(session, dataset)
    for left in storage.path(dataset.path).glob(".*"):  # what a killed child had begun to write
        left.unlink(missing_ok=True)
