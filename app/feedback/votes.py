"""What raters do with an item: rate, skip, flag. Each is one event that is only ever added; `Rating` is what holds now."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Invalid
from app.feedback import answers, claims, effects, raters, slots
from app.feedback.projects import count, lock
from app.feedback.schemas import FLAG_REASONS, SKIP_REASONS, Done, Vote
from app.feedback.tables import Event, Item, Project, Rater, Response
from app.feedback.undo import undo as undo


def rate(session: Session, project: Project, rater: Rater, slot: str, vote: Vote, key: str) -> Done:
    """Take a vote. The same key again answers the same; a vote on a slot that another has filled meanwhile is kept as an extra.

    Raises:
        NotFound: there is no such item (any more).
        Invalid: the vote does not fit the project.
        Forbidden: the rater was paused, and holds no such item.
    """
    rater = claims.locked(session, rater)
    place = effects.place_of(session, project, rater, slot, key, "rate", filling=True)
    if place.known is not None:
        return _done(session, project, place.known)
    answer = answers.normalised(project, place.order, vote)
    event = effects.event_of(project, rater, place, "rate", key, answer)
    event.active_ms, event.wall_ms, event.ui = vote.active_ms, vote.wall_ms, vote.ui
    before = place.rating
    if before is not None and before.kind in ("skip", "flag"):
        effects.withdraw(session, project, rater, place, before)
        before = None
    if before is not None:
        effects.remove_better(session, before)
    if answer.get("better"):
        effects.add_better(session, rater, place, event)
    if before is None:
        event.is_extra = place.slot is None
        effects.fill(session, project, rater, place, event)
    else:  # changed their mind: the slot is filled already
        event.is_extra = before.is_extra
        effects.count_gold(project, rater, place, effects.stored(session, before), -1)
        session.add(event)
        effects.hold(session, project, rater, place, event, before)
        effects.count_gold(project, rater, place, answer, 1)
        rater.seen_at = event.at
        count(session, project)
    if place.item.role == "gold":
        raters.gate(session, project, rater)
    session.flush()
    return _done(session, project, event, place)


def _done(session: Session, project: Project, event: Event, place: effects.Place | None = None) -> Done:
    """The answer to an event; the same when it is asked for again."""
    item = place.item if place is not None else session.get_one(Item, event.item_id)
    told = event.kind == "rate" and (item.role == "practice" or project.reveals)
    if not told:
        return Done(event.id, event.is_extra)
    by_id = {response.id: response for response in session.scalars(select(Response).where(Response.item_id == item.id))}
    order = [by_id[one] for one in event.order if one in by_id]
    feedback = None
    if item.role == "practice" and item.gold:
        feedback = {
            "right": answers.is_right(project, item.gold, event.answer, order),
            "why": item.gold.get("why", ""),
            "expected": answers.expected(project, item.gold, order),
        }
    return Done(event.id, event.is_extra, feedback, [response.source for response in order] if project.reveals else None)


def skip(session: Session, project: Project, rater: Rater, slot: str, reason: str, key: str) -> Done:
    """Leave an item to others; this rater does not get it again.

    Raises:
        Invalid: there is no such reason.
        NotFound: there is no such item (any more).
    """
    _check(reason, SKIP_REASONS)
    return _leave(session, project, rater, slot, "skip", reason, key)


def flag(session: Session, project: Project, rater: Rater, slot: str, reason: str, key: str) -> Done:
    """Say that an item should not be used: nobody else gets it until whoever runs the project has looked.

    Raises:
        Invalid: there is no such reason.
        NotFound: there is no such item (any more).
    """
    _check(reason, FLAG_REASONS)
    return _leave(session, project, rater, slot, "flag", reason, key)


def _check(reason: str, known: dict[str, str]) -> None:
    if reason not in known:
        raise Invalid(f"There is no reason “{reason[:40]}”. The reasons are {', '.join(known)}.", field="reason")


def _leave(session: Session, project: Project, rater: Rater, slot: str, kind: str, reason: str, key: str) -> Done:
    rater = claims.locked(session, rater)
    place = effects.place_of(session, project, rater, slot, key, kind, filling=False)
    if place.known is not None:
        return _done(session, project, place.known)
    if place.rating is not None:
        effects.withdraw(session, project, rater, place, place.rating)
    event = effects.log(session, project, rater, place, kind, key, {"reason": reason})
    effects.hold(session, project, rater, place, event, None)
    effects.free(session, place)
    closed = 0
    if kind == "flag" and place.item.role == "normal" and place.item.status == "open":
        lock(session, project)  # the project before the item, as everywhere
        item = session.get_one(Item, place.item.id, populate_existing=True)
        item.status, item.reason = "flagged", reason
        session.flush()
        closed = slots.close(session, place.item.id, leased_too=False)
        count(session, project, slots=-closed, items=-1)
    else:
        count(session, project)
    rater.seen_at = time.time()
    session.flush()
    return _done(session, project, event, place)


def history(session: Session, project: Project, rater: Rater, limit: int = 50) -> list[dict[str, Any]]:
    """What the rater did, newest first, as they saw it; nothing tells where an answer came from."""
    events = effects.recent(session, rater, limit)
    undone = {event.answer.get("undone") for event in events if event.kind == "undo"}
    shown = [event for event in events if event.kind in ("rate", "skip", "flag")]
    ids = {event.item_id for event in shown}
    items = {item.id: item for item in session.scalars(select(Item).where(Item.id.in_(ids)))}
    by_id = {one.id: one for one in session.scalars(select(Response).where(Response.item_id.in_(ids)))}
    return [
        {
            "event_id": event.id,
            "slot": slots.name_of(event.item_id, event.k),
            "item_id": event.item_id,
            "kind": event.kind,
            "at": event.at,
            "prompt": items[event.item_id].prompt[-1]["content"][:300],
            "answer": answers.as_given(event.answer, [by_id[one] for one in event.order if one in by_id]),
            "reason": event.answer.get("reason"),
            "is_extra": event.is_extra,
            "undone": event.id in undone,
        }
        for event in shown
    ]
