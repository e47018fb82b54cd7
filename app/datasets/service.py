"""Datasets and their rows: list, read, search, compare, problems, delete. How they come about is in `imports`, how they go out in
`exporting`, their token counts in `tokens`."""

from __future__ import annotations

import mmap
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from app import leases, storage
from app.database import Base, after_commit
from app.datasets.tables import Dataset, Problem, TokenCount
from app.errors import Conflict, NotFound
from app.jobs import service as jobs

ROWS, INDEX, KEYS = "rows.jsonl", "rows.idx", "rows.keys"
SEARCH_SECONDS = 1.5
"""How long a search looks before it says how far it came."""
_SEARCH_BYTES = 8 * 1024**2


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


def version_before(session: Session, dataset: Dataset) -> Dataset | None:
    """The newest older version of its name that is ready."""
    same_name = (Dataset.workspace_id == dataset.workspace_id) & (Dataset.name == dataset.name)
    older = select(Dataset).where(same_name, Dataset.version < dataset.version, Dataset.status == "ready")
    return session.scalars(older.order_by(Dataset.version.desc()).limit(1)).first()


def version_counts(session: Session, workspace_id: str) -> dict[str, int]:
    """How many versions each name has."""
    query = select(Dataset.name, func.count()).where(Dataset.workspace_id == workspace_id).group_by(Dataset.name)
    return {name: count for name, count in session.execute(query)}


@dataclass(frozen=True)
class Beside:
    """What a list shows of a dataset beside its own row."""

    versions: int = 1
    tokens: int | None = None
    runs: int = 0


def beside(session: Session, datasets: list[Dataset]) -> dict[str, Beside]:
    """Versions, counted tokens and runs of several datasets, by their id."""
    if not datasets:
        return {}
    ids = [dataset.id for dataset in datasets]
    names = version_counts(session, datasets[0].workspace_id)
    runs = Base.metadata.tables["runs"]
    used: Counter[str] = Counter()
    for column in (runs.c.dataset_id, runs.c.eval_dataset_id):
        used.update({row[0]: row[1] for row in session.execute(select(column, func.count()).where(column.in_(ids)).group_by(column))})
    ready = select(TokenCount.dataset_id, func.min(TokenCount.tokens)).where(TokenCount.dataset_id.in_(ids), TokenCount.status == "ready")
    counted = {row[0]: row[1] for row in session.execute(ready.group_by(TokenCount.dataset_id))}
    return {each.id: Beside(names.get(each.name, 1), counted.get(each.id), used[each.id]) for each in datasets}


def used_by(session: Session, dataset: Dataset, limit: int = 50) -> list[tuple[str, str, str]]:
    """Runs that train or evaluate on it, newest first: id, name, status."""
    runs = Base.metadata.tables["runs"]
    uses = (runs.c.dataset_id == dataset.id) | (runs.c.eval_dataset_id == dataset.id)
    query = select(runs.c.id, runs.c.name, runs.c.status).where(uses).order_by(runs.c.id.desc()).limit(limit)
    return [(row.id, row.name, row.status) for row in session.execute(query)]


def comparable(session: Session, dataset: Dataset, limit: int = 100) -> list[Dataset]:
    """Other datasets that are ready, in their newest version: what its prompts can be compared with."""
    found = list_datasets(session, dataset.workspace_id, limit=limit, latest=True)
    return [each for each in found if each.status == "ready" and each.id != dataset.id]


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
        named = ", ".join(f"“{name}”" for _, name, _ in used[:3]) + (" and more" if len(used) > 3 else "")
        raise Conflict(f"“{dataset.name}” version {dataset.version} is used by {count}: {named}. Delete those first.")
    for kind in ("import_dataset", "make_dataset", "count_tokens"):
        job = jobs.active_for(session, kind, dataset.id)
        if job is not None:
            job.status, job.reason = "cancelled", "The dataset was deleted."
            leases.free(job)  # the worker that holds it sees the lease gone and ends its child
            for id in (job.payload.get("others") or {}).values():  # the job makes these too
                other = session.get(Dataset, id)
                if other is not None and other.status == "importing":
                    other.status, other.progress = "failed", None
                    other.reason = f"“{dataset.name}”, which was made together with it, was deleted. Start the recipe again."
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


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    rows: list[dict[str, Any]]
    """Rows that hold the text, each with `excerpt`: the text before it, itself, and after it."""
    next: int | None
    """The row to go on after; None when the end was reached."""


