"""Users: the first one, adding, finding, changing the role, disabling. Knows nothing of HTTP and of how people sign in."""

from __future__ import annotations

import re
import unicodedata
from email.message import EmailMessage

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts import audit
from app.accounts.schemas import Principal
from app.accounts.tables import BrowserSession, Invite, LoginLink, Member, User, Workspace
from app.database import now
from app.errors import Conflict, Invalid, NotFound

MAY_GIVE: dict[str, tuple[str, ...]] = {
    "admin": ("admin", "engineer", "viewer", "rater"),
    "engineer": ("engineer", "viewer", "rater"),
    "viewer": ("viewer",),
    "rater": ("rater",),
}
"""Role -> the roles whose holders may do nothing that it may not."""

ROLES = MAY_GIVE["admin"]
NAME = 100
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\u200e\u200f\ufeff]")
"""Characters that turn the direction of text around; a name with them can look like another."""


# --- names ----------------------------------------------------------------------------------------------------------------


def clean_name(name: str, what: str = "A user") -> str:
    """A name as it is kept.

    Raises:
        Invalid: it is empty, too long, or holds characters that cannot be seen.
    """
    name = unicodedata.normalize("NFC", name).strip()
    if not name or len(name) > NAME:
        raise Invalid(f"{what} needs a name of at most {NAME} characters.", field="name")
    if _HIDDEN.search(name) or any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise Invalid("The name holds a character that cannot be seen. Type it without line breaks and marks of direction.", field="name")
    return name


