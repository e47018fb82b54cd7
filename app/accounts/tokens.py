"""API tokens: making, finding whom one stands for, listing, revoking. Knows nothing of HTTP."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts import scopes as scope_rules
from app.accounts.people import MAY_GIVE, ROLES, check_role
from app.accounts.schemas import Principal
from app.accounts.sessions import TOUCH_SECONDS, digest, principal, with_owner
from app.accounts.tables import Member, Token
from app.database import iso, new_id, now
from app.errors import Forbidden, Invalid, NotFound


def token_principal(session: Session, plain: str) -> Principal | None:
    """Whom an API token stands for; None when it is unknown, revoked or too old."""
    parts = plain.split("_")
    if len(parts) != 3 or parts[0] != "lt":
        return None
    row = session.execute(
        with_owner(Token, or_(Token.used_at.is_(None), Token.used_at < now() - TOUCH_SECONDS)).where(
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
    if row[0].project_id is not None and "rater" not in MAY_GIVE.get(owner_role, ()):
        return None
    return principal(row, "token", row[0].role if row[0].role in MAY_GIVE.get(owner_role, ()) else owner_role, row[0].scopes)


def create_token(
    session: Session,
    *,
    name: str,
    role: str,
    user_id: str,
    workspace_id: str,
    expires_at: float | None = None,
    scopes: Iterable[str] | None = None,
    project_id: str | None = None,
    by: Principal | None = None,
) -> tuple[Token, str]:
    """Make an API token; the second value is shown once and cannot be found out again.

    Args:
        expires_at: when it runs out; by default never, or with the token that makes it, which it cannot outlive.
        scopes: what it may be used for; everything its role may do, when none are named.
        project_id: the one feedback project of the workspace that it may rate in; the role is rater then.
        by: who makes it, when that is not the command line.

    Raises:
        Invalid: the name is empty, there is no such role or scope, it already ran out, would outlive the token that makes it, or is for one
            project and not a rater's.
        Forbidden: the role may do more than the user.
        NotFound: the user does not belong to the workspace.
    """
    name = name.strip()
    if not name or len(name) > 100:
        raise Invalid("A token needs a name of at most 100 characters that says what it is for.", field="name")
    check_role(role)
    if project_id is not None and role != "rater":
        raise Invalid(f"A token for one project is a rater's: the role cannot be {role}. Leave it out.", field="role")
    owner = session.get(Member, (workspace_id, user_id))
    if owner is None:
        raise NotFound("There is no such user in the workspace.")
    if role not in MAY_GIVE.get(owner.role, ()):
        raise Forbidden(f"A token may do no more than its owner: the role is {owner.role}, so it cannot be {role}.")
    allowed = scope_rules.checked(scopes, by)
    if expires_at is not None and not expires_at > float(session.scalar(select(now())) or 0.0):
        raise Invalid("The token would have run out already. Give a moment in the future, or none.", field="expires_at")
    maker = session.get(Token, by.credential_id) if by is not None and by.via == "token" else None
    if maker is not None and maker.expires_at is not None:
        if expires_at is not None and expires_at >= maker.expires_at + 1:  # the end is shown in whole milliseconds
            raise Invalid(
                f"The token you make this with runs out at {iso(maker.expires_at)}, and what it makes cannot last longer. Give an earlier "
                "moment, or none.",
                field="expires_at",
            )
        expires_at = min(expires_at or maker.expires_at, maker.expires_at)
    secret = secrets.token_hex(24)
    token = Token(
        id=new_id("")[1:],
        secret_hash=digest(secret),
        name=name,
        role=role,
        scopes=allowed,
        project_id=project_id,
        user_id=user_id,
        workspace_id=workspace_id,
        expires_at=expires_at,
    )
    session.add(token)
    session.flush()
    session.refresh(token)
    shown = scope_rules.listed(allowed) if allowed else None
    bound = {} if project_id is None else {"project": project_id}
    audit.record(
        session, by, "tokens.create", name, workspace_id=workspace_id, token=token.id, role=role, scopes=shown, user=user_id, **bound
    )
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


def revoke_token(
    session: Session, workspace_id: str | None, token_id: str, *, user_id: str | None = None, by: Principal | None = None
) -> None:
    """End a token of the workspace (of any, when None); only one of the user's own, when named.

    Raises:
        NotFound: there is no such token that still works.
    """
    query = update(Token).where(Token.id == token_id, Token.revoked_at.is_(None))
    if workspace_id is not None:
        query = query.where(Token.workspace_id == workspace_id)
    if user_id is not None:
        query = query.where(Token.user_id == user_id)
    row = session.execute(query.values(revoked_at=now()).returning(Token.name).execution_options(synchronize_session=False)).first()
    if row is None:
        raise NotFound("There is no such token; it may have been revoked already.")
    audit.record(session, by, "tokens.revoke", row[0], workspace_id=workspace_id, token=token_id)


def revoke_bound(session: Session, project_id: str, *, by: Principal | None = None) -> None:
    """End all tokens that are bound to a feedback project, which is being deleted."""
    query = update(Token).where(Token.project_id == project_id, Token.revoked_at.is_(None)).values(revoked_at=now())
    for token_id, name, workspace_id in session.execute(
        query.returning(Token.id, Token.name, Token.workspace_id).execution_options(synchronize_session=False)
    ).all():
        audit.record(session, by, "tokens.revoke", name, workspace_id=workspace_id, token=token_id)
