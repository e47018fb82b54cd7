"""People and what lets them in: users, workspaces, members, sessions, sign-in links, API tokens, idempotency keys."""

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
    """admin, engineer, rater or viewer."""
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


class LoginLink(Base):
    """A link that signs a user in once, for a quarter of an hour."""

    __tablename__ = "login_links"
    secret_hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    expires_at: Mapped[float]
    used_at: Mapped[float | None]


class Token(Base):
    """An API token `lt_<id>_<secret>`; the secret is stored as a SHA-256 only."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(primary_key=True)
    secret_hash: Mapped[str]
    name: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    role: Mapped[str]
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
