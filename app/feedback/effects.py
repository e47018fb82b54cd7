"""What a rater's request does to rows: where it lands, filling and freeing slots, what holds now, counters. Decides nothing.

The usual vote is one statement that finds its place and one for all that it changes; what is rarer goes by objects.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from app.database import new_id, now
from app.errors import BadRequest, Conflict, Forbidden, NotFound
from app.feedback import answers, claims, filters, slots, statements
from app.feedback.projects import count, lock
from app.feedback.slots import OWN, STARTED
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot

_HELD = ("preference", "quality", "score", "ranking", "labels", "comment")
"""What of an answer is in the columns of a rating."""


class Asked(NamedTuple):
    """An item, as far as a vote on it goes."""

    id: str
    role: str
    gold: dict[str, Any] | None
    status: str
    overlap: int


class Answered(NamedTuple):
    """A response without its text."""

    id: str
    place: int
    source: str
    finish: str | None


@dataclass
class Place:
    """Where a rater's request lands."""

    item: Asked
    k: int
    round: int
    slot: int | None
    """Number of the rater's own slot, or of one that can be filled; None: what is said is an extra."""
    order: Sequence[answers.Placed]
    """As the rater saw them."""
    rating: Rating | None
    """What the rater said of it before, and holds now."""
    known: Event | None = None
    """What was done with the same key already; then nothing is to be done."""

    @property
    def is_wanted(self) -> bool:
        """Whether a slot of it counts on the project."""
        return self.item.role == "normal" and self.round == 0


def place_of(session: Session, project: Project, rater: Rater, slot: str, key: str, kind: str, *, filling: bool) -> Place:
    """Where a request on a slot lands; the row of the slot is locked, and the rater has to be.

    Raises:
        NotFound: there is no such item (any more).
        Forbidden: the rater is paused, and the item is not theirs.
        BadRequest, Conflict: as `known_event` says.
    """
    item_id, k = slots.parts_of(slot)
    _check(key)
    session.flush()
    at = {"of_item": item_id, "of_k": k, "of_rater": rater.id, "of_project": project.id, "of_key": key}
    rows = session.connection().execute(statements.placing(), at).all()
    if not rows:
        raise NotFound("There is no such item in this project any more.")
    item, first = Asked(*rows[0][:5]), rows[0]
    round_ = first.round or 0
    order = claims.shown(rater.id, item_id, round_, [Answered(*row[10:]) for row in rows])
    if first.known is not None:
        return Place(item, k, round_, None, order, None, known_event(session, rater, key, kind, slot))
    rating = session.get_one(Rating, (item_id, rater.id, round_), populate_existing=True) if first.said is not None else None
    mine = first.named if first.named is not None and first.holder == rater.id else None
    if mine is None and rating is None and rater.status == "paused":
        raise Forbidden("You are paused in this project, and this item is not yours any more.", code="paused")
    if mine is None and filling and (rating is None or rating.kind in ("skip", "flag")):
        mine = other_slot(session, rater, item, first.named)
    return Place(item, k, round_, mine, order, rating)


def slot_of(session: Session, item_id: str, k: int | None) -> Slot | None:
    """A slot as it is now."""
    return None if k is None else session.get(Slot, (item_id, k), populate_existing=True)


def other_slot(session: Session, rater: Rater, item: Asked, named: int | None) -> int | None:
    """A slot for a vote that comes late: one the rater holds on the same item, the one named when it is free, or any free one."""
    query = select(Slot.k).where(Slot.item_id == item.id, Slot.done_at.is_(None), Slot.round == 0)
    own = session.scalars(query.where(Slot.rater_id == rater.id).limit(1).with_for_update(skip_locked=True)).first()
    if own is not None or item.role != "normal" or item.status != "open":
        return own
    first = Slot.k != (-1 if named is None else named)
    return session.scalars(query.where(slots.is_free()).order_by(first, Slot.k).limit(1).with_for_update(skip_locked=True)).first()


def event_of(project: Project, rater: Rater, place: Place, kind: str, key: str, answer: dict[str, Any], *, order: bool = True) -> Event:
    """What the rater did, as a row that is not in the log yet."""
    return Event(
        id=new_id("evt"),
        project_id=project.id,
        item_id=place.item.id,
        k=place.k,
        rater_id=rater.id,
        key=key,
        kind=kind,
        answer=answer,
        order=[response.id for response in place.order] if order else [],
        active_ms=None,
        wall_ms=None,
        ui={},
        guideline_version=project.guideline_version,
        is_extra=False,
        at=time.time(),
    )