def search(dataset: Dataset, text: str, after: int = 0, limit: int = 20) -> Found:
    """Rows after a number that hold a text, whatever its case (of the letters A to Z, for others as written)."""
    if dataset.status != "ready" or not text or after >= dataset.rows:
        return Found([], None)
    file, end = rows_file(dataset), time.monotonic() + SEARCH_SECONDS
    offsets = _offsets(file)
    pattern = re.compile(re.escape(orjson.dumps(text)[1:-1]), re.IGNORECASE)
    found: list[dict[str, Any]] = []
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = int(offsets[after])
        while start < len(content):
            # A piece at a time, so that the clock is looked at.
            stop = min(len(content), start + _SEARCH_BYTES)
            place = int(np.searchsorted(offsets, stop, side="left"))
            stop = int(offsets[min(place, dataset.rows)])
            hit = pattern.search(content, start, stop)
            if hit is None:
                start = stop
                if start < len(content) and time.monotonic() > end:
                    return Found(found, int(np.searchsorted(offsets, start, side="right")) - 1)
                continue
            number = int(np.searchsorted(offsets, hit.start(), side="right"))
            record = orjson.loads(content[int(offsets[number - 1]) : int(offsets[number])])
            start = int(offsets[number])
            excerpt = _excerpt(record["row"], text)
            if excerpt is not None:
                found.append({"number": number, "line": record["line"], "split": record["split"], "excerpt": excerpt})
            if len(found) == limit or time.monotonic() > end:
                return Found(found, number if number < dataset.rows else None)
    return Found(found, None)


def _excerpt(value: Any, text: str) -> tuple[str, str, str] | None:
    """The first place of a text in the values of a row: before, itself, after."""
    if isinstance(value, str):
        at = value.casefold().find(text.casefold()) if len(value.casefold()) == len(value) else value.find(text)
        if at < 0:
            return None
        return value[max(0, at - 40) : at], value[at : at + len(text)], value[at + len(text) : at + len(text) + 120]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for each in inner if (found := _excerpt(each, text)) is not None), None)


@dataclass(frozen=True)
class Overlap:
    """Rows of a dataset whose prompt another dataset holds too, but for case and spaces."""

    count: int
    rows: list[tuple[int, int]]
    """The first of them: number here, number there."""


def overlap(dataset: Dataset, other: Dataset, limit: int = 20) -> Overlap:
    """Which prompts of a dataset are also in another: what would be known before an evaluation asks it.

    Raises:
        Conflict: one of them is not ready, or was imported before such keys were kept.
    """
    ours, theirs = _keys(dataset), _keys(other)
    order = np.argsort(theirs, kind="stable")
    places = np.minimum(np.searchsorted(theirs[order], ours), max(0, len(theirs) - 1))
    both = np.flatnonzero(theirs[order][places] == ours) if len(theirs) else np.array([], dtype=np.int64)
    return Overlap(len(both), [(int(row) + 1, int(order[places[row]]) + 1) for row in both[:limit]])


def _keys(dataset: Dataset) -> np.ndarray[Any, Any]:
    if dataset.status != "ready":
        raise Conflict(f"“{dataset.name}” is {dataset.status}, so it cannot be compared.", field="with")
    file = rows_file(dataset).with_name(KEYS)
    if not file.is_file():
        raise Conflict(
            f"“{dataset.name}” version {dataset.version} was imported by an older Luthier. Upload it again to compare.", field="with"
        )
    keys: np.ndarray[Any, Any] = np.memmap(file, dtype="<u8", mode="r").reshape(-1, 2)[:, 1]
    return keys


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


# --- problems -------------------------------------------------------------------------------------------------------------


def problems(
    session: Session, workspace_id: str, dataset_id: str, *, limit: int = 50, after: int = 0, severity: str | None = None
) -> list[Problem]:
    """Problems of a dataset, errors first, then by line."""
    dataset = get(session, workspace_id, dataset_id)
    query = select(Problem).where(Problem.dataset_id == dataset.id, Problem.number > after)
    if severity:
        query = query.where(Problem.severity == severity)
    return list(session.scalars(query.order_by(Problem.number).limit(limit)))
