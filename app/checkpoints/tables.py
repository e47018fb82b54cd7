"""Checkpoints: weights that can be run or tuned, whether imported or trained here."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class Checkpoint(Base):
    """One set of weights on disk. Only rows with status `ready` are committed and verified."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("run_id", "step"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ckpt"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    kind: Mapped[str]
    """base, adapter, full, reward or classifier."""
    status: Mapped[str]
    """importing, ready, failed or quarantined."""
    reason: Mapped[str | None]
    progress: Mapped[dict[str, Any] | None]
    source: Mapped[str]
    """folder, hub, gguf or run."""
    ref: Mapped[str | None]
    revision: Mapped[str | None]
    base_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="RESTRICT"))
    """The weights an adapter sits on, or those a full fine-tune began from."""
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE", use_alter=True), index=True)
    step: Mapped[int | None]
    attempt: Mapped[int | None]
    path: Mapped[str | None]
    """Folder below the storage root."""
    size_bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    """Hash over the names and SHA-256 of its safetensors files."""
    parameters: Mapped[int | None]
    shapes: Mapped[dict[str, Any] | None]
    """Base models: tensor name -> shape, for plans that need no torch."""
    config: Mapped[dict[str, Any] | None]
    """The model's config.json (base models); `task` in it marks those that give a number (`app.checkpoints.heads`), adapters too."""
    metrics: Mapped[dict[str, Any] | None]
    """Last values at its step (of runs)."""
    notes: Mapped[str | None]
    """What people write about it."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
