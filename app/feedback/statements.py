"""The statements of the rating loop, each built once: building one anew takes longer than it runs. Decides nothing."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Double,
    Insert,
    Select,
    Table,
    Update,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    true,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Session, defer

from app.database import now
from app.feedback.slots import OWN, STARTED, WAITING
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot

Writes = Insert | Update | Delete


def _table(entity: Any) -> Table:
    table: Table = entity.__table__
    return table


_SLOTS, _ITEMS, _ANSWERS, _RATINGS, _EVENTS, _RATERS = (_table(each) for each in (Slot, Item, Response, Rating, Event, Rater))
SLOT, ITEM, ANSWER, RATING, EVENT, RATER = (each.c for each in (_SLOTS, _ITEMS, _ANSWERS, _RATINGS, _EVENTS, _RATERS))
EVENT_COLUMNS, RATING_COLUMNS = tuple(EVENT.keys()), tuple(RATING.keys())
DID = ("done", "gold_seen", "gold_right", "practised", "day", "done_before", "status", "seen_at")
"""What a vote may change of its rater."""


def _fixed(value: object) -> ColumnElement[Any]:
    """A constant in the text of a statement: Postgres plans a prepared one once, and knows nothing of its parameters then."""
    return literal_column(repr(value))


_ZERO, _ONE, _STARTED, _WAITING, _OWN, _OPEN = (_fixed(each) for each in (0, 1, STARTED, WAITING, OWN, "open"))


def together(session: Session, writes: tuple[Writes, ...], values: dict[str, Any]) -> None:
    """Do several writes, none of which needs to see another: one statement on Postgres, one after another on SQLite.

    Args:
        writes: no two of them touch the same row. They are told apart by identity, so they come from a function that builds them once.
        values: of all their parameters.
    """
    session.flush()
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(_as_one(writes), values)
        return
    for each, names in zip(writes, _names(writes), strict=True):
        connection.execute(each, {name: values[name] for name in names})


@cache
def _as_one(writes: tuple[Writes, ...]) -> Select[int]:
    return select(_ONE).add_cte(*(each.cte(f"part_{number}") for number, each in enumerate(writes)))


@cache
def _names(writes: tuple[Writes, ...]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(each.compile(dialect=sqlite.dialect()).params) for each in writes)


# --- who and where --------------------------------------------------------------------------------------------------------


@cache
def entering() -> Select[Project, Rater]:
    """A project and somebody who rates in it; the rater's row is locked."""
    both = select(Project, Rater).join(Rater, Rater.project_id == Project.id)
    mine = both.where(
        Project.id == bindparam("of_project"), Project.workspace_id == bindparam("of_workspace"), Rater.who == bindparam("of_user")
    )
    # Guidelines may be long, and only the first page shows them.
    wide = defer(Project.guidelines), defer(Project.candidates)
    return mine.with_for_update(key_share=True, of=Rater).options(*wide).execution_options(populate_existing=True)


@cache
def placing() -> Select[Any]:
    """Where a vote lands: its item, the slot (locked), what the rater said of it, an event of the same key; a row for each response."""
    item: Any = bindparam("of_item")
    rater: Any = bindparam("of_rater")
    named = (
        select(SLOT.k, SLOT.round, SLOT.rater_id).where(SLOT.item_id == item, SLOT.k == bindparam("of_k")).with_for_update().cte("named")
    )
    said = and_(RATING.item_id == ITEM.id, RATING.rater_id == rater, RATING.round == func.coalesce(named.c.round, _ZERO))
    columns = (
        ITEM.id,
        ITEM.role,
        ITEM.gold,
        ITEM.status,
        ITEM.overlap,
        named.c.k.label("named"),
        named.c.round,
        named.c.rater_id.label("holder"),
        RATING.kind.label("said"),
        EVENT.id.label("known"),
        ANSWER.id.label("response_id"),
        ANSWER.place,
        ANSWER.source,
        ANSWER.finish,
    )
    there = _ITEMS.outerjoin(named, true())
    there = there.outerjoin(_RATINGS, said)
    there = there.outerjoin(_EVENTS, and_(EVENT.rater_id == rater, EVENT.key == bindparam("of_key")))
    there = there.outerjoin(_ANSWERS, ANSWER.item_id == ITEM.id)
    return select(*columns).select_from(there).where(ITEM.id == item, ITEM.project_id == bindparam("of_project")).order_by(ANSWER.place)


