"""Items on which the votes do not settle anything: who runs the project decides, and that decision alone stands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Subquery, and_, case, func, or_, select
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import Conflict, Forbidden, Invalid
from app.feedback import answers, claims, disputes, effects, slots
from app.feedback.projects import count, lock
from app.feedback.schemas import FLAG_REASONS, Vote
from app.feedback.tables import Item, Project, Rater, Rating, Response, Slot

Decision = int | str | float | list[list[str]] | None
_SAYS = {"pair": "preference", "single": "score", "rank": "ranking"}
WIDE = 2
"""Grades that votes on one item may lie apart without being disputed."""


@dataclass(frozen=True)
class Opinion:
    """What one rater said of a disputed item."""

    rater: Rater
    rating: Rating


@dataclass(frozen=True)
class Disputed:
    """An item to decide, and why."""

    item: Item
    responses: list[Response]
    opinions: list[Opinion]
    why: str


def queue(session: Session, project: Project, limit: int = 10) -> list[Disputed]:
    """Items to decide: flagged ones first, then those whose votes lie furthest apart. None that waits for votes."""
    if project.kind == "rank":
        return _gathered(
            session, project, [(item, disputes.of_rankings(session, project).get(item.id, "")) for item in _ranked(session, project, limit)]
        )
    found = _disputed(project)
    query = select(Item, found.c.span, found.c.split).outerjoin(found, found.c.item_id == Item.id).where(*_waits(project, found))
    query = query.order_by(case((Item.status == "flagged", 0), else_=1), func.coalesce(found.c.span, 0).desc(), Item.id).limit(limit)
    return _gathered(session, project, [(item, _why(project, item, span, split)) for item, span, split in session.execute(query)])


def _gathered(session: Session, project: Project, rows: list[tuple[Item, str]]) -> list[Disputed]:
    ids = [item.id for item, _ in rows]
    responses: dict[str, list[Response]] = {item_id: [] for item_id in ids}
    for response in session.scalars(select(Response).where(Response.item_id.in_(ids)).order_by(Response.place)):
        responses[response.item_id].append(response)
    opinions: dict[str, list[Opinion]] = {item_id: [] for item_id in ids}
    said = select(Rating, Rater).join(Rater, Rater.id == Rating.rater_id).where(Rating.item_id.in_(ids), Rating.round == 0)
    for rating, rater in session.execute(said.order_by(Rating.at, Rating.rater_id)):
        opinions[rating.item_id].append(Opinion(rater, rating))
    return [
        Disputed(item, responses[item.id], opinions[item.id], _flagged(item) if item.status == "flagged" else why) for item, why in rows
    ]


def waiting(session: Session, project: Project) -> int:
    """How many items there are to decide."""
    if project.kind == "rank":
        return len(_ranked(session, project, None))
    found = _disputed(project)
    query = select(func.count()).select_from(Item).outerjoin(found, found.c.item_id == Item.id).where(*_waits(project, found))
    return int(session.scalar(query) or 0)


def _ranked(session: Session, project: Project, limit: int | None) -> list[Item]:
    """Flagged items, then those whose rankings settle nothing; what somebody decided meanwhile is left out."""
    flagged = select(Item).where(Item.project_id == project.id, Item.role == "normal", Item.status == "flagged").order_by(Item.id)
    items = list(session.scalars(flagged.limit(limit)))
    ids = list(disputes.of_rankings(session, project))
    for first in range(0, len(ids), 500):
        if limit is not None and len(items) >= limit:
            break
        some = ids[first : first + 500]
        there = select(Item).where(Item.id.in_(some), Item.project_id == project.id, Item.role == "normal", Item.status == "open")
        found = {item.id: item for item in session.scalars(there.where(*_settled_by_nobody()))}
        items += [found[item_id] for item_id in some if item_id in found]
    return items[:limit]


def _disputed(project: Project) -> Subquery:
    """Items with two votes or more of people: how far apart they lie, and whether most take one side."""
    value: ColumnElement[Any] = Rating.preference if project.kind == "pair" else Rating.score  # type: ignore[assignment]
    middle = {"five": 3, "thumbs": 0.5}.get(project.scale, 0)
    above, below, even = (func.sum(case((test, 1), else_=0)) for test in (value > middle, value < middle, value == middle))
    tied = or_(and_(above == below, above >= even), and_(above == even, above >= below), and_(below == even, below >= above))
    span = func.max(value) - func.min(value)
    split = case((tied, 1), else_=0)
    return (
        select(Rating.item_id, span.label("span"), split.label("split"))
        .join(Rater, Rater.id == Rating.rater_id)
        .where(Rating.project_id == project.id, Rating.kind == "rate", Rating.round == 0, value.is_not(None))
        .where(Rater.kind == "person", Rater.status != "removed")
        .group_by(Rating.item_id)
        .having(func.count() > 1, or_(tied, span > WIDE))
        .subquery()
    )


def _waits(project: Project, found: Subquery) -> Sequence[ColumnElement[bool]]:
    disputed = and_(Item.status == "open", found.c.item_id.is_not(None), *_settled_by_nobody())
    return (Item.project_id == project.id, Item.role == "normal", or_(Item.status == "flagged", disputed))


def _settled_by_nobody() -> tuple[ColumnElement[bool], ...]:
    """No vote is wanted any more, and nobody has decided."""
    decided = select(Rating.item_id).where(Rating.item_id == Item.id, Rating.kind == "adjudicate").exists()
    open_ = select(Slot.k).where(Slot.item_id == Item.id, Slot.round == 0, Slot.done_at.is_(None)).exists()
    return ~open_, ~decided


def _flagged(item: Item) -> str:
    return f"Flagged: {FLAG_REASONS.get(item.reason or '', item.reason or 'no reason given')}"


def _why(project: Project, item: Item, span: float | None, split: int | None) -> str:
    if item.status == "flagged":
        return ""
    if split:
        return "Split: no side has most of the votes"
    return f"The votes lie {span:g} {'grades' if project.kind == 'pair' else 'points'} apart"


def decide(session: Session, project: Project, item: Item, who: Principal, preference: Decision, key: str, comment: str = "") -> Rating:
    """Settle an item: from now on this alone is what was said of it. A flagged item is taken in again.

    The decision takes the place of a vote of the same person on the item; the log keeps both, and agreement goes by the vote.

    Args:
        preference: pairs: -3 (the first response much better) to 3, both_good or both_bad; single: the points; rankings: ids of responses,
            best first, ties in one list. By places, not sides.
        key: the same key again changes nothing.

    Raises:
        Invalid: it does not fit the project.
        Conflict: somebody decided it meanwhile, or it is no item to decide.
        Forbidden: the caller may not rate here.
    """
    if who.role not in ("admin", "engineer"):
        raise Forbidden("An admin or engineer decides disputed items.")
    rater = claims.locked(session, claims.rater_for(session, project, who))
    known = effects.known_event(session, rater, key, "adjudicate", slots.name_of(item.id, 0))
    if known is not None:
        return session.scalars(select(Rating).where(Rating.item_id == item.id, Rating.kind == "adjudicate")).one()
    project = lock(session, project)
    item = session.scalars(select(Item).where(Item.id == item.id).with_for_update().execution_options(populate_existing=True)).one()
    there = session.scalars(select(Response).where(Response.item_id == item.id).order_by(Response.place))
    responses = [response for response in there if response.finish != "edited"]
    try:
        vote = Vote.model_validate({_SAYS[project.kind]: preference, "comment": comment})
    except ValidationError as error:
        raise Invalid("Choose one of the answers that are offered: nothing was decided.", field="preference") from error
    answer = answers.normalised(project, responses, vote)
    _check(session, item)
    rating = session.get(Rating, (item.id, rater.id, 0), populate_existing=True)
    asked = effects.Asked(item.id, item.role, item.gold, item.status, item.overlap)
    place = effects.Place(asked, 0, 0, None, responses, rating)
    event = effects.log(session, project, rater, place, "adjudicate", key, answer)
    event.is_extra = rating.is_extra if rating is not None else False
    session.flush()
    effects.hold(session, project, rater, place, event, rating)
    held = session.get_one(Rating, (item.id, rater.id, 0))
    held.left = None  # whoever decides sees the answers in the order of the data
    again = item.status == "flagged"
    if again:
        item.status, item.reason = "open", None
    rater.seen_at = time.time()
    session.flush()
    count(session, project, items=1 if again else 0)
    return held


def _check(session: Session, item: Item) -> None:
    if item.role != "normal" or item.status not in ("open", "flagged"):
        raise Conflict(f"This item is {item.status if item.role == 'normal' else item.role}, so there is nothing to decide.")
    settled = session.scalar(select(Rating.rater_id).where(Rating.item_id == item.id, Rating.kind == "adjudicate").limit(1))
    if settled is not None and item.status == "open":
        raise Conflict("Somebody has decided this item meanwhile.", code="decided")
    if settled is not None:  # flagged again after it had been decided: the log keeps the first decision
        for old in session.scalars(select(Rating).where(Rating.item_id == item.id, Rating.kind == "adjudicate")):
            session.delete(old)
        session.flush()
