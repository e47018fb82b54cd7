"""What a rater's request does to rows: where it lands, filling and freeing slots, what holds now, counters. Decides nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.database import new_id, now
from app.errors import BadRequest, Conflict, Forbidden, NotFound
from app.feedback import answers, claims, filters, slots
from app.feedback.projects import count, lock
from app.feedback.slots import OWN, STARTED, WAITING
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot

_HELD = ("preference", "quality", "score", "ranking", "labels", "comment")
"""What of an answer is in the columns of a rating."""


@dataclass
class Place:
    """Where a rater's request lands."""

    item: Item
    k: int
    round: int
    slot: Slot | None
    """The rater's own slot, or one that can be filled; None: what is said is an extra."""
    order: list[Response]
    """As the rater saw them."""
    rating: Rating | None
    """What the rater said of it before, and holds now."""

    @property
    def is_wanted(self) -> bool:
        """Whether a slot of it counts on the project."""
        return self.item.role == "normal" and self.round == 0


def place_of(session: Session, project: Project, rater: Rater, slot: str, *, filling: bool) -> Place:
    """Where a request on a slot lands; its row is locked.

    Raises:
        NotFound: there is no such item (any more).
        Forbidden: the rater is paused, and the item is not theirs.
    """
    item_id, k = slots.parts_of(slot)
    item = session.scalars(select(Item).where(Item.id == item_id, Item.project_id == project.id)).first()
    if item is None:
        raise NotFound("There is no such item in this project any more.")
    one = select(Slot).where(Slot.item_id == item_id, Slot.k == k).with_for_update()
    named = session.scalars(one.execution_options(populate_existing=True)).first()
    round_ = named.round if named is not None else 0
    rating = session.get(Rating, (item_id, rater.id, round_), populate_existing=True)
    mine: Slot | None = named if named is not None and named.rater_id == rater.id else None
    if mine is None and rating is None and rater.status == "paused":
        raise Forbidden("You are paused in this project, and this item is not yours any more.", code="paused")
    if mine is None and filling and (rating is None or rating.kind in ("skip", "flag")):
        mine = other_slot(session, rater, item, named)
    there = select(Response).where(Response.item_id == item_id).order_by(Response.place)
    order = claims.shown(rater.id, item_id, round_, list(session.scalars(there)))
    return Place(item, k, round_, mine, order, rating)


def other_slot(session: Session, rater: Rater, item: Item, named: Slot | None) -> Slot | None:
    """A slot for a vote that comes late: one the rater holds on the same item, the one named when it is free, or any free one."""
    query = select(Slot).where(Slot.item_id == item.id, Slot.done_at.is_(None), Slot.round == 0)
    own = session.scalars(query.where(Slot.rater_id == rater.id).with_for_update(skip_locked=True)).first()
    if own is not None or item.role != "normal" or item.status != "open":
        return own
    first = Slot.k != (named.k if named is not None else -1)
    return session.scalars(query.where(slots.is_free()).order_by(first, Slot.k).limit(1).with_for_update(skip_locked=True)).first()


def log(
    session: Session, project: Project, rater: Rater, place: Place, kind: str, key: str, answer: dict[str, Any], *, order: bool = True
) -> Event:
    """Add to the log what the rater did."""
    event = Event(
        id=new_id("evt"),
        project_id=project.id,
        item_id=place.item.id,
        k=place.k,
        rater_id=rater.id,
        key=key,
        kind=kind,
        answer=answer,
        order=[response.id for response in place.order] if order else [],
        guideline_version=project.guideline_version,
        is_extra=False,
        at=time.time(),
    )
    session.add(event)
    return event


def fill(session: Session, project: Project, rater: Rater, place: Place, event: Event) -> None:
    """Store a vote that is the first of this rater on the item, and fill the slot if there is one."""
    hold(session, project, rater, place, event, None)
    if place.item.role == "practice":
        rater.practised += 1
        if rater.status == "practice" and rater.practised >= project.practice:
            rater.status = "active"
    else:
        rater.done += 1
        count_gold(project, rater, place, event.answer, 1)
    slot = place.slot
    if slot is None:
        count(session, project, extras=1)
        return
    event.k = slot.k
    slot.rater_id, slot.done_at, slot.lease_until = rater.id, now(), None
    session.flush()
    if place.is_wanted and place.item.overlap > 1:
        _start(session, place.item.id)
    count(session, project, done=1 if place.is_wanted else 0)


def _start(session: Session, item_id: str) -> None:
    """Have the item finished before others are begun. Slots that are being taken at this moment are left alone: it is only an order."""
    waiting = select(Slot.k).where(Slot.item_id == item_id, Slot.done_at.is_(None), Slot.rank == WAITING).with_for_update(skip_locked=True)
    session.execute(
        update(Slot).where(Slot.item_id == item_id, Slot.k.in_(waiting)).values(rank=STARTED).execution_options(synchronize_session=False)
    )


