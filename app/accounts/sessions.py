"""Signed-in browsers and one-time sign-in links: opening, finding, turning over, ending. Knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Any, Literal

from sqlalchemy import ColumnElement, case, delete, or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.schemas import Principal
from app.accounts.tables import BrowserSession, LoginLink, Member, Token, User, Workspace
from app.database import now
from app.errors import Forbidden, NotFound, Unauthorized
from app.settings import Settings

LINK_SECONDS = 15 * 60
IDLE_SECONDS = 12 * 3600
SESSION_SECONDS = 7 * 24 * 3600
FRESH_SECONDS = 3600
"""For this long after a sign-in by link, a password may be set without the old one."""
TOUCH_SECONDS = 60
"""The time of last use is written at most this often, so that reading does not become writing."""

ANOTHER_LINK = "Run `luthier user link` on the machine where Luthier runs: it prints a new link, good for 15 minutes and one sign-in."


def digest(secret: str) -> str:
    """What is stored of a secret. Secrets are random and long, so a plain SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


# --- links ----------------------------------------------------------------------------------------------------------------


def create_login_link(session: Session, user_id: str) -> str:
    """A secret that signs the user in once within a quarter of an hour; only its hash is kept."""
    secret = secrets.token_urlsafe(32)
    session.execute(delete(LoginLink).where(LoginLink.expires_at < now() - SESSION_SECONDS))
    session.add(LoginLink(secret_hash=digest(secret), user_id=user_id, expires_at=now() + LINK_SECONDS))
    session.flush()
    return secret


def link_for(session: Session, settings: Settings, user_id: str) -> str:
    """The address to open for signing in as the user."""
    return f"{settings.address}/login?token={create_login_link(session, user_id)}"


def link_owner(session: Session, secret: str) -> User | None:
    """Whom an unused link would sign in; the link stays unused."""
    return session.scalars(
        select(User)
        .join(LoginLink, LoginLink.user_id == User.id)
        .where(LoginLink.secret_hash == digest(secret), LoginLink.used_at.is_(None), LoginLink.expires_at > now())
    ).first()


def sign_in(session: Session, secret: str, *, address: str | None, agent: str | None) -> tuple[BrowserSession, str]:
    """Use up a sign-in link: the new session and the secret for its cookie.

    Raises:
        Unauthorized: the link is unknown, used or too old; the message says how to get another.
    """
    user_id = session.scalar(
        update(LoginLink)
        .where(LoginLink.secret_hash == digest(secret), LoginLink.used_at.is_(None), LoginLink.expires_at > now())
        .values(used_at=now())
        .returning(LoginLink.user_id)
        .execution_options(synchronize_session=False)
    )
    user = session.get(User, user_id) if user_id else None
    if user is None or user.disabled_at is not None:
        raise Unauthorized(f"This sign-in link has been used already, or is older than 15 minutes. {ANOTHER_LINK}", code="link_used")
    return open_session(session, user, via="link", address=address, agent=agent)


# --- sessions -------------------------------------------------------------------------------------------------------------


def open_session(
    session: Session, user: User, *, via: Literal["link", "password", "invite"], address: str | None, agent: str | None
) -> tuple[BrowserSession, str]:
    """Sign a browser in: the session and the secret for its cookie. It opens in the workspace the user worked in last."""
    session.execute(delete(BrowserSession).where(or_(BrowserSession.expires_at < now(), BrowserSession.seen_at < now() - IDLE_SECONDS)))
    last = select(BrowserSession.workspace_id).where(BrowserSession.user_id == user.id, BrowserSession.workspace_id.is_not(None))
    cookie = secrets.token_urlsafe(32)
    browser = BrowserSession(
        secret_hash=digest(cookie),
        user_id=user.id,
        expires_at=now() + SESSION_SECONDS,
        address=address,
        agent=agent[:200] if agent else None,
        workspace_id=session.scalar(last.order_by(BrowserSession.seen_at.desc()).limit(1)),
        via=via,
    )
    session.add(browser)
    session.flush()
    audit.record(session, None, "sign_in.ok", user.name, actor=user.name, actor_id=user.id, via=via, browser=browser.id)
    return browser, cookie


def turn_over(session: Session, who: Principal) -> str:
    """Give the caller's session a new secret (for the cookie) and sign all the user's other browsers out."""
    cookie = secrets.token_urlsafe(32)
    session.execute(update(BrowserSession).where(BrowserSession.id == who.credential_id).values(secret_hash=digest(cookie)))
    end_other_sessions(session, who.user_id, but=who.credential_id)
    session.execute(delete(LoginLink).where(LoginLink.user_id == who.user_id))
    return cookie


def session_principal(session: Session, cookie: str) -> Principal | None:
    """Whom a browser's cookie stands for, in the workspace chosen there; None when its session ended."""
    row = session.execute(
        with_owner(BrowserSession, BrowserSession.seen_at < now() - TOUCH_SECONDS)
        .where(BrowserSession.secret_hash == digest(cookie), *_alive())
        .order_by(case((Member.workspace_id == BrowserSession.workspace_id, 0), else_=1), Member.workspace_id)
        .limit(1)
    ).first()
    return None if row is None else principal(row, "session", row[1].role, None)


