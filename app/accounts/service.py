"""Who may come in: users, sign-in links, browser sessions, API tokens. Knows nothing of HTTP."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.accounts.tables import BrowserSession, IdempotencyKey, LoginLink, Member, Token, User, Workspace
from app.database import new_id, now
from app.errors import Forbidden, Invalid, NotFound, Unauthorized
from app.settings import Settings

LINK_SECONDS = 15 * 60
IDLE_SECONDS = 12 * 3600
SESSION_SECONDS = 7 * 24 * 3600
KEY_SECONDS = 7 * 24 * 3600
TOUCH_SECONDS = 60
"""The time of last use is written at most this often, so that reading does not become writing."""

MAY_GIVE: dict[str, tuple[str, ...]] = {
    "admin": ("admin", "engineer", "viewer", "rater"),
    "engineer": ("engineer", "viewer", "rater"),
    "viewer": ("viewer",),
    "rater": ("rater",),
}
"""Role -> the roles whose holders may do nothing that it may not."""

ROLES = MAY_GIVE["admin"]
ANOTHER_LINK = "Run `luthier user link` on the machine where Luthier runs: it prints a new link, good for 15 minutes and one sign-in."


def digest(secret: str) -> str:
    """What is stored of a secret. Secrets are random and long, so a plain SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


def ensure_first(session: Session) -> User:
    """Make the workspace “Default” and its user “admin” on the first start; no password exists, sign-in is by link."""
    try:
        with session.begin_nested():  # another process may make them at the same moment: the name is unique
            if session.scalar(select(Workspace.id).limit(1)) is None:
                workspace = Workspace(name="Default")
                session.add(workspace)
                session.flush()
                add_user(session, "admin", "admin", workspace_id=workspace.id)
    except IntegrityError:
        pass
    return first_admin(session)


def first_admin(session: Session) -> User:
    """The admin who was there first.

    Raises:
        NotFound: no admin is left.
    """
    user = session.scalars(select(User).where(User.role == "admin", User.disabled_at.is_(None)).order_by(User.id).limit(1)).first()
    if user is None:
        raise NotFound("There is no admin. Run `luthier user add NAME --role admin` to make one.")
    return user


def first_workspace(session: Session) -> Workspace:
    """The workspace that was there first.

    Raises:
        NotFound: there is none yet.
    """
    workspace = session.scalars(select(Workspace).order_by(Workspace.id).limit(1)).first()
    if workspace is None:
        raise NotFound("There is no workspace yet. Start the studio once, or run `luthier migrate`.")
    return workspace


def add_user(session: Session, name: str, role: str, *, workspace_id: str | None = None, email: str | None = None) -> User:
    """Add a person to a workspace (the first one, unless named).

    Raises:
        Invalid: the name is empty or there is no such role.
    """
    name = name.strip()
    if not name or len(name) > 100:
        raise Invalid("A user needs a name of at most 100 characters.", field="name")
    _check_role(role)
    user = User(name=name, role=role, email=email)
    session.add(user)
    session.flush()
    session.add(Member(workspace_id=workspace_id or first_workspace(session).id, user_id=user.id, role=role))
    session.flush()
    return user


def list_users(session: Session, *, workspace_id: str | None = None, limit: int = 1000, after: str | None = None) -> list[User]:
    """Everybody, or the members of a workspace, oldest first."""
    query = select(User)
    if workspace_id is not None:
        query = query.join(Member, Member.user_id == User.id).where(Member.workspace_id == workspace_id)
    if after is not None:
        query = query.where(User.id > after)
    return list(session.scalars(query.order_by(User.id).limit(limit)))


def find_user(session: Session, name_or_id: str) -> User:
    """A user by id, or by name when only one bears it.

    Raises:
        NotFound: nobody, or more than one, is meant.
    """
    found = list(
        session.scalars(select(User).where(or_(User.id == name_or_id, User.name == name_or_id), User.disabled_at.is_(None)).limit(2))
    )
    if len(found) != 1:
        raise NotFound(f"There is no user “{name_or_id}”." if not found else f"Several users are called “{name_or_id}”; give the id.")
    return found[0]


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
    session.execute(delete(BrowserSession).where(or_(BrowserSession.expires_at < now(), BrowserSession.seen_at < now() - IDLE_SECONDS)))
    cookie = secrets.token_urlsafe(32)
    browser = BrowserSession(
        secret_hash=digest(cookie),
        user_id=user.id,
        expires_at=now() + SESSION_SECONDS,
        address=address,
        agent=agent[:200] if agent else None,
    )
    session.add(browser)
    session.flush()
    return browser, cookie


