"""Slot rows: how many an item needs, adding and closing them. Which rater gets one is in `claims`."""

from __future__ import annotations

import random
import zlib
from typing import Any

from sqlalchemy import ColumnElement, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.orm import Session

from app.database import now
from app.errors import NotFound
from app.feedback.tables import Item, Project, Slot

STARTED, WAITING, OWN = 0, 1, 2
"""Ranks: of an item that was started, so that it is finished first; of one nobody has seen; of a slot made for one rater alone."""


def name_of(item_id: str, k: int) -> str:
    """What a slot is called in addresses."""
    return f"{item_id}.{k}"


def parts_of(slot: str) -> tuple[str, int]:
    """Item and number of a slot's name.

    Raises:
        NotFound: it is no such name.
    """
    item_id, _, number = slot.rpartition(".")
    if not item_id or not (number.isdecimal() and number.isascii() and len(number) < 12):
        raise NotFound("There is no such slot.")
    return item_id, int(number)


def overlap_of(project: Project, item_id: str) -> int:
    """How many raters an item needs: `overlap` for the drawn share of the items, one for the others."""
    drawn = zlib.crc32(f"{project.seed}/{item_id}".encode()) / 2**32
    return project.overlap if drawn < project.overlap_share else 1


def fresh_number() -> int:
    """A number for a slot. It is drawn: counted up, it would tell gold items, which everybody gets, from the others."""
    return random.getrandbits(31)


def new_rows(item_id: str, project_id: str, order_key: float, many: int, rank: int = WAITING) -> list[dict[str, Any]]:
    """Rows of free slots for an item."""
    return [
        {"item_id": item_id, "k": fresh_number(), "project_id": project_id, "round": 0, "rank": rank, "order_key": order_key}
        for _ in range(many)
    ]


def insert_rows(session: Session, rows: list[dict[str, Any]]) -> None:
    """Write free slots."""
    session.execute(insert(Slot), rows)


def is_free() -> ColumnElement[bool]:
    """Whether nobody has filled a slot or works on it."""
    return Slot.done_at.is_(None) & or_(Slot.lease_until.is_(None), Slot.lease_until < now())


def lock(session: Session, item_id: str) -> list[Slot]:
    """All slots of an item as they are now, locked in one order, so that two who vote on one item never wait for each other."""
    query = select(Slot).where(Slot.item_id == item_id).order_by(Slot.k).with_for_update()
    return list(session.scalars(query.execution_options(populate_existing=True)))


def close(session: Session, item_id: str, *, leased_too: bool = True) -> int:
    """Take away what is open of an item whose slots are locked; returns how many of the wanted ones went.

    Args:
        leased_too: otherwise who works on it may end that, and nobody else gets it.
    """
    gone = delete(Slot).where(Slot.item_id == item_id, Slot.done_at.is_(None) if leased_too else is_free())
    found = session.execute(gone.returning(Slot.round).execution_options(synchronize_session="fetch")).scalars().all()
    if not leased_too:
        kept = update(Slot).where(Slot.item_id == item_id, Slot.done_at.is_(None)).values(rank=OWN)
        session.execute(kept.execution_options(synchronize_session=False))
    return sum(round_ == 0 for round_ in found)


def spread(session: Session, project: Project) -> None:
    """Write into the items how many raters each needs by the rule of the project, and add or close slots."""
    mine = (Item.project_id == project.id) & (Item.role == "normal")
    usual = project.overlap if project.overlap_share >= 1 else 1
    session.execute(update(Item).where(mine, Item.overlap != usual).values(overlap=usual).execution_options(synchronize_session="fetch"))
    if usual != project.overlap and project.overlap_share > 0:
        ids = [item_id for item_id in session.scalars(select(Item.id).where(mine)) if overlap_of(project, item_id) > 1]
        for first in range(0, len(ids), 1000):
            session.execute(
                update(Item)
                .where(Item.id.in_(ids[first : first + 1000]))
                .values(overlap=project.overlap)
                .execution_options(synchronize_session="fetch")
            )
    fit(session, project)


def fit(session: Session, project: Project, item_id: str | None = None) -> None:
    """Have exactly as many slots as items need: missing ones are added, free ones too many go. Filled and leased ones stay."""
    mine = (Item.project_id == project.id) & (Item.role == "normal") & (Item.status == "open")
    if item_id is not None:
        mine &= Item.id == item_id
    there, filled = func.count(Slot.k), func.count(Slot.done_at)
    counted = (
        select(Item.id, Item.order_key, Item.overlap, there, filled)
        .outerjoin(Slot, (Slot.item_id == Item.id) & (Slot.round == 0))
        .where(mine)
        .group_by(Item.id, Item.order_key, Item.overlap)
        .having(there < Item.overlap)
    )
    rows = []
    for found, order_key, overlap, has, done in session.execute(counted):
        rows.extend(new_rows(found, project.id, order_key, overlap - has, STARTED if done else WAITING))
    for first in range(0, len(rows), 5000):
        insert_rows(session, rows[first : first + 5000])
    place = func.row_number().over(
        partition_by=Slot.item_id, order_by=(Slot.done_at.is_(None), func.coalesce(Slot.lease_until, 0.0) < now(), Slot.k)
    )
    ranked = (
        select(Slot.item_id, Slot.k, place.label("place"), Item.overlap)
        .join(Item, Item.id == Slot.item_id)
        .where(mine, Slot.round == 0)
        .subquery()
    )
    surplus = select(ranked.c.item_id, ranked.c.k).where(ranked.c.place > ranked.c.overlap)
    # Slots that are locked are being voted on at this moment; they count as taken.
    unlocked = select(Slot.item_id, Slot.k).where(tuple_(Slot.item_id, Slot.k).in_(surplus), is_free()).with_for_update(skip_locked=True)
    gone = [tuple(row) for row in session.execute(unlocked)]
    for first in range(0, len(gone), 1000):
        session.execute(
            delete(Slot).where(tuple_(Slot.item_id, Slot.k).in_(gone[first : first + 1000])).execution_options(synchronize_session=False)
        )
    session.flush()
