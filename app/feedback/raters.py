"""Raters of a project: looking at them, pausing, letting go on, taking out, and the gate of items whose right answer is known."""

from __future__ import annotations

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.database import now
from app.errors import Conflict, NotFound
from app.feedback.projects import count
from app.feedback.slots import OWN
from app.feedback.tables import Project, Rater, Slot


def key_of(who: Principal) -> str:
    """By what a caller is known as a rater: each token of the role rater is its own rater, everything else its person."""
    return f"token:{who.credential_id}" if _is_own(who) else f"user:{who.user_id}"


def name_of(who: Principal) -> str:
    """What a caller is called as a rater."""
    return who.credential_name if _is_own(who) else who.user_name


def _is_own(who: Principal) -> bool:
    return who.via == "token" and who.role == "rater"


def refuse_elsewhere(who: Principal, project_id: str) -> None:
    """See that a token that is bound to a project rates in no other.

    Raises:
        NotFound: it is bound to another one.
    """
    if who.project_id and who.project_id != project_id:
        raise NotFound("There is no such feedback project.")


def listed(session: Session, project: Project) -> list[Rater]:
    """Raters of a project, in the order they came."""
    return list(session.scalars(select(Rater).where(Rater.project_id == project.id).order_by(Rater.id)))


def get(session: Session, project: Project, rater_id: str) -> Rater:
    """A rater of the project.

    Raises:
        NotFound: there is none with that id.
    """
    rater = session.scalars(select(Rater).where(Rater.id == rater_id, Rater.project_id == project.id)).first()
    if rater is None:
        raise NotFound("There is no such rater in this project.")
    return rater


def pause(session: Session, rater: Rater, reason: str = "") -> Rater:
    """Give a rater nothing more to judge. What they said stays; what they hold is free for others.

    Raises:
        Conflict: they were taken out.
    """
    rater = _locked(session, rater)
    if rater.status == "removed":
        raise Conflict("This rater was taken out of the project. Let them go on first.")
    return _set(session, rater, "paused", reason.strip()[:500] or "Paused by who runs the project.")


def resume(session: Session, rater: Rater) -> Rater:
    """Let a rater go on who was paused or taken out. The gate counts anew."""
    rater = _locked(session, rater)
    if rater.status in ("paused", "removed"):
        rater.gold_seen = rater.gold_right = 0
        _set(session, rater, "active", None)
    return rater


def remove(session: Session, rater: Rater) -> Rater:
    """Take a rater out of the project; what they said stays."""
    return _set(session, _locked(session, rater), "removed", None)


def _locked(session: Session, rater: Rater) -> Rater:
    query = select(Rater).where(Rater.id == rater.id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def _set(session: Session, rater: Rater, status: str, reason: str | None) -> Rater:
    rater.status, rater.reason = status, reason
    if status != "active":
        held = select(Slot.item_id, Slot.k).where(Slot.rater_id == rater.id, Slot.done_at.is_(None), Slot.rank != OWN)
        # The lease ends, and not who had it: a vote under way still fills the slot while nobody else has it.
        for item_id, k in session.execute(held.with_for_update(skip_locked=True)).all():
            over = update(Slot).where(Slot.item_id == item_id, Slot.k == k, or_(Slot.lease_until.is_(None), Slot.lease_until > now()))
            session.execute(over.values(lease_until=0.0).execution_options(synchronize_session="fetch"))
    session.flush()
    count(session, session.get_one(Project, rater.project_id))
    return rater


def gate(session: Session, project: Project, rater: Rater) -> bool:
    """Pause a rater who has seen enough gold items and got too few of them right; nothing is deleted. True when that happened."""
    if rater.status != "active" or rater.kind != "person" or rater.gold_seen < project.gate_items:
        return False
    if rater.gold_right >= project.gate_accuracy * rater.gold_seen:
        return False
    _set(session, rater, "paused", f"Only {rater.gold_right} of {rater.gold_seen} answers to items with a known answer agreed with it.")
    return True
