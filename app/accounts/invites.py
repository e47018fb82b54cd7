"""Invites: a link that lets one person in once, within three days. Knows nothing of HTTP."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit, people
from app.accounts.schemas import Principal
from app.accounts.sessions import digest
from app.accounts.tables import Invite, Member, User, Workspace
from app.database import now
from app.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from app.settings import Settings

INVITE_SECONDS = 72 * 3600
OPEN_AT_MOST = 500
USED = "This invite has been used already, was taken back, or is older than three days. Ask who invited you for a new one."


@dataclass(frozen=True)
class Opened:
    """What an invite that still works says."""

    invite: Invite
    workspace: str
    by: str


def _still_open() -> tuple[ColumnElement[bool], ...]:
    return Invite.used_at.is_(None), Invite.revoked_at.is_(None), Invite.expires_at > now()


def _may_invite() -> tuple[ColumnElement[bool], ...]:
    """Whether `User`, who made `Invite`, may still invite so: who was taken out or lowered must not come back by an invite of their own."""
    runs_it = exists().where(Member.workspace_id == Invite.workspace_id, Member.user_id == Invite.invited_by, Member.role == "admin")
    return User.disabled_at.is_(None), or_(User.role == "admin", and_(runs_it, Invite.role != "admin"))


def invite(
    session: Session, who: Principal | None, settings: Settings, *, name: str, role: str, workspace_id: str, email: str | None = None
) -> tuple[Invite, str]:
    """Invite a person to a workspace; the second value is the address to send them, shown once.

    Raises:
        Invalid: the name, the address or the role cannot be used.
        Forbidden: only an admin of the studio makes others admin.
        NotFound: the caller does not run the workspace.
        Conflict: somebody has the name or the address, or too many invites are open.
    """
    name, email = people.clean_name(name, "An invite"), people.clean_email(email)
    people.check_role(role)
    if who is not None and not who.studio:
        if workspace_id != who.workspace_id or who.role != "admin":
            raise NotFound("There is no such workspace.")
        if role == "admin":
            raise Forbidden("Only an admin of the studio invites admins. Invite an engineer, who can be made admin of the workspace later.")
    if session.get(Workspace, workspace_id) is None:
        raise NotFound("There is no such workspace.")
    people.refuse_taken(session, name, email)
    if len(session.scalars(select(Invite.id).where(*_still_open()).limit(OPEN_AT_MOST)).all()) >= OPEN_AT_MOST:
        raise Conflict(f"{OPEN_AT_MOST} invites are open already. Take some back first.")
    secret = secrets.token_urlsafe(32)
    made = Invite(
        secret_hash=digest(secret),
        name=name,
        email=email,
        role=role,
        workspace_id=workspace_id,
        invited_by=who.user_id if who else people.first_admin(session).id,
        expires_at=now() + INVITE_SECONDS,
    )
    session.add(made)
    session.flush()
    session.refresh(made)
    audit.record(session, who, "invites.create", name, workspace_id=workspace_id, invite=made.id, role=role, email=email)
    return made, f"{settings.address}/join?token={secret}"


def list_invites(session: Session, *, workspace_id: str | None = None, limit: int = 500, after: str | None = None) -> list[Opened]:
    """Invites that still work, newest first: all of them, or those to one workspace."""
    query = select(Invite, Workspace.name, User.name).join(Workspace, Workspace.id == Invite.workspace_id)
    query = query.join(User, User.id == Invite.invited_by).where(*_still_open())
    if workspace_id is not None:
        query = query.where(Invite.workspace_id == workspace_id)
    if after is not None:
        query = query.where(Invite.id < after)
    return [Opened(made, workspace, by) for made, workspace, by in session.execute(query.order_by(Invite.id.desc()).limit(limit))]


def revoke(session: Session, who: Principal | None, invite_id: str) -> None:
    """Take an invite back.

    Raises:
        NotFound: there is none that still works (among those the caller may see).
    """
    query = (
        update(Invite).where(Invite.id == invite_id, *_still_open()).values(revoked_at=now()).returning(Invite.name, Invite.workspace_id)
    )
    if who is not None and not who.studio:
        query = query.where(Invite.workspace_id == who.workspace_id)
    row = session.execute(query.execution_options(synchronize_session=False)).first()
    if row is None:
        raise NotFound("There is no such invite; it may have been used or taken back already.")
    audit.record(session, who, "invites.revoke", row[0], workspace_id=row[1], invite=invite_id)


def opened(session: Session, secret: str) -> Opened:
    """What an invite says; it stays unused.

    Raises:
        Unauthorized: it does not work (any more).
    """
    row = session.execute(
        select(Invite, Workspace.name, User.name)
        .join(Workspace, Workspace.id == Invite.workspace_id)
        .join(User, User.id == Invite.invited_by)
        .where(Invite.secret_hash == digest(secret), *_may_invite(), *_still_open())
    ).first()
    if row is None:
        raise Unauthorized(USED, code="invite_used")
    return Opened(row[0], row[1], row[2])


def accept(session: Session, secret: str, *, name: str, password_hash: str | None) -> User:
    """Use an invite up: the person it makes. Of several who try at the same moment, one gets in.

    Raises:
        Unauthorized: the invite does not work (any more).
        Invalid: the name cannot be used.
        Conflict: somebody has the name already.
    """
    invite = _use(session, secret)
    user = people.add_user(session, name, invite.role, workspace_id=invite.workspace_id, email=invite.email)
    user.password_hash = password_hash
    user.password_set_at = session.scalar(select(now())) if password_hash else None
    return _accepted(session, invite, user)


def join(session: Session, secret: str, who: Principal) -> Invite:
    """Use an invite up as somebody who is here already: they become a member of its workspace.

    Raises:
        Unauthorized: the invite does not work (any more).
        Conflict: they belong to the workspace already.
    """
    invite = _use(session, secret)
    user = people.get_user(session, who.user_id)
    if session.get(Member, (invite.workspace_id, user.id)) is not None:
        raise Conflict("You belong to this workspace already; the invite stays open for somebody else.")
    if invite.role == "admin" and user.role != "admin":
        raise Conflict("This invite makes a new admin of the studio. Ask an admin to change your role instead.")
    session.add(Member(workspace_id=invite.workspace_id, user_id=user.id, role="admin" if user.role == "admin" else invite.role))
    _accepted(session, invite, user)
    return invite


def _use(session: Session, secret: str) -> Invite:
    invite_id = session.scalar(
        update(Invite)
        .where(Invite.secret_hash == digest(secret), *_still_open())
        .values(used_at=now())
        .returning(Invite.id)
        .execution_options(synchronize_session=False)
    )
    query = select(Invite).join(User, User.id == Invite.invited_by).where(Invite.id == invite_id, *_may_invite())
    invite = session.scalars(query).first() if invite_id else None
    if invite is None:
        raise Unauthorized(USED, code="invite_used")
    return invite


def _accepted(session: Session, invite: Invite, user: User) -> User:
    invite.used_by = user.id
    session.flush()
    audit.record(
        session,
        None,
        "invites.accept",
        user.name,
        actor=user.name,
        actor_id=user.id,
        via="invite",
        workspace_id=invite.workspace_id,
        invite=invite.id,
        role=invite.role,
    )
    return user


def check_form(name: str, password: str, again: str) -> None:
    """See that the two passwords of a form are the same.

    Raises:
        Invalid: they are not.
    """
    people.clean_name(name)
    if password != again:
        raise Invalid("The two passwords are not the same. Type both anew.", field="again")