def _alive() -> tuple[ColumnElement[bool], ...]:
    return BrowserSession.expires_at > now(), BrowserSession.seen_at > now() - IDLE_SECONDS


def with_owner(credential: Any, stale: ColumnElement[bool]) -> Any:
    """A query for sessions or tokens with the place of their user in a workspace; disabled users have none."""
    return (
        select(credential, Member, User, Workspace.name.label("workspace_name"), stale.label("stale"))
        .join(User, User.id == credential.user_id)
        .join(Member, Member.user_id == User.id)
        .join(Workspace, Workspace.id == Member.workspace_id)
        .where(User.disabled_at.is_(None))
    )


def principal(row: Any, via: Literal["session", "token"], role: str, scopes: Collection[str] | None) -> Principal:
    """Who a row of `with_owner` acts as."""
    return Principal(
        user_id=row[2].id,
        user_name=row[2].name,
        workspace_id=row[1].workspace_id,
        workspace_name=row.workspace_name,
        role=role,
        studio=role == row[2].role == "admin",
        scopes=None if scopes is None else frozenset(scopes),
        via=via,
        credential_id=row[0].id,
        credential_name=row[0].name if via == "token" else "",
        project_id=row[0].project_id if via == "token" else None,
        stale=bool(row.stale),
    )


def still_there(session: Session, who: Principal, roles: Collection[str]) -> bool:
    """Whether somebody who was let in would be let in now: session or token alive, user enabled, still a member with such a role."""
    member = select(Member.role).join(User, User.id == Member.user_id)
    member = member.where(Member.user_id == who.user_id, Member.workspace_id == who.workspace_id, User.disabled_at.is_(None))
    if who.via == "session":
        member = member.join(BrowserSession, BrowserSession.user_id == User.id).where(BrowserSession.id == who.credential_id, *_alive())
    else:
        member = member.join(Token, Token.user_id == User.id).where(Token.id == who.credential_id, Token.revoked_at.is_(None))
        member = member.where(or_(Token.expires_at.is_(None), Token.expires_at > now()))
    return session.scalar(member) in roles


def touch(session: Session, who: Principal) -> None:
    """Note that a session or token is in use."""
    if who.via == "session":
        session.execute(update(BrowserSession).where(BrowserSession.id == who.credential_id).values(seen_at=now()))
    else:
        session.execute(update(Token).where(Token.id == who.credential_id).values(used_at=now()))


def switch_workspace(session: Session, who: Principal, workspace_id: str) -> Workspace:
    """Work in another workspace of one's own from now on, in this browser.

    Raises:
        Forbidden: the caller is a token.
        NotFound: the user does not belong to the workspace.
    """
    if who.via != "session":
        raise Forbidden("A token is bound to its workspace. Make one in the other workspace.")
    found = session.scalars(
        select(Workspace)
        .join(Member, Member.workspace_id == Workspace.id)
        .where(Workspace.id == workspace_id, Member.user_id == who.user_id)
    ).first()
    if found is None:
        raise NotFound("There is no such workspace, or you do not belong to it.")
    session.execute(update(BrowserSession).where(BrowserSession.id == who.credential_id).values(workspace_id=workspace_id))
    audit.record(session, who, "workspaces.switch", found.name, workspace_id=workspace_id)
    return found


def get_session(session: Session, session_id: str) -> BrowserSession | None:
    """A signed-in browser by its id."""
    return session.get(BrowserSession, session_id)


def is_fresh(session: Session, session_id: str) -> bool:
    """Whether a browser was signed in by a link or an invite a short while ago."""
    by_link = (BrowserSession.via.in_(("link", "invite")), BrowserSession.created_at > now() - FRESH_SECONDS)
    return session.scalar(select(BrowserSession.id).where(BrowserSession.id == session_id, *by_link)) is not None


def sign_out(session: Session, cookie: str) -> None:
    """End the session of a cookie."""
    query = delete(BrowserSession).where(BrowserSession.secret_hash == digest(cookie)).returning(BrowserSession.user_id)
    user_id = session.scalar(query.execution_options(synchronize_session=False))
    if user_id and (user := session.get(User, user_id)):
        audit.record(session, None, "sign_out.ok", user.name, actor=user.name, actor_id=user.id, via="session")


def list_sessions(session: Session, user_id: str) -> list[BrowserSession]:
    """Browsers signed in as the user, the one used last first."""
    return list(
        session.scalars(
            select(BrowserSession)
            .where(BrowserSession.user_id == user_id, *_alive())
            .order_by(BrowserSession.seen_at.desc(), BrowserSession.id.desc())
        )
    )


def end_session(session: Session, user_id: str, session_id: str) -> None:
    """Sign one of the user's browsers out.

    Raises:
        NotFound: the user has no such session.
    """
    gone = session.execute(
        delete(BrowserSession).where(BrowserSession.id == session_id, BrowserSession.user_id == user_id).returning(BrowserSession.id)
    ).first()
    if gone is None:
        raise NotFound("There is no such session; it may have ended already.")


def end_other_sessions(session: Session, user_id: str, but: str) -> None:
    """Sign all of the user's browsers out but one."""
    session.execute(delete(BrowserSession).where(BrowserSession.user_id == user_id, BrowserSession.id != but))


def clock(session: Session) -> float:
    """What the database's clock says."""
    return float(session.scalar(select(now())) or 0.0)