def hold(session: Session, project: Project, rater: Rater, place: Place, event: Event, rating: Rating | None) -> None:
    """Have what an event says be what the rater says now."""
    if rating is None:
        rating = Rating(item_id=place.item.id, rater_id=rater.id, round=place.round, project_id=project.id)
        session.add(rating)
    rating.event_id, rating.kind, rating.is_extra, rating.active_ms = event.id, event.kind, event.is_extra, event.active_ms
    for name in _HELD:
        setattr(rating, name, event.answer.get(name, {} if name == "labels" else "" if name == "comment" else None))
    rating.left = place.order[0].place if project.kind == "pair" and place.order else None
    rating.at = event.at


def free(session: Session, place: Place) -> None:
    """Give the slot to others; one that was for this rater alone is over."""
    slot = place.slot
    if slot is None:
        return
    if slot.rank == OWN and not (place.is_wanted and place.item.status == "open"):
        slot.done_at, slot.lease_until = now(), None
    else:
        slot.rater_id = slot.lease_until = None
        slot.rank = STARTED
    session.flush()


def count_gold(project: Project, rater: Rater, place: Place, answer: dict[str, Any], sign: int) -> None:
    """Count an answer to an item whose right answer is known, or with -1 take it back."""
    if place.item.role == "gold" and place.item.gold:
        rater.gold_seen += sign
        rater.gold_right += sign * answers.is_right(project, place.item.gold, answer, place.order)


def add_better(session: Session, rater: Rater, place: Place, event: Event) -> None:
    """Keep an answer the rater wrote as a further response; nobody is asked about it."""
    last = session.scalar(select(func.max(Response.place)).where(Response.item_id == place.item.id)) or 0
    text = event.answer["better"]
    made = Response(
        id=new_id("rsp"), item_id=place.item.id, place=last + 1, text=text, source=rater.name, finish="edited", style=filters.style(text)
    )
    session.add(made)
    event.answer = {**event.answer, "better_id": made.id}


def remove_better(session: Session, rating: Rating) -> None:
    """Take away the better answer that came with a vote that holds no more."""
    made = session.get(Response, stored(session, rating).get("better_id", ""))
    if made is not None:
        session.delete(made)
        session.flush()


def stored(session: Session, rating: Rating) -> dict[str, Any]:
    """The answer a rating was made of."""
    event = session.get(Event, rating.event_id)
    return event.answer if event is not None else {}


def withdraw(session: Session, project: Project, rater: Rater, place: Place, rating: Rating) -> None:
    """Have the rater have said nothing of an item; its slot, where it had filled one, is open again and still theirs."""
    event = session.get(Event, rating.event_id)
    slot = session.get(Slot, (place.item.id, event.k)) if event is not None else None
    if slot is not None and slot.rater_id == rater.id and slot.done_at is not None:
        slot.done_at, place.slot = None, slot
    more: dict[str, int] = {}
    if rating.kind == "rate":
        if rating.is_extra:
            more["extras"] = -1
        elif place.is_wanted and place.slot is not None:
            more["done"] = -1
        if place.item.role != "practice":
            rater.done -= 1
        count_gold(project, rater, place, event.answer if event is not None else {}, -1)
        remove_better(session, rating)
    session.delete(rating)
    session.flush()
    if rating.kind == "flag" and place.item.status == "flagged" and not _others_flag(session, place.item.id):
        project = lock(session, project)
        there = sum(each.round == 0 for each in session.scalars(select(Slot).where(Slot.item_id == place.item.id)))
        place.item.status, place.item.reason = "open", None
        session.flush()
        slots.fit(session, project, place.item.id)
        again = select(func.count()).select_from(Slot).where(Slot.item_id == place.item.id, Slot.round == 0)
        more |= {"items": 1, "slots": int(session.scalar(again) or 0) - there}
    count(session, project, **more)


def _others_flag(session: Session, item_id: str) -> bool:
    return session.scalar(select(Rating.rater_id).where(Rating.item_id == item_id, Rating.kind == "flag").limit(1)) is not None


def known_event(session: Session, rater: Rater, key: str, kind: str, slot: str) -> Event | None:
    """What was done with this key already.

    Raises:
        BadRequest: the key is empty or too long.
        Conflict: it was used for something else.
    """
    if not 1 <= len(key) <= 255:
        raise BadRequest("An Idempotency-Key has 1 to 255 characters; a random UUID is a good one.")
    event = session.scalars(select(Event).where(Event.rater_id == rater.id, Event.key == key)).first()
    if event is not None and (event.kind != kind or (slot and event.item_id != slots.parts_of(slot)[0])):
        raise Conflict("This Idempotency-Key was used for something else already. Make a new one for each vote.", code="key")
    return event


def recent(session: Session, rater: Rater, limit: int = 400) -> list[Event]:
    """The newest events of a rater, newest first."""
    return list(session.scalars(select(Event).where(Event.rater_id == rater.id).order_by(Event.id.desc()).limit(limit)))
