"""Undo: taking back the last things a rater did, and showing the item again. The log keeps both."""

from __future__ import annotations

import time

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.database import now
from app.feedback import claims, effects, slots
from app.feedback.projects import count
from app.feedback.schemas import Task
from app.feedback.tables import Event, Item, Project, Rater, Slot

DEPTH = 20


def undo(session: Session, project: Project, rater: Rater, key: str) -> Task | None:
    """Take back the last thing the rater did, up to 20 in a row, and show that item again with the old answer.

    None when nothing is left to take back. Practice items are left out, since their right answer was shown.
    """
    rater = claims.locked(session, rater)
    known = effects.known_event(session, rater, key, "undo", "")
    if known is not None:
        event = session.get_one(Event, known.answer["undone"])
        return _again(session, project, rater, event)
    found = _last(session, rater)
    if found is None:
        return None
    place = effects.place_of(session, project, rater, slots.name_of(found.item_id, found.k), key, "undo", filling=False)
    effects.log(session, project, rater, place, "undo", key, {"undone": found.id}, order=False)
    rating = place.rating
    if rating is not None and rating.event_id == found.id:
        before = _before(session, rater, found)
        if found.kind == "rate" and before is not None and before.kind == "rate":
            # It had changed an earlier vote, which holds again.
            effects.count_gold(project, rater, place, found.answer, -1)
            effects.remove_better(session, rating)
            effects.hold(session, project, rater, place, before, rating)
            effects.count_gold(project, rater, place, before.answer, 1)
            if before.answer.get("better"):
                effects.add_better(session, rater, place, before)
            count(session, project)
        else:
            effects.withdraw(session, project, rater, place, rating)
            _take_back(session, project, rater, place)
    rater.seen_at = time.time()
    session.flush()
    return _again(session, project, rater, found)


def _last(session: Session, rater: Rater) -> Event | None:
    """What `undo` takes back."""
    events = effects.recent(session, rater)
    in_a_row = next((number for number, event in enumerate(events) if event.kind != "undo"), len(events))
    if in_a_row >= DEPTH:
        return None
    undone = {event.answer.get("undone") for event in events if event.kind == "undo"}
    practice = set(session.scalars(select(Item.id).where(Item.id.in_([event.item_id for event in events]), Item.role == "practice")))
    return next((e for e in events if e.kind in ("rate", "skip", "flag") and e.id not in undone and e.item_id not in practice), None)


def _before(session: Session, rater: Rater, event: Event) -> Event | None:
    """The vote on the same slot that an event had replaced."""
    events = effects.recent(session, rater)
    undone = {each.answer.get("undone") for each in events if each.kind == "undo"}
    same = (each for each in events if each.item_id == event.item_id and each.k == event.k and each.id < event.id and each.kind != "undo")
    return next((each for each in same if each.id not in undone), None)


def _take_back(session: Session, project: Project, rater: Rater, place: effects.Place) -> None:
    """Lease the slot to the rater again, before all others; when somebody has it, another one of the item, if one is free."""
    k = effects.other_slot(session, rater, place.item, place.k) if place.slot is None else place.slot
    slot = effects.slot_of(session, place.item.id, k)
    if slot is None:
        return
    slot.rater_id, slot.lease_until, slot.done_at = rater.id, now() + project.lease_seconds, None
    slot.order_key = -now()
    place.slot = slot.k


def _again(session: Session, project: Project, rater: Rater, event: Event) -> Task:
    """The item of an event as it is shown once more."""
    mine = or_(Slot.k == event.k, Slot.done_at.is_(None))
    slot = session.scalars(
        select(Slot)
        .where(Slot.item_id == event.item_id, Slot.rater_id == rater.id, mine)
        .order_by(Slot.done_at.is_not(None), Slot.k != event.k)
        .limit(1)
        .execution_options(populate_existing=True)
    ).first()
    # Where no slot is free any more, a new vote is an extra.
    k, round_, until = (slot.k, slot.round, slot.lease_until or 0.0) if slot is not None else (event.k, 0, 0.0)
    return claims.task(session, rater, claims.Held(event.item_id, k, round_, 0.0, until), undone=event)