# --- a vote ---------------------------------------------------------------------------------------------------------------


@cache
def voting(fills: bool, begins: bool) -> tuple[Writes, ...]:
    """What a first vote on an item writes.

    Args:
        fills: whether it fills a slot, or else is an extra.
        begins: whether the item's other slots are to be filled before those of items nobody has begun.
    """
    item: Any = bindparam("at_item")
    k: Any = bindparam("at_k")
    rater: dict[str, Any] = {name: bindparam(f"did_{name}") for name in DID}
    writes: list[Writes] = [
        _row(_EVENTS, "event_"),
        _row(_RATINGS, "rating_"),
        update(_RATERS).where(RATER.id == bindparam("at_rater")).values(rater),
    ]
    mine = update(_SLOTS).where(SLOT.item_id == item)
    if fills:
        filled = mine.where(SLOT.k == k)
        writes.append(filled.values(rater_id=bindparam("at_rater"), done_at=now(), lease_until=null()))
    if fills and begins:
        # Slots that are being taken at this moment are left alone: it is only an order.
        # That they wait is not said plainly, as in `_is_held`: Postgres would read all that wait in all projects, 100 ms for 300,000.
        waits = func.coalesce(SLOT.done_at, _ZERO) == _ZERO, SLOT.rank + _ZERO == _WAITING
        others = select(SLOT.k).where(SLOT.item_id == item, SLOT.k != k, *waits)
        writes.append(mine.where(SLOT.k.in_(others.with_for_update(skip_locked=True))).values(rank=_STARTED))
    return tuple(writes)


def _row(there: Table, prefix: str) -> Insert:
    return insert(there).values({column.name: bindparam(prefix + column.name, type_=column.type) for column in there.columns})


# --- claiming -------------------------------------------------------------------------------------------------------------


@cache
def holding() -> Select[Any]:
    """Slots that a rater has and has not filled, in the order they were claimed in; and whether the lease still runs."""
    held = select(SLOT.item_id, SLOT.k, SLOT.round, SLOT.order_key, SLOT.lease_until, (SLOT.lease_until >= now()).label("runs"))
    return held.where(_is_held()).order_by(SLOT.order_key)


@cache
def renewing() -> Update:
    """Lengthens a lease, unless somebody holds the row at this moment: who waits here could be waited for by them."""
    at = (
        SLOT.item_id == bindparam("at_item"),
        SLOT.k == bindparam("at_k"),
        SLOT.rater_id == bindparam("for_rater"),
        SLOT.done_at.is_(None),
    )
    free = select(SLOT.k).where(*at).with_for_update(skip_locked=True)
    until: Any = now() + bindparam("lease_for", type_=Double())
    there = update(_SLOTS).where(SLOT.item_id == bindparam("at_item"), SLOT.k.in_(free), SLOT.lease_until < until)
    return there.values(lease_until=until).returning(SLOT.lease_until)


_SHOWN = (case((ANSWER.place == _ZERO, ITEM.prompt)).label("prompt"), ITEM.role, ANSWER.id, ANSWER.place, ANSWER.text, ANSWER.finish)
"""What a rater is shown of an item, a row for each response; the prompt, which may be long, only in the first."""


@cache
def looking() -> Select[Any]:
    """An item as a rater is shown it."""
    there = _ITEMS.join(_ANSWERS, ANSWER.item_id == ITEM.id)
    return select(*_SHOWN).select_from(there).where(ITEM.id == bindparam("at_item")).order_by(ANSWER.place)


