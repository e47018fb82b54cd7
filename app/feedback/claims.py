"""Which item a rater judges now: own leases first, then gold, repeats and the queue; renewing and giving back. Takes no vote."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Update, case, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.database import now
from app.errors import Conflict, Forbidden, NotFound
from app.feedback import answers, projects, raters, slots, statements
from app.feedback.projects import count
from app.feedback.schemas import Shown, Task
from app.feedback.slots import OWN
from app.feedback.tables import Event, Item, Project, Rater, Rating, Slot

Some = TypeVar("Some", bound=answers.Placed)

SOFT_SECONDS = 120
"""Lease of an item that is fetched ahead: one that is never looked at is soon free for others."""
MOST_AHEAD = 9
TICK = 1e-5
"""Seconds between what one rater takes within one tick of the clock, so that its order is kept."""
WINDOW = 200
"""How many started items a claim looks at before it starts a new one: somebody who rates alone has rated all of them."""
REPEAT_DISTANCE = 20
TRIES = 5
RATING_ROLES = ("admin", "engineer", "rater")


class Held(NamedTuple):
    """A slot that a rater has."""

    item_id: str
    k: int
    round: int
    order_key: float
    lease_until: float
    shows: Sequence[Any] = ()
    """What `statements.looking` gives of the item, where that came along."""


# --- who rates ------------------------------------------------------------------------------------------------------------


def enter(session: Session, who: Principal, project_id: str, *, voting: bool = False) -> tuple[Project, Rater]:
    """A project and the caller as its rater, whose row is locked; who may rate joins by coming.

    Args:
        voting: somebody who was paused may still hand in what was under way.

    Raises:
        NotFound: there is no such project in the workspace.
        Forbidden: a viewer, or somebody who was paused or taken out.
    """
    raters.refuse_elsewhere(who, project_id)
    mine = {"of_project": project_id, "of_workspace": who.workspace_id, "of_user": raters.key_of(who)}
    found = session.execute(statements.entering(), mine).first() if who.role in RATING_ROLES else None
    if found is None:
        project = projects.get(session, who.workspace_id, project_id)
        return project, rater_for(session, project, who, voting=voting)
    project, rater = found
    session.info["feedback rater"] = ("rater", rater.id, session.get_transaction())
    return project, _let_in(rater, voting)


def rater_for(session: Session, project: Project, who: Principal, *, voting: bool = False) -> Rater:
    """The caller as rater of the project; who may rate joins by coming.

    Args:
        voting: somebody who was paused may still hand in what was under way.

    Raises:
        Forbidden: a viewer, or somebody who was paused or taken out.
    """
    if who.role not in RATING_ROLES:
        raise Forbidden("A viewer may look at everything and rate nothing. Ask an admin for the role rater.")
    raters.refuse_elsewhere(who, project.id)
    mine = select(Rater).where(Rater.project_id == project.id, Rater.who == raters.key_of(who))
    rater = session.scalars(mine).first()
    if rater is None:
        status = "practice" if project.practice > 0 and _of_role(session, project, "practice") else "active"
        try:
            with session.begin_nested():  # two tabs may come at the same moment
                rater = Rater(project_id=project.id, who=raters.key_of(who), name=raters.name_of(who), status=status)
                session.add(rater)
                session.flush()
            count(session, project)
        except IntegrityError:
            rater = session.scalars(mine).one()
    return _let_in(rater, voting)


def _let_in(rater: Rater, voting: bool) -> Rater:
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
    session.flush()
    there = session.connection().execute(statements.holding(), {"for_rater": rater.id}).all()
    held = [Held(*row[:5]) for row in there if row.runs]
    if len(held) > ahead:
        slot: Held | None = _renewed(session, rater, held[ahead], seconds)
    else:
        slot = _take(session, project, rater, seconds, statements.retaking(), len(held)) if len(there) > len(held) else None
        slot = slot or _fresh(session, project, rater, seconds, len(held))
    if slot is None:
        return None
    if rater.seen_at is None or rater.seen_at < time.time() - 30:
        rater.seen_at = time.time()
        session.flush()
    return task(session, rater, slot)


def task(session: Session, rater: Rater, slot: Held, *, undone: Event | None = None) -> Task:
    """What the rater is shown of a slot, with the own earlier vote if that was undone."""
    rows = slot.shows or session.connection().execute(statements.looking(), {"at_item": slot.item_id}).all()
    if not rows:
        raise NotFound("There is no such item in this project any more.")
    order = shown(rater.id, slot.item_id, slot.round, rows)
    # A place in the queue below zero is what `undo` gives: only then there may be an earlier vote.
    if undone is None and slot.order_key < 0:
        events = select(Event).where(Event.item_id == slot.item_id, Event.rater_id == rater.id, Event.k == slot.k, Event.kind == "rate")
        undone = session.scalars(events.order_by(Event.id.desc()).limit(1)).first()
    return Task(
        slot=slots.name_of(slot.item_id, slot.k),
        item_id=slot.item_id,
        prompt=rows[0].prompt,
        responses=[Shown(response.id, response.text) for response in order],
        lease_until=slot.lease_until or 0.0,
        earlier=answers.as_given(undone.answer, order) if undone is not None and undone.kind == "rate" else None,
        practice=rows[0].role == "practice",
    )


def shown(rater_id: str, item_id: str, round: int, responses: Sequence[Some]) -> list[Some]:
    """Responses in the order this rater sees them: drawn for rater and item, the same at every look, turned round in a repeat."""
    order = [response for response in responses if response.finish != "edited"]
    order.sort(key=lambda response: response.place)
    random.Random(f"{rater_id}/{item_id}").shuffle(order)
    return order[::-1] if round % 2 else order


def _renewed(session: Session, rater: Rater, slot: Held, seconds: float) -> Held:
    """The slot with a lease of at least so long, unless somebody holds its row at this moment."""
    at = {"at_item": slot.item_id, "at_k": slot.k, "for_rater": rater.id, "lease_for": float(seconds)}
    until = session.connection().execute(statements.renewing(), at).scalar()
    return slot if until is None else slot._replace(lease_until=until)


def _take(session: Session, project: Project, rater: Rater, seconds: float, taking: Update, held: int) -> Held | None:
    mine = {"for_rater": rater.id, "of_project": project.id, "lease_for": float(seconds), "behind": held * TICK}
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        rows = connection.execute(statements.taking_and_looking(taking), mine).all()
        return Held._make((*rows[0][:5], rows)) if rows else None
    found = connection.execute(taking, mine).first()
    return Held(*found) if found is not None else None


def _fresh(session: Session, project: Project, rater: Rater, seconds: float, held: int) -> Held | None:
    """A slot the rater did not hold: one of practice, gold, a repeat, or the queue."""
    if rater.status == "practice":
        item_id = _unseen(session, project, rater, "practice") if rater.practised + held < project.practice else None
        if item_id is not None:
            return _own(session, project, rater, item_id, seconds, held)
        if held:  # the last practice items are still being judged
            return None
        rater.status = "active"
        session.flush()
    drawn = random.Random(f"{project.seed}/{rater.id}/{rater.done + held}").random()
    if drawn < project.gold_rate:
        item_id = _unseen(session, project, rater, "gold")
        if item_id is not None:
            return _own(session, project, rater, item_id, seconds, held)
    elif drawn > 1 - project.repeat_rate:
        item_id = _to_repeat(session, project, rater)
        if item_id is not None:
            return _own(session, project, rater, item_id, seconds, held, round=1)
    return _take(session, project, rater, seconds, _queue(), held)


@cache
def _queue() -> Update:
    return statements.queueing(WINDOW)


# --- items of one rater alone ---------------------------------------------------------------------------------------------

_marked: dict[tuple[str, str], tuple[int, list[str]]] = {}
"""(project, role) -> its `roles`, and the ids of its items of that role. There is no index for these few."""


def _of_role(session: Session, project: Project, role: str) -> list[str]:
    known = _marked.get((project.id, role))
    if known is None or known[0] != project.roles:
        found = select(Item.id).where(Item.project_id == project.id, Item.role == role, Item.status == "open")
        found = found.order_by(Item.created_at, Item.id)
        if len(_marked) > 500:
            _marked.clear()
        known = _marked[project.id, role] = (project.roles, list(session.scalars(found)))
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


def _own(session: Session, project: Project, rater: Rater, item_id: str, seconds: float, held: int, round: int = 0) -> Held:
    """A slot made for this rater alone."""
    k = slots.fresh_number()
    made = {"item_id": item_id, "k": k, "project_id": project.id, "round": round, "rank": OWN, "rater_id": rater.id}
    moment: dict[str, Any] = {"order_key": now() + held * TICK, "lease_until": now() + seconds}
    there = statements.SLOT
    returned = insert(Slot.__table__).values(**made, **moment).returning(there.order_key, there.lease_until)  # type: ignore[arg-type]
    return Held(item_id, k, round, *session.connection().execute(returned).one())


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