def link_owner(session: Session, secret: str) -> User | None:
    """Whom an unused link would sign in; the link stays unused."""
    return session.scalars(
        select(User)
        .join(LoginLink, LoginLink.user_id == User.id)
        .where(LoginLink.secret_hash == digest(secret), LoginLink.used_at.is_(None), LoginLink.expires_at > now())
    ).first()


def session_principal(session: Session, cookie: str) -> Principal | None:
    """Whom a browser's cookie stands for; None when its session ended."""
    row = session.execute(
        _with_owner(BrowserSession, BrowserSession.seen_at < now() - TOUCH_SECONDS)
        .where(
            BrowserSession.secret_hash == digest(cookie), BrowserSession.expires_at > now(), BrowserSession.seen_at > now() - IDLE_SECONDS
        )
        .order_by(Member.workspace_id)
        .limit(1)
    ).first()
    return None if row is None else _principal(row, "session", row[1].role)


def token_principal(session: Session, plain: str) -> Principal | None:
    """Whom an API token stands for; None when it is unknown, revoked or too old."""
    parts = plain.split("_")
    if len(parts) != 3 or parts[0] != "lt":
        return None
    row = session.execute(
        _with_owner(Token, or_(Token.used_at.is_(None), Token.used_at < now() - TOUCH_SECONDS)).where(
            Token.id == parts[1],
            Member.workspace_id == Token.workspace_id,
            Token.revoked_at.is_(None),
            or_(Token.expires_at.is_(None), Token.expires_at > now()),
        )
    ).first()
    if row is None or not hmac.compare_digest(row[0].secret_hash, digest(parts[2])):
        return None
    # A token never does more than its owner may today.
    owner_role = row[1].role
    return _principal(row, "token", row[0].role if row[0].role in MAY_GIVE.get(owner_role, ()) else owner_role)


def _with_owner(credential: Any, stale: ColumnElement[bool]) -> Any:
    return (
        select(credential, Member, User, stale.label("stale"))
        .join(User, User.id == credential.user_id)
        .join(Member, Member.user_id == User.id)
        .where(User.disabled_at.is_(None))
    )


def _principal(row: Any, via: Literal["session", "token"], role: str) -> Principal:
    return Principal(
        user_id=row[2].id,
        user_name=row[2].name,
        workspace_id=row[1].workspace_id,
        role=role,
        via=via,
        credential_id=row[0].id,
        stale=bool(row.stale),
    )


def touch(session: Session, who: Principal) -> None:
    """Note that a session or token is in use."""
    if who.via == "session":
        session.execute(update(BrowserSession).where(BrowserSession.id == who.credential_id).values(seen_at=now()))
    else:
        session.execute(update(Token).where(Token.id == who.credential_id).values(used_at=now()))


def sign_out(session: Session, cookie: str) -> None:
    """End the session of a cookie."""
    session.execute(delete(BrowserSession).where(BrowserSession.secret_hash == digest(cookie)))