def log(
    session: Session, project: Project, rater: Rater, place: Place, kind: str, key: str, answer: dict[str, Any], *, order: bool = True
) -> Event:
    """Add to the log what the rater did."""
    event = event_of(project, rater, place, kind, key, answer, order=order)
    session.add(event)
    return event


def fill(session: Session, project: Project, rater: Rater, place: Place, event: Event) -> None:
    """Log and store a vote that is the first of this rater on the item, and fill the slot if there is one."""
    gold = right = 0
    done, practised, status = rater.done, rater.practised, rater.status
    if place.item.role == "practice":
        practised += 1
        status = "active" if status == "practice" and practised >= project.practice else status
    else:
        done += 1
        gold, right = _gold(project, place, event.answer)
    if place.slot is not None:
        event.k = place.slot
    did: dict[str, Any] = {"done": done, "gold_seen": rater.gold_seen + gold, "gold_right": rater.gold_right + right}
    day = int(event.at // 86_400)
    did |= {"day": day, "done_before": rater.done_before if rater.day == day else rater.done}
    did |= {"practised": practised, "status": status, "seen_at": event.at}
    held = {"item_id": place.item.id, "rater_id": rater.id, "round": place.round, "project_id": project.id}
    held |= _holds(project, place, event)
    values: dict[str, Any] = {"at_item": place.item.id, "at_k": place.slot, "at_rater": rater.id}
    values |= {f"event_{name}": getattr(event, name) for name in statements.EVENT_COLUMNS}
    values |= {f"rating_{name}": held[name] for name in statements.RATING_COLUMNS}
    values |= {f"did_{name}": value for name, value in did.items()}
    fills = place.slot is not None
    statements.together(session, statements.voting(fills, place.is_wanted and place.item.overlap > 1), values)
    for name, value in did.items():
        set_committed_value(rater, name, value)
    if fills:
        count(session, project, done=1 if place.is_wanted else 0)
    else:
        count(session, project, extras=1)


def _holds(project: Project, place: Place, event: Event) -> dict[str, Any]:
    """What a rating says that was made of an event."""
    held = {name: event.answer.get(name, {} if name == "labels" else "" if name == "comment" else None) for name in _HELD}
    left = place.order[0].place if project.kind == "pair" and place.order else None
    more = {"event_id": event.id, "kind": event.kind, "is_extra": event.is_extra, "active_ms": event.active_ms, "at": event.at}
    return {**held, **more, "left": left}


def hold(session: Session, project: Project, rater: Rater, place: Place, event: Event, rating: Rating | None) -> None:
    """Have what an event says be what the rater says now."""
    if rating is None:
        rating = Rating(item_id=place.item.id, rater_id=rater.id, round=place.round, project_id=project.id)
        session.add(rating)
    for name, value in _holds(project, place, event).items():
        setattr(rating, name, value)


def free(session: Session, place: Place) -> None:
    """Give the slot to others; one that was for this rater alone is over."""
    slot = slot_of(session, place.item.id, place.slot)
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
    gold, right = _gold(project, place, answer)
    rater.gold_seen += sign * gold
    rater.gold_right += sign * right


def _gold(project: Project, place: Place, answer: dict[str, Any]) -> tuple[int, int]:
    """1 for an item whose right answer is known, and 1 if this one agrees with it."""
    if place.item.role != "gold" or not place.item.gold:
        return 0, 0
    if place.rating is not None and not answers.is_test(place.item.gold, place.rating.at):
        return 0, 0  # said before the item became gold
    return 1, int(answers.is_right(project, place.item.gold, answer, place.order))


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
    slot = slot_of(session, place.item.id, event.k) if event is not None else None
    if slot is not None and slot.rater_id == rater.id and slot.done_at is not None:
        slot.done_at, place.slot = None, slot.k
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
        item = session.get_one(Item, place.item.id, populate_existing=True)
        item.status, item.reason = "open", None
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
    _check(key)
    event = session.scalars(select(Event).where(Event.rater_id == rater.id, Event.key == key)).first()
    if event is not None and (event.kind != kind or (slot and event.item_id != slots.parts_of(slot)[0])):
        raise Conflict("This Idempotency-Key was used for something else already. Make a new one for each vote.", code="key")
    return event


def _check(key: str) -> None:
    if not 1 <= len(key) <= 255:
        raise BadRequest("An Idempotency-Key has 1 to 255 characters; a random UUID is a good one.")


def recent(session: Session, rater: Rater, limit: int = 400) -> list[Event]:
    """The newest events of a rater, newest first."""
    return list(session.scalars(select(Event).where(Event.rater_id == rater.id).order_by(Event.id.desc()).limit(limit)))
