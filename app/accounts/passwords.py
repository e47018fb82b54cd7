"""Passwords, for those who want one: argon2 hashes, checking at sign-in, setting. Counts no attempts and opens no session."""

from __future__ import annotations

import threading
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sqlalchemy import case, func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts.tables import User
from app.database import now
from app.errors import Invalid

if TYPE_CHECKING:
    from pwdlib import PasswordHash

SHORTEST, LONGEST = 12, 1000
_AT_ONCE = threading.BoundedSemaphore(2)
"""A hash takes 64 MiB and a tenth of a second: a flood of sign-ins must take no more of the machine than this many."""


@lru_cache
def _hasher() -> PasswordHash:
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    return PasswordHash((Argon2Hasher(),))


@lru_cache
def _nobodys() -> str:
    """A hash that is checked when there is no user, so that the answer takes as long."""
    with _AT_ONCE:
        return _hasher().hash("nobody's password")


@dataclass(frozen=True)
class Checked:
    """A user whose password was right, and their hash made anew where it was out of date."""

    user: User
    seen: str
    """The hash the password was checked against."""
    fresh: str | None


def check_new(password: str, *, name: str = "") -> str:
    """A new password as it is hashed.

    Raises:
        Invalid: it is too short, too long, or easy to guess.
    """
    password = unicodedata.normalize("NFKC", password)
    if len(password) < SHORTEST:
        raise Invalid(f"A password needs at least {SHORTEST} characters; a few words in a row make a good one.", field="password")
    if len(password) > LONGEST:
        raise Invalid(f"A password has at most {LONGEST:,} characters.", field="password")
    plain = password.casefold()
    if len(set(plain)) < 5 or (name and plain.replace(name.casefold(), "") in ("", *"0123456789", "123", "1234")):
        raise Invalid("This password is easy to guess. Take more different characters, such as a few words in a row.", field="password")
    return password


def hashed(password: str, *, name: str = "") -> str:
    """The hash to keep of a new password. Takes a while, so it is made before a transaction, not in it.

    Raises:
        Invalid: the password will not do.
    """
    plain = check_new(password, name=name)
    with _AT_ONCE:
        return _hasher().hash(plain)


def is_right(user: User, password: str) -> bool:
    """Whether it is the user's password."""
    return verified(user.password_hash, password)[0]


def verified(kept: str | None, password: str) -> tuple[bool, str | None]:
    """Whether a password is the one of a hash, and a new hash when the kept one was made by older rules."""
    plain = unicodedata.normalize("NFKC", password[: LONGEST + 1])
    against = kept or _nobodys()
    with _AT_ONCE:
        right, fresh = _hasher().verify_and_update(plain, against)
    return right and kept is not None, fresh if right and kept is not None else None


def check_sign_in(session: Session, name: str, password: str) -> Checked | None:
    """Whom a name (or e-mail address) and a password sign in; None when they do not, whatever the reason, in the same time."""
    given = unicodedata.normalize("NFC", name.replace("\x00", " ")).strip()
    named = or_(User.name == given, func.lower(User.name) == given.lower(), User.email == given.lower())
    first = case((User.email == given.lower(), 0), else_=1)  # an address is one person's: nobody takes it from them as a name
    found = list(session.scalars(select(User).where(named, User.disabled_at.is_(None)).order_by(first).limit(2)))
    user = found[0] if len(found) == 1 or (found and found[0].email == given.lower()) else None
    kept = user.password_hash if user else None
    session.expunge_all()
    session.rollback()  # nobody waits for this connection while the hash is reckoned
    right, fresh = verified(kept, password)
    return Checked(user, kept, fresh) if right and user is not None and kept is not None else None


def keep_rehashed(session: Session, checked: Checked) -> bool:
    """Store a hash that was made anew; False when the password was changed, or the user disabled, in the meantime."""
    same = (User.id == checked.user.id, User.password_hash == checked.seen, User.disabled_at.is_(None))
    if checked.fresh is None:
        return session.scalar(select(User.id).where(*same)) is not None
    changed = session.execute(update(User).where(*same).values(password_hash=checked.fresh).returning(User.id))
    return changed.first() is not None


def set_hash(session: Session, user_id: str, kept: str | None) -> None:
    """Set a user's password by its hash, or take it away."""
    session.execute(update(User).where(User.id == user_id).values(password_hash=kept, password_set_at=None if kept is None else now()))
