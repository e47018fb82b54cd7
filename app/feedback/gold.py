"""Items in use that become gold or practice items and back, and those that could: what becomes of their slots, votes and counters."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.feedback import answers, kept, slots
from app.feedback.items import check_gold, get
from app.feedback.projects import count, lock, recount
from app.feedback.schemas import Gold
from app.feedback.slots import OWN, STARTED
from app.feedback.tables import Item, Project, Rater, Rating, Response, Slot

AGREEING = 3
"""People who must say the same, strongly, before an item is proposed as gold."""
STRONG = 2
"""Grade of a preference from which it is strong."""
MOST = 500
"""Proposed items at most."""


@dataclass(frozen=True)
class Proposed:
    """An item that could be gold: what all who rated it say."""

    item_id: str
    raters: int
    gold: Gold


# --- making and unmaking --------------------------------------------------------------------------------------------------


def mark(session: Session, project: Project, item_id: str, gold: Gold, *, practice: bool = False) -> Item:
    """Make an item gold, or one for the practice round, or give it another right answer.

    What was said of it before stays, and counts neither as ordinary votes any more nor as a test of who gave it: that people agreed is
    often why an item becomes gold. What is open of its slots is closed; who works on it now may end that.

    Raises:
        Conflict: nobody is asked about it: it is filtered, flagged or removed.
        Invalid: the right answer does not fit the project.
    """
    item = get(session, project, item_id)
    if item.status != "open":
        raise Conflict(f"The item is {item.status}, so nobody is asked about it. Open it first, by asking for more ratings.")
    there = [one for one in _responses(session, item.id) if one.finish != "edited"]
    check_gold(project, gold, len(there), "gold")
    raters = _locked(session, item)
    lock(session, project)
    _test(session, project, item, raters, -1)
    was = item.role
    if was == "normal":
        slots.close(session, item.id, leased_too=False)
    since = (item.gold or {}).get("since") if was == "gold" else time.time()
    item.gold = {**gold.model_dump(exclude_none=True), **({} if since is None else {"since": since})}
    item.role, item.overlap = "practice" if practice else "gold", 0
    session.flush()
    _test(session, project, item, raters, 1)
    return _changed(session, project, item)


def unmark(session: Session, project: Project, item_id: str) -> Item:
    """Make a gold item an ordinary one again; all that was said of it counts as ordinary votes then.

    Raises:
        Conflict: it is no gold item, or a practice item whose answer somebody has been told.
    """
    item = get(session, project, item_id)
    if item.role == "normal":
        raise Conflict("This is an ordinary item already.")
    if item.status != "open":
        raise Conflict(f"The item is {item.status}, so nobody is asked about it. Open it first, by asking for more ratings.")
    raters = _locked(session, item)
    lock(session, project)
    if item.role == "practice" and raters:
        raise Conflict(
            "People have practised on this item and been told its answer, so their votes cannot count. Make it gold, or remove it."
        )
    _test(session, project, item, raters, -1)
    item.role, item.gold, item.overlap = "normal", None, slots.overlap_of(project, item.id)
    # Who was lent it has it still; slots made for one alone that run out would wait for them for ever.
    slots.close(session, item.id, leased_too=False)
    kept_ones = update(Slot).where(Slot.item_id == item.id, Slot.done_at.is_(None), Slot.rank == OWN).values(rank=STARTED)
    session.execute(kept_ones.execution_options(synchronize_session=False))
    session.flush()
    slots.fit(session, project, item.id)
    return _changed(session, project, item)


def _locked(session: Session, item: Item) -> dict[str, Rater]:
    """Who rated the item, and its slots, in the order in which votes lock them."""
    rated = select(Rating.rater_id).where(Rating.item_id == item.id, Rating.kind == "rate")
    query = select(Rater).where(Rater.id.in_(rated)).order_by(Rater.id).with_for_update(key_share=True)
    found = {rater.id: rater for rater in session.scalars(query.execution_options(populate_existing=True))}
    slots.lock(session, item.id)
    return found


def _test(session: Session, project: Project, item: Item, raters: dict[str, Rater], sign: int) -> None:
    """Count the votes that test their raters, or with -1 take them back."""
    if item.role != "gold" or not item.gold:
        return
    there = _responses(session, item.id)
    for rating in session.scalars(select(Rating).where(Rating.item_id == item.id, Rating.kind == "rate", Rating.round == 0)):
        rater = raters.get(rating.rater_id)
        if rater is None or not answers.is_test(item.gold, rating.at):
            continue
        said = {"preference": rating.preference, "score": rating.score, "ranking": rating.ranking}
        # Somebody who was let go on had begun at nought again.
        rater.gold_seen = max(0, rater.gold_seen + sign)
        rater.gold_right = min(rater.gold_seen, max(0, rater.gold_right + sign * answers.is_right(project, item.gold, said, there)))


def _responses(session: Session, item_id: str) -> list[Response]:
    return list(session.scalars(select(Response).where(Response.item_id == item_id).order_by(Response.place)))


def _changed(session: Session, project: Project, item: Item) -> Item:
    count(session, project, roles=1)
    session.flush()
    recount(session, project)
    session.refresh(item)
    return item


# --- what could be gold ---------------------------------------------------------------------------------------------------


def proposed(session: Session, project: Project) -> list[Proposed]:
    """Ordinary items of which three people or more say the same, strongly, and nobody anything else; those with most votes first."""
    found: list[Proposed] = kept.kept(("proposed gold", project.id), project.seq, lambda: _proposed(session, project))
    return found


def agreed(session: Session, project: Project, item_id: str) -> Proposed | None:
    """What all who rated one item say of it, where it could be gold."""
    return next(iter(_proposed(session, project, Rating.item_id == item_id)), None)


def _proposed(session: Session, project: Project, *which: ColumnElement[bool]) -> list[Proposed]:
    if project.kind == "rank":
        return _agreed_rankings(session, project, which)
    value: Any = Rating.preference if project.kind == "pair" else Rating.score
    low, high = func.min(value), func.max(value)
    if project.kind == "pair":
        strong = or_(low >= STRONG, high <= -STRONG)
    elif project.scale == "thumbs":
        strong = low == high
    else:
        strong = or_(low >= 4, and_(high <= 2, high - low <= 1))
    query = select(Rating.item_id, func.count(), func.avg(value)).where(value.is_not(None), *_ordinary(project), *which)
    query = query.join(Rater, Rater.id == Rating.rater_id).join(Item, Item.id == Rating.item_id).group_by(Rating.item_id)
    query = query.having(func.count() >= AGREEING, strong).order_by(func.count().desc(), Rating.item_id).limit(MOST)
    made = []
    for item_id, raters, mean in session.execute(query):
        middle = round(float(mean))
        made.append(Proposed(item_id, raters, Gold(preference=middle) if project.kind == "pair" else Gold(score=float(middle))))
    return made


def _ordinary(project: Project) -> tuple[Any, ...]:
    """First votes of people on ordinary items."""
    of_people = (Rater.kind == "person", Rater.status != "removed")
    open_ = (Item.role == "normal", Item.status == "open")
    return (Rating.project_id == project.id, Rating.kind == "rate", Rating.round == 0, *of_people, *open_)


def _agreed_rankings(session: Session, project: Project, which: tuple[ColumnElement[bool], ...]) -> list[Proposed]:
    """Items of whose answers everybody puts the same one first, alone."""
    query = select(Rating.item_id, Rating.ranking).join(Rater, Rater.id == Rating.rater_id).join(Item, Item.id == Rating.item_id)
    firsts: dict[str, Counter[str]] = defaultdict(Counter)
    for item_id, tiers in session.execute(query.where(*_ordinary(project), *which)).yield_per(5000):
        if tiers:
            firsts[item_id][tiers[0][0] if len(tiers[0]) == 1 else ""] += 1
    agreed = {item_id: counts for item_id, counts in firsts.items() if len(counts) == 1 and counts.total() >= AGREEING and "" not in counts}
    chosen = sorted(agreed, key=lambda item_id: (-agreed[item_id].total(), item_id))[:MOST]
    places = dict(
        session.execute(select(Response.id, Response.place).where(Response.id.in_([next(iter(agreed[one])) for one in chosen]))).all()
    )
    return [Proposed(one, agreed[one].total(), Gold(best=places[next(iter(agreed[one]))])) for one in chosen]
