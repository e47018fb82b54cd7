"""People and what lets them in: users, workspaces, members, sessions, links, invites, API tokens; idempotency keys; the audit log."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class User(Base):
    """A person, or the local user of a laptop."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("user"))
    name: Mapped[str]
    email: Mapped[str | None] = mapped_column(unique=True)
    role: Mapped[str]
    """`admin` runs the studio; engineer, viewer and rater are what the person became everywhere when it was set."""
    password_hash: Mapped[str | None]
    """Argon2; none for somebody who signs in by links only."""
    password_set_at: Mapped[float | None]
    created_at: Mapped[float] = mapped_column(default=now())
    disabled_at: Mapped[float | None]


class Workspace(Base):
    """Owner of datasets, checkpoints and runs."""

    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ws"))
    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float] = mapped_column(default=now())


class Member(Base):
    """A user's place in a workspace."""

    __tablename__ = "members"
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str]


class BrowserSession(Base):
    """A signed-in browser; its secret is stored as a SHA-256 only."""

    __tablename__ = "sessions"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ses"))
    secret_hash: Mapped[str] = mapped_column(unique=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[float] = mapped_column(default=now())
    seen_at: Mapped[float] = mapped_column(default=now())
    expires_at: Mapped[float]
    address: Mapped[str | None]
    agent: Mapped[str | None]
    workspace_id: Mapped[str | None]
    """The workspace last chosen in this browser; the first of the user's, when it is none of theirs (any more)."""
    via: Mapped[str | None]
    """How it was signed in: link, password or invite."""


class LoginLink(Base):
    """A link that signs a user in once, for a quarter of an hour."""

    __tablename__ = "login_links"
    secret_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    expires_at: Mapped[float]
    used_at: Mapped[float | None]


class Invite(Base):
    """A link that makes a new person a member of a workspace once, for three days; its secret is stored as a SHA-256 only."""

    __tablename__ = "invites"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("inv"))
    secret_hash: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    email: Mapped[str | None]
    role: Mapped[str]
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    invited_by: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[float] = mapped_column(default=now())
    expires_at: Mapped[float]
    used_at: Mapped[float | None]
    used_by: Mapped[str | None]
    revoked_at: Mapped[float | None]


class Token(Base):
    """An API token `lt_<id>_<secret>`; the secret is stored as a SHA-256 only."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(primary_key=True)
    secret_hash: Mapped[str]
    name: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
    scopes: Mapped[list[str] | None]
    """What it may be used for, within its role; everything, when none are named."""
    project_id: Mapped[str | None]
    """The one feedback project that a rater's token is bound to; it reaches nothing else."""
    created_at: Mapped[float] = mapped_column(default=now())
    used_at: Mapped[float | None]
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class IdempotencyKey(Base):
    """The answer a POST with an `Idempotency-Key` got, kept so that the same key answers the same."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("user_id", "route", "key"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("idem"))
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    route: Mapped[str]
    key: Mapped[str]
    request_hash: Mapped[str]
    status: Mapped[int]
    answer: Mapped[dict[str, Any]]
    created_at: Mapped[float] = mapped_column(default=now(), index=True)


class AuditEntry(Base):
    """Who did what, and when. Rows are only ever added; each holds the hash of the one before, so that a change to any is found."""

    __tablename__ = "audit"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[float]
    action: Mapped[str] = mapped_column(index=True)
    """Noun and verb, such as `runs.delete`."""
    subject: Mapped[str]
    """What it was done to: an id, or a name."""
    details: Mapped[dict[str, Any]]
    actor_id: Mapped[str | None] = mapped_column(index=True)
    """The user; no foreign key, since the log outlives what it tells of."""
    actor: Mapped[str]
    via: Mapped[str]
    """session, token, link, password, invite or command."""
    credential_id: Mapped[str | None]
    workspace_id: Mapped[str | None] = mapped_column(index=True)
    address: Mapped[str | None]
    hash: Mapped[str]
