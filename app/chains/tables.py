"""Chains: runs that follow one another, and which of them have been started."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class Chain(Base):
    """Runs queued one after the other, each when the one before has succeeded.

    Status: running, paused, succeeded or cancelled. A failed run pauses its chain, since it can be resumed and the chain then goes on.
    """

    __tablename__ = "chains"
    __table_args__ = (Index("ix_chains_workspace_id_id", "workspace_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("chain"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    name: Mapped[str]
    status: Mapped[str] = mapped_column(default="running", index=True)
    """As of the last sweep; `service.standing` tells it as of now."""
    reason: Mapped[str | None]
    """Why it is paused, in words."""
    reason_code: Mapped[str | None]
    steps: Mapped[list[Any]] = mapped_column(default=list)
    """Each step as `POST /runs` takes a run; `$1` stands for the last checkpoint of the first step."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
    finished_at: Mapped[float | None]


class ChainStep(Base):
    """A step that has been started. Its key is why none is started twice."""

    __tablename__ = "chain_steps"
    chain_id: Mapped[str] = mapped_column(ForeignKey("chains.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1."""
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"), index=True)
    """Its run; None once that was deleted."""
