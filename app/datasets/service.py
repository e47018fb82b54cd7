"""Datasets and their rows: list, read, problems, export, delete. How they come about is in `imports`, their token counts in `tokens`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app import leases, shapes, storage
from app.database import Base, after_commit
from app.datasets.tables import Dataset, Problem
from app.errors import Conflict, Invalid, NotFound
from app.jobs import service as jobs

ROWS, INDEX = "rows.jsonl", "rows.idx"
EXPORTS = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def list_datasets(
    session: Session,
    workspace_id: str,
    *,
    limit: int = 50,
    after: str | None = None,
    q: str | None = None,
    latest: bool = False,
    usable: bool = False,
) -> list[Dataset]:
    """Datasets of the workspace, newest first.

    Args:
        latest: only the newest version of each name.
        usable: only those a run can take.
    """
    query = select(Dataset).where(Dataset.workspace_id == workspace_id)
    if after:
        query = query.where(Dataset.id < after)
    if q:
        query = query.where(Dataset.name.icontains(q, autoescape=True))
    if usable:
        query = query.where(Dataset.status == "ready", Dataset.errors == 0)
    if latest:
        newer = aliased(Dataset)
        same_name = (newer.workspace_id == Dataset.workspace_id) & (newer.name == Dataset.name)
        query = query.where(~select(newer.id).where(same_name, newer.version > Dataset.version).exists())
    return list(session.scalars(query.order_by(Dataset.id.desc()).limit(limit)))


def get(session: Session, workspace_id: str, dataset_id: str) -> Dataset:
    """A dataset by its id; `id@3` is version 3 of the same name.

    Raises:
        NotFound: there is none, or not in this version.
    """
    plain, _, version = dataset_id.partition("@")
    dataset = session.scalars(select(Dataset).where(Dataset.id == plain, Dataset.workspace_id == workspace_id)).first()
    if dataset is None:
        raise NotFound("There is no such dataset; it may have been deleted. The list of datasets shows those there are.")
    if not version:
        return dataset
    if not version.isdecimal() or len(version) > 9:
        raise NotFound(f"“@{version[:20]}” names no version. Write the id, @ and a number, such as {plain}@1.")
    named = session.scalars(
        select(Dataset).where(Dataset.workspace_id == workspace_id, Dataset.name == dataset.name, Dataset.version == int(version))
    ).first()
    if named is None:
        raise NotFound(f"“{dataset.name}” has no version {version}.")
    return named


def versions(session: Session, dataset: Dataset) -> list[Dataset]:
    """All versions of its name, newest first."""
    query = select(Dataset).where(Dataset.workspace_id == dataset.workspace_id, Dataset.name == dataset.name)
    return list(session.scalars(query.order_by(Dataset.version.desc())))


def version_counts(session: Session, workspace_id: str) -> dict[str, int]:
    """How many versions each name has."""
    query = select(Dataset.name, func.count()).where(Dataset.workspace_id == workspace_id).group_by(Dataset.name)
    return {name: count for name, count in session.execute(query)}


def used_by(session: Session, dataset: Dataset, limit: int = 50) -> list[tuple[str, str, str]]:
    """Runs that train or evaluate on it, newest first: id, name, status."""
    runs = Base.metadata.tables["runs"]
    uses = (runs.c.dataset_id == dataset.id) | (runs.c.eval_dataset_id == dataset.id)
    query = select(runs.c.id, runs.c.name, runs.c.status).where(uses).order_by(runs.c.id.desc()).limit(limit)
    return [(row.id, row.name, row.status) for row in session.execute(query)]


def usable_for_run(dataset: Dataset) -> None:
    """Check that a run can train on a dataset.

    Raises:
        Conflict: it is not ready, or has lines with errors.
    """
    if dataset.status == "importing":
        raise Conflict(f"The dataset “{dataset.name}” is still being imported. Start the run when that is done.", field="dataset")
    if dataset.status == "failed":
        raise Conflict(f"The dataset “{dataset.name}” could not be imported: {dataset.reason}", field="dataset")
    if dataset.errors:
        lines = "1 line" if dataset.errors == 1 else f"{dataset.errors:,} lines"
        raise Conflict(
            f"The dataset “{dataset.name}” has {lines} with errors. Leave them out on its page (one click, a new version), "
            "or repair the file and upload it again.",
            field="dataset",
        )


def delete(session: Session, workspace_id: str, dataset_id: str) -> None:
    """Remove a dataset and, after the commit, its files; an import that is still going on is stopped.

    Raises:
        Conflict: runs use it.
    """
    dataset = get(session, workspace_id, dataset_id)
    used = used_by(session, dataset)
    if used:
        count = "a run" if len(used) == 1 else f"{len(used)} runs"
        raise Conflict(f"“{dataset.name}” version {dataset.version} is used by {count} (such as “{used[0][1]}”). Delete those first.")
    for kind in ("import_dataset", "make_dataset", "count_tokens"):
        job = jobs.active_for(session, kind, dataset.id)
        if job is not None:
            job.status, job.reason = "cancelled", "The dataset was deleted."
            leases.free(job)  # the worker that holds it sees the lease gone and ends its child
    path = dataset.path
    session.delete(dataset)
    session.flush()
    after_commit(session, lambda: storage.remove(path))


# --- rows -----------------------------------------------------------------------------------------------------------------


def rows(session: Session, workspace_id: str, dataset_id: str, *, limit: int = 50, after: int = 0) -> list[dict[str, Any]]:
    """Usable rows in order: number (from 1), line, split, row, source; at most `limit` after the number `after`."""
    return read_rows(get(session, workspace_id, dataset_id), after, limit)


def read_rows(dataset: Dataset, after: int, limit: int) -> list[dict[str, Any]]:
    """Rows `after + 1` to `after + limit` of a dataset, by its index."""
    if dataset.status != "ready" or after < 0 or after >= dataset.rows:
        return []
    file = rows_file(dataset)
    found: list[dict[str, Any]] = []
    with open(file, "rb") as stream:
        stream.seek(int(_offsets(file)[after]))
        for number in range(after + 1, min(after + limit, dataset.rows) + 1):
            found.append({"number": number, **orjson.loads(stream.readline())})
    return found


def number_of_line(dataset: Dataset, line: int) -> int | None:
    """Number of the row that stood in a line of the source; None where that line is no usable row."""
    if dataset.status != "ready":
        return None
    file = rows_file(dataset)
    offsets = _offsets(file)
    low, high = 0, dataset.rows
    with open(file, "rb") as stream:
        while low < high:  # rows are in the order of their lines
            middle = (low + high) // 2
            stream.seek(int(offsets[middle]))
            at = orjson.loads(stream.readline())["line"]
            if at == line:
                return middle + 1
            low, high = (middle + 1, high) if at < line else (low, middle)
    return None


def rows_file(dataset: Dataset) -> Path:
    """The file of a dataset's usable rows.

    Raises:
        NotFound: it is not on this machine's disk.
    """
    file = storage.path(dataset.path) / ROWS
    if not file.is_file():
        raise NotFound(
            f"The rows of “{dataset.name}” are missing from the storage folder. Bring them back from a backup, or upload the data again."
        )
    return file


def _offsets(file: Path) -> np.ndarray[Any, Any]:
    return np.memmap(file.with_name(INDEX), dtype="<u8", mode="r")


# --- problems and exports -------------------------------------------------------------------------------------------------


def problems(
    session: Session, workspace_id: str, dataset_id: str, *, limit: int = 50, after: int = 0, severity: str | None = None
) -> list[Problem]:
    """Problems of a dataset, errors first, then by line."""
    dataset = get(session, workspace_id, dataset_id)
    query = select(Problem).where(Problem.dataset_id == dataset.id, Problem.number > after)
    if severity:
        query = query.where(Problem.severity == severity)
    return list(session.scalars(query.order_by(Problem.number).limit(limit)))


def problem_report(session: Session, workspace_id: str, dataset_id: str) -> Iterator[str]:
    """The kept problems as CSV, line by line."""
    found = problems(session, workspace_id, dataset_id, limit=10_000)
    header = ["line", "severity", "field", "message", "excerpt"]
    table = [[problem.line, problem.severity, problem.field, problem.message, problem.excerpt] for problem in found]
    yield from _csv(header, iter(table))


def export(dataset: Dataset, kind: str) -> Iterator[bytes]:
    """The usable rows in their canonical fields, as JSONL or CSV, piece by piece.

    Raises:
        Invalid: no such format.
        Conflict: it is not ready.
    """
    if kind not in EXPORTS:
        raise Invalid(f"There is no export as “{kind[:20]}”. There are {', '.join(EXPORTS)}.", field="format")
    if dataset.status != "ready":
        raise Conflict(f"“{dataset.name}” is {dataset.status}, so there are no rows to export.")
    file = rows_file(dataset)
    return _as_jsonl(file) if kind == "jsonl" else _as_csv(file, dataset.shape or "text")


def _as_jsonl(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as stream:
        for line in stream:
            yield orjson.dumps(orjson.loads(line)["row"]) + b"\n"


def _as_csv(file: Path, shape: str) -> Iterator[bytes]:
    fields = list(shapes.SHAPES[shape].fields)

    def table() -> Iterator[list[Any]]:
        with open(file, "rb") as stream:
            for line in stream:
                row = orjson.loads(line)["row"]
                yield [row[name] if isinstance(row[name], str) else json.dumps(row[name], ensure_ascii=False) for name in fields]

    return (piece.encode() for piece in _csv(fields, table()))


def _csv(header: list[str], table: Iterator[list[Any]]) -> Iterator[str]:
    """CSV in which no cell is taken for a formula by a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header)
    for cells in table:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells])
        if buffer.tell() > 64 * 1024:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
