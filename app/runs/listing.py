"""Lists of runs: filters, orders, places in the queue, what can be filtered by. Reads only."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, String, and_, case, cast, false, func, or_, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import InstrumentedAttribute, Session
from sqlalchemy.types import Double

from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.errors import Invalid
from app.runs.schemas import ACTIVE, STATUSES
from app.runs.tables import Run

FILTERS = ("method", "tuner", "model", "dataset", "tag")
SORTS = ("name", "status", "loss", "eval", "time", "started")
"""Orders by a column; a minus before the name turns one round. Without one, active runs come first, then the newest."""
TAGS_OF = 500
"""Tags are gathered from so many of the newest runs."""
_METRIC = {"loss": "loss", "eval": "eval_loss", "time": "elapsed_seconds"}


def _filtered(
    query: Select[Any],
    workspace_id: str,
    status: str | None,
    q: str | None,
    method: str | None,
    tag: str | None,
    tuner: str | None = None,
    model: str | None = None,
    dataset: str | None = None,
) -> Select[Any]:
    query = query.where(Run.workspace_id == workspace_id)
    if status:
        if status not in STATUSES:
            raise Invalid(f"There is no status “{status}”. Known are {', '.join(STATUSES)}.", field="status")
        query = query.where(Run.status == status)
    if method:
        query = query.where(Run.method == method)
    if tuner:
        query = query.where(Run.tuner == tuner)
    if model:
        query = query.where(_of(Run.checkpoint_id, Checkpoint, or_(Checkpoint.id == model, Checkpoint.name == model)))
    if dataset:
        query = query.where(_of(Run.dataset_id, Dataset, or_(Dataset.id == dataset, Dataset.name == dataset)))
    if q:
        pattern = f"%{q.lower().replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"

        def is_like(field: Any) -> ColumnElement[bool]:
            return func.lower(field).like(pattern, escape="!")

        of_data, of_model = (
            _of(Run.dataset_id, Dataset, is_like(Dataset.name)),
            _of(Run.checkpoint_id, Checkpoint, is_like(Checkpoint.name)),
        )
        query = query.where(or_(is_like(Run.name), is_like(Run.method), of_data, of_model))
    if tag:
        query = query.where(_has_tag(tag))
    return query


def _of(key: InstrumentedAttribute[str], table: Any, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    return key.in_(select(table.id).where(condition))


def _has_tag(tag: str) -> ColumnElement[bool]:
    # JSON of a list of texts: the tag stands between quotes, with what JSON escapes written as JSON writes it.
    return or_(*(cast(Run.tags, String).contains(f'"{form}"', autoescape=True) for form in _written(tag)))


def _written(tag: str) -> set[str]:
    """How a text can stand in JSON: letters beyond ASCII as they are (Postgres), or escaped (Python's writer, on SQLite)."""
    return {json.dumps(tag)[1:-1], json.dumps(tag, ensure_ascii=False)[1:-1]}


def list_runs(
    session: Session, workspace_id: str, *, limit: int = 50, after: str | None = None, status: str | None = None, **filters: str | None
) -> list[Run]:
    """Runs of the workspace, newest first, at most `limit` of those older than the run `after`.

    Args:
        filters: `q` (text in the names), `method`, `tuner`, `model`, `dataset`, `tag`.
    """
    query = _filtered(select(Run), workspace_id, status, **_all(filters))
    if after:
        query = query.where(Run.id < after)
    return list(session.scalars(query.order_by(Run.id.desc()).limit(limit)))


def _all(filters: dict[str, str | None]) -> dict[str, str | None]:
    return {name: filters.get(name) or None for name in ("q", *FILTERS)}


def counts(session: Session, workspace_id: str, **filters: str | None) -> dict[str, int]:
    """How many runs the workspace has in each status; filters as in `list_runs`."""
    counted: Any = select(Run.status, func.count())
    query = _filtered(counted, workspace_id, None, **_all(filters)).group_by(Run.status)
    return {status: count for status, count in session.execute(query)}


def count_active(session: Session, workspace_id: str) -> int:
    """How many runs of the workspace a worker holds now; cheap, since every page shows it."""
    query = select(func.count()).select_from(Run).where(Run.status.in_(ACTIVE), Run.workspace_id == workspace_id)
    return int(session.scalar(query) or 0)


def queue_places(session: Session) -> dict[str, int]:
    """Place in the queue (1 is next) of every waiting run."""
    ids = session.scalars(select(Run.id).where(Run.status == "queued").order_by(Run.priority.desc(), Run.id))
    return {run_id: place for place, run_id in enumerate(ids, start=1)}


def queue_place(session: Session, run: Run) -> int | None:
    """Place of one run in the queue; None when it does not wait."""
    if run.status != "queued":
        return None
    before = or_(Run.priority > run.priority, (Run.priority == run.priority) & (Run.id < run.id))
    return 1 + int(session.scalar(select(func.count()).select_from(Run).where(Run.status == "queued", before)) or 0)


# --- one page of the list -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slice:
    """Some runs in order, and the cursor of what follows; None at the end."""

    runs: list[Run]
    older: str | None


def sorted_runs(
    session: Session,
    workspace_id: str,
    *,
    sort: str = "",
    after: str | None = None,
    limit: int = 50,
    status: str | None = None,
    **filters: str | None,
) -> Slice:
    """One page of the list in the order `sort`, from a cursor on.

    A cursor holds the value and the id of the last run seen, so that runs that come, go or move meanwhile neither repeat nor hide others.

    Raises:
        Invalid: there is no such order, or the cursor is of another one.
    """
    name = sort.removeprefix("-")
    if sort and name not in SORTS:
        raise Invalid(f"Runs are not sorted by “{name[:40]}”. Known are {', '.join(SORTS)}.", field="sort")
    query = _filtered(select(Run), workspace_id, status, **_all(filters))
    if not sort:
        return _pinned(session, query, after, limit)
    key, has_none = _key(session, name)
    falling = sort.startswith("-")
    if after:
        query = query.where(_past(key, *_cursor(after, name), falling=falling, has_none=has_none))
    order = [key.is_(None)] if has_none else []
    rows = session.execute(
        query.add_columns(key.label("key")).order_by(*order, key.desc() if falling else key.asc(), Run.id.desc()).limit(limit + 1)
    ).all()
    older = f"{_text(rows[limit - 1][1])}|{rows[limit - 1][0].id}" if len(rows) > limit else None
    return Slice([row[0] for row in rows[:limit]], older)


def _pinned(session: Session, query: Select[Any], after: str | None, limit: int) -> Slice:
    """Active runs, newest first, then the others, newest first; the cursor says in which of the two parts it is."""
    part, _, run_id = (after or "active|").partition("|")
    if part not in ("active", "rest"):
        raise Invalid("“after” is a cursor from an earlier page.", field="after")
    found: list[Run] = []
    if part == "active":
        active = query.where(Run.status.in_(ACTIVE), Run.id < run_id) if run_id else query.where(Run.status.in_(ACTIVE))
        found = list(session.scalars(active.order_by(Run.id.desc()).limit(limit + 1)))
        if len(found) > limit:
            return Slice(found[:limit], f"active|{found[limit - 1].id}")
        run_id = ""
    rest = query.where(Run.status.not_in(ACTIVE))
    if run_id:
        rest = rest.where(Run.id < run_id)
    more = list(session.scalars(rest.order_by(Run.id.desc()).limit(limit - len(found) + 1)))
    runs = [*found, *more]
    if len(runs) <= limit:
        return Slice(runs, None)
    shown = runs[:limit]
    return Slice(shown, f"rest|{shown[-1].id}" if len(shown) > len(found) else "rest|")


def _key(session: Session, name: str) -> tuple[ColumnElement[Any], bool]:
    """What an order compares, and whether it can be missing (missing ones come last)."""
    if name == "name":
        return func.lower(Run.name), False
    if name == "status":
        return case(*((Run.status == status, place) for place, status in enumerate(STATUSES)), else_=len(STATUSES)), False
    if name == "started":
        return func.coalesce(Run.started_at, Run.created_at), False
    metric = _METRIC[name]
    if session.get_bind().dialect.name == "postgresql":
        latest = cast(Run.latest, postgresql.JSONB)
        return case((func.jsonb_typeof(latest[metric]) == "number", cast(latest[metric].astext, Double)), else_=None), True
    path = f"$.{metric}"
    is_number = func.json_type(Run.latest, path).in_(("integer", "real"))
    return case((is_number, cast(func.json_extract(Run.latest, path), Double)), else_=None), True


def _text(value: Any) -> str:
    return "" if value is None else repr(float(value)) if isinstance(value, int | float) else str(value)


def _cursor(after: str, name: str) -> tuple[Any, str]:
    text, _, run_id = after.rpartition("|")
    try:
        value = text if name == "name" else float(text) if text else None
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError
    except ValueError:
        raise Invalid("“after” is a cursor from an earlier page with the same order.", field="after") from None
    return value, run_id


def _past(key: ColumnElement[Any], value: Any, run_id: str, *, falling: bool, has_none: bool) -> ColumnElement[bool]:
    """Whether a run comes after a cursor."""
    if value is None:
        return and_(key.is_(None), Run.id < run_id) if has_none else false()
    further = or_(key < value if falling else key > value, and_(key == value, Run.id < run_id))
    return or_(further, key.is_(None)) if has_none else further


# --- what can be filtered by ----------------------------------------------------------------------------------------------


def offered(session: Session, workspace_id: str) -> dict[str, list[str]]:
    """Values that runs of the workspace have, by the name of the filter."""
    columns = (Run.method, Run.tuner, Run.checkpoint_id, Run.dataset_id)
    used = session.execute(select(*columns).where(Run.workspace_id == workspace_id).distinct()).all()
    checkpoints, datasets = {row.checkpoint_id for row in used}, {row.dataset_id for row in used}
    newest = session.scalars(select(Run.tags).where(Run.workspace_id == workspace_id).order_by(Run.id.desc()).limit(TAGS_OF))
    found: dict[str, Iterable[str]] = {
        "method": [row.method for row in used],
        "tuner": [row.tuner for row in used],
        "model": session.scalars(select(Checkpoint.name).where(Checkpoint.id.in_(checkpoints))),
        "dataset": session.scalars(select(Dataset.name).where(Dataset.id.in_(datasets))),
        "tag": [tag for tags in newest for tag in tags],
    }
    return {name: sorted(set(values), key=str.lower) for name, values in found.items()}


def named(session: Session, workspace_id: str, name: str, value: str) -> str:
    """What a filter's chip says: the name where the link holds an id."""
    table: Any = {"model": Checkpoint, "dataset": Dataset}.get(name)
    if table is None:
        return value
    return session.scalar(select(table.name).where(table.id == value, table.workspace_id == workspace_id)) or value


def existing(session: Session, workspace_id: str, ids: Sequence[str]) -> list[Run]:
    """The runs of some ids that exist, in the order of the ids."""
    found = {run.id: run for run in session.scalars(select(Run).where(Run.workspace_id == workspace_id, Run.id.in_(ids)))}
    return [found[each] for each in ids if each in found]