@cache
def taking_and_looking(taking: Update) -> Select[Any]:
    """The slot that a statement takes, and its item as a rater is shown it; for Postgres, where one statement can do both."""
    taken = taking.cte("taken")
    there = taken.join(_ITEMS, ITEM.id == taken.c.item_id).join(_ANSWERS, ANSWER.item_id == ITEM.id)
    return select(*taken.c, *_SHOWN).select_from(there).order_by(ANSWER.place)


def _taking(which: Select[Any]) -> Update:
    """Leases the slot that a query gives; the time is its new place, behind what the rater holds since the same tick of the clock."""
    values = {
        "rater_id": bindparam("for_rater"),
        "lease_until": now() + bindparam("lease_for", type_=Double()),
        "rank": case((SLOT.rank == _OWN, SLOT.rank), else_=_STARTED),
        "order_key": now() + bindparam("behind", type_=Double()),
    }
    taken = update(_SLOTS).where(tuple_(SLOT.item_id, SLOT.k) == which.scalar_subquery())
    return taken.values(values).returning(SLOT.item_id, SLOT.k, SLOT.round, SLOT.order_key, SLOT.lease_until)


def _first(which: Select[Any]) -> Select[Any]:
    """The first slot of a query that nobody else is taking at this moment."""
    return which.limit(_ONE).with_for_update(skip_locked=True, of=_SLOTS)


@cache
def retaking() -> Update:
    """Takes an own slot whose lease ran out and that nobody else took."""
    over = select(SLOT.item_id, SLOT.k).where(_is_held(), SLOT.lease_until < now(), _item_is_open())
    return _taking(_first(over.order_by(SLOT.order_key)))


def _is_held() -> ColumnElement[bool]:
    """Whether a rater has a slot and has not filled it, the lease may be over; said so that nothing but the rater's own slots are read.

    The project is not named, for a rater is of one, and that the slot is open not plainly: while Postgres has no statistics of many new
    slots, it would read all that are open in the project as well.
    """
    return and_(SLOT.rater_id == bindparam("for_rater"), SLOT.lease_until >= _ZERO, func.coalesce(SLOT.done_at, _ZERO) == _ZERO)


def queueing(window: int) -> Update:
    """Takes a slot of the queue: of an item that was begun, so that it is finished; else of one that was not; else whatever is left.

    Args:
        window: how many begun items are looked at before a new one is begun: somebody who rates alone has rated all of them.
    """
    rater: Any = bindparam("for_rater")
    project: Any = bindparam("of_project")
    other, theirs, near = _SLOTS.alias(), _RATINGS.alias(), _SLOTS.alias()
    # Looked up row by row: as a join, all that the rater ever did would be read for each claim.
    held = select(other.c.k).where(other.c.item_id == SLOT.item_id, other.c.rater_id == rater).limit(_ONE).scalar_subquery()
    said = select(theirs.c.round).where(theirs.c.item_id == SLOT.item_id, theirs.c.rater_id == rater).limit(_ONE).scalar_subquery()
    free = (
        select(SLOT.item_id, SLOT.k)
        .where(SLOT.project_id == project, SLOT.done_at.is_(None), or_(SLOT.lease_until.is_(None), SLOT.lease_until < now()))
        .where(held.is_(None), said.is_(None), _item_is_open())
        .order_by(SLOT.order_key)
    )
    edge = (
        select(near.c.order_key)
        .where(near.c.project_id == project, near.c.done_at.is_(None), near.c.rank == _STARTED)
        .order_by(near.c.order_key)
        .offset(_fixed(window))
        .limit(_ONE)
        .scalar_subquery()
    )
    begun = free.where(SLOT.rank == _STARTED)
    tried = (begun.where(SLOT.order_key <= func.coalesce(edge, _fixed(1e18))), free.where(SLOT.rank == _WAITING), begun)
    arms = [_first(which).subquery() for which in tried]
    # Both databases read the parts one after another, and the later ones not at all once there is a row.
    return _taking(select(union_all(*(select(arm.c.item_id, arm.c.k) for arm in arms)).limit(_ONE).subquery()))


def _item_is_open() -> ColumnElement[bool]:
    return select(ITEM.status).where(ITEM.id == SLOT.item_id).limit(_ONE).scalar_subquery() == _OPEN
