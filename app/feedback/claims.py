"""Which item a rater judges now: own leases first, then gold, repeats and the queue; renewing and giving back. Takes no vote."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

from sqlalchemy import BindParameter, ColumnElement, Double, Select, Update, bindparam, case, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased
from sqlalchemy.orm.attributes import set_committed_value

from app.accounts.schemas import Principal
from app.database import now
from app.errors import Conflict, Forbidden
from app.feedback import answers, slots
from app.feedback.projects import count
from app.feedback.schemas import Shown, Task
from app.feedback.slots import OWN, STARTED, WAITING
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot

SOFT_SECONDS = 120
"""Lease of an item that is fetched ahead: one that is never looked at is soon free for others."""
MOST_AHEAD = 9
WINDOW = 200
"""How many started items a claim looks at before it starts a new one: somebody who rates alone has rated all of them."""
REPEAT_DISTANCE = 20
TRIES = 5


# --- who rates ------------------------------------------------------------------------------------------------------------


def rater_for(session: Session, project: Project, who: Principal, *, voting: bool = False) -> Rater:
    """The caller as rater of the project; who may rate joins by coming.

    Args:
        voting: somebody who was paused may still hand in what was under way.

    Raises:
        Forbidden: a viewer, or somebody who was paused or taken out.
    """
    if who.role not in ("admin", "engineer", "rater"):
        raise Forbidden("A viewer may look at everything and rate nothing. Ask an admin for the role rater.")
    mine = select(Rater).where(Rater.project_id == project.id, Rater.who == f"user:{who.user_id}")
    rater = session.scalars(mine).first()
    if rater is None:
        status = "practice" if project.practice > 0 and _of_role(session, project, "practice") else "active"
        try:
            with session.begin_nested():  # two tabs may come at the same moment
                rater = Rater(project_id=project.id, who=f"user:{who.user_id}", name=who.user_name, status=status)
                session.add(rater)
                session.flush()
            count(session, project)
        except IntegrityError:
            rater = session.scalars(mine).one()
    if rater.status == "removed" or (rater.status == "paused" and not voting):
        done = "taken out of" if rater.status == "removed" else "paused in"
        why = f" {rater.reason}" if rater.reason else ""
        raise Forbidden(f"You were {done} this project.{why} Your ratings are kept; ask who runs it.", code=rater.status)
    return rater


def locked(session: Session, rater: Rater) -> Rater:
    """The rater as it is now. What one rater does happens one after another, in however many tabs."""
    mine = ("rater", rater.id, session.get_transaction())
    if session.info.get("feedback rater") == mine:  # submit and next are one transaction
        return session.get_one(Rater, rater.id)
    query = select(Rater).where(Rater.id == rater.id).with_for_update(key_share=True)
    found = session.scalars(query.execution_options(populate_existing=True)).one()
    session.info["feedback rater"] = mine
    return found


# --- claiming -------------------------------------------------------------------------------------------------------------


def claim(session: Session, project: Project, rater: Rater, *, ahead: int = 0) -> Task | None:
    """What the rater judges now, or the `ahead`-th after it, with a lease; None when nothing is left for this rater.

    Raises:
        Conflict: the project is not open.
    """
    if project.status != "open":
        words = {"draft": "is not open yet", "paused": "is paused", "closed": "is closed"}[project.status]
        raise Conflict(
            f"The project {words}, so there is nothing to rate now. Votes on items you have already are still taken.", code=project.status
        )
    rater = locked(session, rater)
    if rater.status in ("paused", "removed"):  # perhaps by the vote just given, which must not be lost for it
        return None
    ahead = max(0, min(ahead, MOST_AHEAD))
    seconds = SOFT_SECONDS if ahead else project.lease_seconds
    held = _live(session, project, rater)
    if len(held) > ahead:
        slot = held[ahead]
        _renew(session, slot, seconds)
    else:
        found = _fresh(session, project, rater, seconds, len(held))
        if found is None:
            return None
        slot = found
    if rater.seen_at is None or rater.seen_at < time.time() - 30:
        rater.seen_at = time.time()
    session.flush()
    return task(session, project, rater, slot)


def task(session: Session, project: Project, rater: Rater, slot: Slot, *, undone: Event | None = None) -> Task:
    """What the rater is shown of a slot, with the own earlier vote if that was undone."""
    item = session.get_one(Item, slot.item_id)
    there = select(Response).where(Response.item_id == item.id).order_by(Response.place)
    order = shown(rater.id, item.id, slot.round, list(session.scalars(there)))
    # A place in the queue below zero is what `undo` gives: only then there may be an earlier vote.
    if undone is None and slot.order_key < 0:
        events = select(Event).where(Event.item_id == item.id, Event.rater_id == rater.id, Event.k == slot.k, Event.kind == "rate")
        undone = session.scalars(events.order_by(Event.id.desc()).limit(1)).first()
    return Task(
        slot=slots.name_of(slot.item_id, slot.k),
        item_id=item.id,
        prompt=item.prompt,
        responses=[Shown(response.id, response.text) for response in order],
        lease_until=slot.lease_until or 0.0,
        earlier=answers.as_given(undone.answer, order) if undone is not None and undone.kind == "rate" else None,
        practice=item.role == "practice",
    )


def shown(rater_id: str, item_id: str, round: int, responses: Sequence[Response]) -> list[Response]:
    """Responses in the order this rater sees them: drawn for rater and item, the same at every look, turned round in a repeat."""
    order = [response for response in responses if response.finish != "edited"]
    order.sort(key=lambda response: response.place)
    random.Random(f"{rater_id}/{item_id}").shuffle(order)
    return order[::-1] if round % 2 else order


def _live(session: Session, project: Project, rater: Rater) -> list[Slot]:
    """Slots the rater holds, in the order they were claimed in; what was re-opened by undo comes first."""
    held = select(Slot).where(Slot.rater_id == rater.id, Slot.lease_until >= now(), Slot.done_at.is_(None), Slot.project_id == project.id)
    return list(session.scalars(held.order_by(Slot.order_key).execution_options(populate_existing=True)))


def _renew(session: Session, slot: Slot, seconds: float) -> None:
    """Lengthen a lease, unless somebody holds the row at this moment: who waits here could be waited for by them."""
    row = select(Slot.k).where(Slot.item_id == slot.item_id, Slot.k == slot.k, Slot.rater_id == slot.rater_id, Slot.done_at.is_(None))
    if session.execute(row.with_for_update(skip_locked=True)).first() is None:
        return
    changed = update(Slot).where(Slot.item_id == slot.item_id, Slot.k == slot.k, Slot.lease_until < now() + seconds)
    until = session.execute(
        changed.values(lease_until=now() + seconds).returning(Slot.lease_until).execution_options(synchronize_session=False)
    ).scalar()
    if until is not None:
        set_committed_value(slot, "lease_until", until)


def _taking(which: Select[str, int]) -> Update:
    """A statement that leases the first slot of a query that nobody else is taking at this moment; the time is its new place."""
    first = which.limit(1).with_for_update(skip_locked=True, of=Slot).scalar_subquery()
    taken = update(Slot).where(tuple_(Slot.item_id, Slot.k) == first)
    until: Any = now() + bindparam("lease_for", type_=Double())
    values = {
        "rater_id": bindparam("for_rater"),
        "lease_until": until,
        "rank": case((Slot.rank == OWN, OWN), else_=STARTED),
        "order_key": now(),
    }
    return taken.values(values).returning(Slot).execution_options(synchronize_session=False, populate_existing=True)


def _take(session: Session, project: Project, rater: Rater, seconds: float, taking: Update) -> Slot | None:
    found = session.scalars(taking, {"for_rater": rater.id, "of_project": project.id, "lease_for": float(seconds)})
    return cast("Slot | None", found.first())


@cache
def _ran_out() -> Update:
    """A statement that takes an own slot whose lease ran out and that nobody else took."""
    mine = (Slot.rater_id == bindparam("for_rater")) & (Slot.project_id == bindparam("of_project"))
    return _taking(
        select(Slot.item_id, Slot.k).where(mine, Slot.lease_until < now(), Slot.done_at.is_(None), _item_is_open()).order_by(Slot.order_key)
    )


def _fresh(session: Session, project: Project, rater: Rater, seconds: float, held: int) -> Slot | None:
    """A slot the rater did not hold: an own one whose lease ran out, or one of practice, gold, a repeat, or the queue."""
    slot = _take(session, project, rater, seconds, _ran_out())
    if slot is not None:
        return slot
    if rater.status == "practice":
        item_id = _unseen(session, project, rater, "practice") if rater.practised + held < project.practice else None
        if item_id is not None:
            return _own(session, project, rater, item_id, seconds)
        if held:  # the last practice items are still being judged
            return None
        rater.status = "active"
    drawn = random.Random(f"{project.seed}/{rater.id}/{rater.done + held}").random()
    if drawn < project.gold_rate:
        item_id = _unseen(session, project, rater, "gold")
        if item_id is not None:
            return _own(session, project, rater, item_id, seconds)
    elif drawn > 1 - project.repeat_rate:
        item_id = _to_repeat(session, project, rater)
        if item_id is not None:
            return _own(session, project, rater, item_id, seconds, round=1)
    return _from_queue(session, project, rater, seconds)


@cache
def _queue() -> tuple[Update, ...]:
    """Statements that take a slot of the queue, in the order they are tried in: finish what was begun, begin, then whatever is left.

    They are built once; building them anew would take longer than they do.
    """
    rater: BindParameter[str] = bindparam("for_rater")
    project: BindParameter[str] = bindparam("of_project")
    other, theirs, near = aliased(Slot), aliased(Rating), aliased(Slot)
    # Looked up row by row: as a join, all that the rater ever did would be read for each claim.
    held = select(other.k).where(other.item_id == Slot.item_id, other.rater_id == rater).limit(1).scalar_subquery()
    said = select(theirs.round).where(theirs.item_id == Slot.item_id, theirs.rater_id == rater).limit(1).scalar_subquery()
    free = (
        select(Slot.item_id, Slot.k)
        .where(Slot.project_id == project, Slot.done_at.is_(None), slots.is_free(), held.is_(None), said.is_(None), _item_is_open())
        .order_by(Slot.order_key)
    )
    edge = (
        select(near.order_key)
        .where(near.project_id == project, near.done_at.is_(None), near.rank == STARTED)
        .order_by(near.order_key)
        .offset(WINDOW)
        .limit(1)
        .scalar_subquery()
    )
    return tuple(
        _taking(which)
        for which in (
            free.where(Slot.rank == STARTED, Slot.order_key <= func.coalesce(edge, 1e18)),
            free.where(Slot.rank == WAITING),
            free.where(Slot.rank == STARTED),
        )
    )


def _from_queue(session: Session, project: Project, rater: Rater, seconds: float) -> Slot | None:
    for taking in _queue():
        slot = _take(session, project, rater, seconds, taking)
        if slot is not None:
            return slot
    return None


def _item_is_open() -> ColumnElement[bool]:
    return select(Item.status).where(Item.id == Slot.item_id).limit(1).scalar_subquery() == "open"


# --- items of one rater alone ---------------------------------------------------------------------------------------------

_marked: dict[tuple[str, str], tuple[str, list[str]]] = {}
"""(project, role) -> newest item of the project, and the ids of its items of that role. There is no index for these few."""


def _of_role(session: Session, project: Project, role: str) -> list[str]:
    newest = session.scalar(select(func.max(Item.id)).where(Item.project_id == project.id)) or ""
    known = _marked.get((project.id, role))
    if known is None or known[0] != newest:
        found = select(Item.id).where(Item.project_id == project.id, Item.role == role, Item.status == "open").order_by(Item.id)
        if len(_marked) > 500:
            _marked.clear()
        known = _marked[project.id, role] = (newest, list(session.scalars(found)))
    return known[1]


def _unseen(session: Session, project: Project, rater: Rater, role: str) -> str | None:
    """An item of a role that this rater has not had: practice in order, gold in an order drawn for the rater."""
    ids = _of_role(session, project, role)
    if role == "gold":
        ids = random.Random(f"{project.seed}/{rater.id}").sample(ids, len(ids))
    for first in range(0, len(ids), 100):
        part = ids[first : first + 100]
        had = set(session.scalars(select(Slot.item_id).where(Slot.item_id.in_(part), Slot.rater_id == rater.id)))
        had |= set(session.scalars(select(Rating.item_id).where(Rating.item_id.in_(part), Rating.rater_id == rater.id)))
        there = set(session.scalars(select(Item.id).where(Item.id.in_(part), Item.status == "open")))
        for item_id in part:
            if item_id in there and item_id not in had:
                return item_id
    return None


def _to_repeat(session: Session, project: Project, rater: Rater) -> str | None:
    """An item the rater judged long enough ago, and only once."""
    rated = select(Event.item_id).where(Event.rater_id == rater.id, Event.kind == "rate").order_by(Event.id.desc()).limit(300)
    old = list(dict.fromkeys(session.scalars(rated)))[REPEAT_DISTANCE:]
    random.Random(f"{project.seed}/{rater.id}/{rater.done}").shuffle(old)
    for item_id in old[:TRIES]:
        item, judged = session.get(Item, item_id), session.get(Rating, (item_id, rater.id, 0))
        again = session.scalar(select(Slot.k).where(Slot.item_id == item_id, Slot.rater_id == rater.id, Slot.round == 1))
        if item and item.role == "normal" and item.status == "open" and judged and judged.kind == "rate" and again is None:
            return item_id
    return None


def _own(session: Session, project: Project, rater: Rater, item_id: str, seconds: float, round: int = 0) -> Slot:
    """A slot made for this rater alone."""
    made = {"item_id": item_id, "k": slots.fresh_number(), "project_id": project.id, "round": round, "rank": OWN, "rater_id": rater.id}
    moment: dict[str, Any] = {"order_key": now(), "lease_until": now() + seconds}
    return session.scalars(insert(Slot).values(**made, **moment).returning(Slot)).one()


# --- keeping and giving back ----------------------------------------------------------------------------------------------


def renew(session: Session, rater: Rater, slot: str) -> float:
    """Keep a slot for its rater a while longer; returns until when.

    Raises:
        Conflict: somebody else has it now. A vote on it is still taken.
    """
    item_id, k = slots.parts_of(slot)
    seconds = session.scalar(select(Project.lease_seconds).where(Project.id == rater.project_id)) or 0
    until = session.execute(
        update(Slot)
        .where(Slot.item_id == item_id, Slot.k == k, Slot.rater_id == rater.id, Slot.done_at.is_(None))
        .values(lease_until=now() + float(seconds))
        .returning(Slot.lease_until)
        .execution_options(synchronize_session="fetch")
    ).scalar()
    if until is None:
        raise Conflict("This item is no longer kept for you. Your vote on it is taken all the same.", code="lost")
    return float(until)


def release(session: Session, rater: Rater, slot: str) -> None:
    """Give a slot back that is not filled, so that others need not wait for its lease to end. Nothing happens where it is not held."""
    item_id, k = slots.parts_of(slot)
    mine = (Slot.item_id == item_id) & (Slot.k == k) & (Slot.rater_id == rater.id) & Slot.done_at.is_(None)
    own = Slot.rank == OWN  # it stays that rater's, who gets it first the next time
    session.execute(
        update(Slot)
        .where(mine)
        .values(rater_id=case((own, Slot.rater_id), else_=None), lease_until=case((own, 0.0), else_=None))
        .execution_options(synchronize_session="fetch")
    )