def list_sessions(session: Session, user_id: str) -> list[BrowserSession]:
    """Browsers signed in as the user, the one used last first."""
    return list(
        session.scalars(
            select(BrowserSession)
            .where(BrowserSession.user_id == user_id, BrowserSession.expires_at > now(), BrowserSession.seen_at > now() - IDLE_SECONDS)
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


def create_token(
    session: Session, *, name: str, role: str, user_id: str, workspace_id: str, expires_at: float | None = None
) -> tuple[Token, str]:
    """Make an API token; the second value is shown once and cannot be found out again.

    Raises:
        Invalid: the name is empty, there is no such role, or it already ran out.
        Forbidden: the role may do more than the user.
        NotFound: the user does not belong to the workspace.
    """
    name = name.strip()
    if not name or len(name) > 100:
        raise Invalid("A token needs a name of at most 100 characters that says what it is for.", field="name")
    _check_role(role)
    owner = session.get(Member, (workspace_id, user_id))
    if owner is None:
        raise NotFound("There is no such user in the workspace.")
    if role not in MAY_GIVE.get(owner.role, ()):
        raise Forbidden(f"A token may do no more than its owner: the role is {owner.role}, so it cannot be {role}.")
    if expires_at is not None and not expires_at > float(session.scalar(select(now())) or 0.0):
        raise Invalid("The token would have run out already. Give a moment in the future, or none.", field="expires_at")
    secret = secrets.token_hex(24)
    token = Token(
        id=new_id("")[1:],
        secret_hash=digest(secret),
        name=name,
        role=role,
        user_id=user_id,
        workspace_id=workspace_id,
        expires_at=expires_at,
    )
    session.add(token)
    session.flush()
    session.refresh(token)
    return token, f"lt_{token.id}_{secret}"


def refuse_beyond(who: Principal, role: str) -> None:
    """See that a caller (who may be a token weaker than its owner) makes nothing stronger than itself.

    Raises:
        Forbidden: the role may do more than the caller.
    """
    if role in ROLES and role not in MAY_GIVE.get(who.role, ()):
        raise Forbidden(f"You act as {who.role}, so you cannot make a token with the role {role}.")


def list_tokens(
    session: Session, workspace_id: str, *, user_id: str | None = None, limit: int = 1000, after: str | None = None
) -> list[Token]:
    """Tokens of the workspace that still work, newest first; only those of one user, when named."""
    query = select(Token).where(
        Token.workspace_id == workspace_id, Token.revoked_at.is_(None), or_(Token.expires_at.is_(None), Token.expires_at > now())
    )
    if user_id is not None:
        query = query.where(Token.user_id == user_id)
    if after is not None:
        query = query.where(Token.id < after)
    return list(session.scalars(query.order_by(Token.id.desc()).limit(limit)))


def revoke_token(session: Session, workspace_id: str, token_id: str, *, user_id: str | None = None) -> None:
    """End a token of the workspace; only one of the user's own, when named.

    Raises:
        NotFound: there is no such token that still works.
    """
    query = update(Token).where(Token.id == token_id, Token.workspace_id == workspace_id, Token.revoked_at.is_(None))
    if user_id is not None:
        query = query.where(Token.user_id == user_id)
    if session.execute(query.values(revoked_at=now()).returning(Token.id).execution_options(synchronize_session=False)).first() is None:
        raise NotFound("There is no such token; it may have been revoked already.")


def list_workspaces(session: Session, user_id: str) -> Sequence[Workspace]:
    """The workspaces a user belongs to."""
    return session.scalars(
        select(Workspace).join(Member, Member.workspace_id == Workspace.id).where(Member.user_id == user_id).order_by(Workspace.id)
    ).all()


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"There is no role “{role}”. The roles are {', '.join(ROLES)}.", field="role")


def reserve_key(session: Session, *, user_id: str, route: str, key: str, request_hash: str) -> tuple[IdempotencyKey, bool]:
    """Take an `Idempotency-Key` within the caller's transaction: its row, and whether it is new.

    A second request with the key waits for the first one's transaction; when that is undone, the key is free again.

    Raises:
        Invalid: the key was used with another request.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - KEY_SECONDS))
    mine = IdempotencyKey(user_id=user_id, route=route, key=key, request_hash=request_hash, status=0, answer={})
    try:
        with session.begin_nested():
            session.add(mine)
            session.flush()
        return mine, True
    except IntegrityError:
        same = (IdempotencyKey.user_id == user_id, IdempotencyKey.route == route, IdempotencyKey.key == key)
        known = session.scalars(select(IdempotencyKey).where(*same)).one()
        if known.request_hash != request_hash:
            raise Invalid(
                "This Idempotency-Key was used with another request. Take a new key for a new request.", code="idempotency_key_reused"
            ) from None
        return known, False
