"""Has somebody else rate what one rater has rated: each of their items asks for one more rating. Their votes stay."""

from __future__ import annotations

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.feedback import projects, slots
from app.feedback.tables import Item, Project, Rater, Rating, Slot


def reopen_items_of(session: Session, project: Project, rater: Rater) -> int:
    """Ask for one more rating of every item that a rater has rated and that can still be rated; how many these are.

    Raises:
        Conflict: there is none.
    """
    projects.lock(session, project)
    rated = select(Rating.item_id).where(Rating.rater_id == rater.id, Rating.kind == "rate")
    mine = (Item.project_id == project.id) & Item.id.in_(rated) & (Item.role == "normal") & (Item.status == "open")
    count = session.scalar(select(func.count()).select_from(Item).where(mine)) or 0
    if not count:
        raise Conflict(f"{rater.name} has rated nothing that can be rated again.")
    there = select(func.count()).where(Slot.item_id == Item.id, Slot.round == 0).scalar_subquery()
    session.execute(update(Item).where(mine).values(overlap=there + 1).execution_options(synchronize_session=False))
    slots.fit(session, project)
    projects.recount(session, project)
    return count
