"""Exports: checkpoints packed into one file to take away."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class Export(Base):
    """One packed checkpoint. It stays when its checkpoint is deleted."""

    __tablename__ = "exports"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("exp"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="SET NULL"), index=True)
    checkpoint_name: Mapped[str]
    """Name of the checkpoint when it was packed."""
    format: Mapped[str]
    """adapter or merged."""
    dtype: Mapped[str] = mapped_column(default="stored")
    """Of merged weights: stored (that of the base), float32, bfloat16 or float16."""
    status: Mapped[str] = mapped_column(default="exporting")
    """exporting, ready or failed."""
    reason: Mapped[str | None]
    """Why it failed, with what to do."""
    progress: Mapped[dict[str, Any] | None]
    """`{done, total, text}` while exporting; steps."""
    log: Mapped[list[Any]] = mapped_column(default=list)
    """`[moment, text]` of each step."""
    file_name: Mapped[str]
    path: Mapped[str | None]
    """The file below the storage root, once it is ready."""
    size_before: Mapped[int | None]
    """Size of the files it is made from, in bytes."""
    size_bytes: Mapped[int | None]
    sha256: Mapped[str | None]
    """Of the file."""
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What the commands that use it need to know: folder, base, whether the base is on the hub, rank …"""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
    finished_at: Mapped[float | None]