def clean_email(email: str | None) -> str | None:
    """An e-mail address as it is kept; None when it is left out.

    Raises:
        Invalid: it is none.
    """
    email = (email or "").strip().lower()
    if not email:
        return None
    if len(email) > 254 or not re.fullmatch(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+", email) or not _can_be_written_to(email):
        raise Invalid("This is no e-mail address. It has the form name@example.org; it may also be left out.", field="email")
    return email


def _can_be_written_to(email: str) -> bool:
    message = EmailMessage()
    try:
        message["To"] = email
        [address] = message["To"].addresses
        return bool(address.addr_spec == email)
    except Exception:  # boundary: what the parser trips over in an odd address is any of a dozen errors
        return False


def check_role(role: str) -> None:
    """See that there is such a role.

    Raises:
        Invalid: there is none.
    """
    if role not in ROLES:
        raise Invalid(f"There is no role “{role[:40]}”. The roles are {', '.join(ROLES)}.", field="role")


def refuse_taken(session: Session, name: str, email: str | None, *, but: str = "") -> None:
    """See that nobody else has the name or the address, or goes by one of them as the other: people sign in with either.

    Raises:
        Conflict: somebody has it.
    """

    def taken(word: str) -> bool:
        known = or_(User.id == word, User.name == word, func.lower(User.name) == word.lower(), User.email == word.lower())
        return session.scalar(select(User.id).where(known, User.id != but).limit(1)) is not None

    if taken(name):
        raise Conflict(f"Somebody is called “{name}” here already. Add a second name or an initial.", field="name", code="taken")
    if email and taken(email):
        raise Conflict(f"Somebody has the address {email} here already.", field="email", code="taken")


# --- finding and adding ---------------------------------------------------------------------------------------------------


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
        Conflict: somebody has the name or the address.
    """
    name, email = clean_name(name), clean_email(email)
    check_role(role)
    refuse_taken(session, name, email)
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


def find_user(session: Session, name_or_id: str, *, also_disabled: bool = False) -> User:
    """A user by id, name or e-mail address.

    Raises:
        NotFound: there is none, or several share the name.
    """
    given = name_or_id.strip()
    query = select(User).where(or_(User.id == given, User.name == given, User.email == given.lower())).limit(2)
    if not also_disabled:
        query = query.where(User.disabled_at.is_(None))
    found = list(session.scalars(query))
    if len(found) != 1:
        raise NotFound(f"There is no user “{given[:NAME]}”." if not found else f"Several users are called “{given[:NAME]}”; give the id.")
    return found[0]


def get_user(session: Session, user_id: str) -> User:
    """A user by id.

    Raises:
        NotFound: there is none.
    """
    user = session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such person here.")
    return user


# --- changing -------------------------------------------------------------------------------------------------------------


def set_role(session: Session, who: Principal | None, user_id: str, role: str) -> User:
    """Give a person a role in the studio, and with it in every workspace of theirs; their browsers are signed out.

    Raises:
        Invalid: there is no such role.
        NotFound: there is no such person.
        Conflict: the studio would be left without an admin.
    """
    check_role(role)
    user = get_user(session, user_id)
    before = user.role
    if before == "admin" and role != "admin":
        _keep_an_admin(session, user, "lowered")
    if role != "admin":
        revoke_invites_by(session, user_id)
    user.role = role
    session.execute(update(Member).where(Member.user_id == user_id).values(role=role))
    _sign_out(session, user_id, but=who.credential_id if who and who.user_id == user_id else "")
    session.flush()
    audit.record(session, who, "users.role", user.name, user=user_id, before=before, after=role)
    return user


def rename(session: Session, who: Principal, user_id: str, name: str, email: str | None) -> User:
    """Change what a person is called, and their e-mail address.

    Raises:
        Invalid: the name or the address cannot be used.
        Conflict: somebody else has it.
    """
    user = get_user(session, user_id)
    name, email, before = clean_name(name), clean_email(email), user.name
    refuse_taken(session, name, email, but=user_id)
    user.name, user.email = name, email
    session.flush()
    audit.record(session, who, "users.rename", user_id, before=before, after=name)
    return user


def disable(session: Session, who: Principal | None, user_id: str) -> User:
    """Shut a person out: browsers are signed out, links and tokens stop. What they made stays.

    Raises:
        NotFound: there is no such person.
        Conflict: it is the caller, or the studio would be left without an admin.
    """
    user = get_user(session, user_id)
    if who is not None and who.user_id == user_id:
        raise Conflict("You cannot disable yourself. Another admin can.")
    if user.disabled_at is None:
        _keep_an_admin(session, user, "disabled")
        user.disabled_at = session.scalar(select(now()))
        _sign_out(session, user_id)
        revoke_invites_by(session, user_id)
        session.flush()
        audit.record(session, who, "users.disable", user.name, user=user_id)
    return user


def enable(session: Session, who: Principal | None, user_id: str) -> User:
    """Let a person in again; their tokens work again, and they sign in anew.

    Raises:
        NotFound: there is no such person.
    """
    user = get_user(session, user_id)
    if user.disabled_at is not None:
        user.disabled_at = None
        session.flush()
        audit.record(session, who, "users.enable", user.name, user=user_id)
    return user


def _keep_an_admin(session: Session, user: User, verb: str) -> None:
    """The rows stay locked until the end, so that two admins cannot lower each other at the same moment."""
    admins = session.scalars(
        select(User.id).where(User.role == "admin", User.disabled_at.is_(None)).order_by(User.id).with_for_update()
    ).all()
    if list(admins) == [user.id]:
        raise Conflict(f"“{user.name}” is the last admin, and cannot be {verb}. Make somebody else admin first.")


def _sign_out(session: Session, user_id: str, but: str = "") -> None:
    session.execute(delete(BrowserSession).where(BrowserSession.user_id == user_id, BrowserSession.id != but))
    session.execute(delete(LoginLink).where(LoginLink.user_id == user_id))


def revoke_invites_by(session: Session, user_id: str, *, workspace_id: str | None = None) -> None:
    """Take back the open invites of somebody who may invite no more (to one workspace, when named)."""
    revoked = update(Invite).where(Invite.invited_by == user_id, Invite.used_at.is_(None), Invite.revoked_at.is_(None))
    if workspace_id is not None:
        revoked = revoked.where(Invite.workspace_id == workspace_id)
    session.execute(revoked.values(revoked_at=now()).execution_options(synchronize_session=False))
