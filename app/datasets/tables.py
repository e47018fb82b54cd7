"""Datasets: one row per version, their problems, and the token lengths counted for a tokenizer."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class Dataset(Base):
    """One version of a dataset. Its rows lie in files; problems and counts lie here."""

    __tablename__ = "datasets"
    __table_args__ = (UniqueConstraint("workspace_id", "name", "version"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ds"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    version: Mapped[int]
    status: Mapped[str] = mapped_column(default="importing")
    """importing, ready or failed."""
    reason: Mapped[str | None]
    """Why it failed, with what to do."""
    shape: Mapped[str | None]
    """Row shape (`app.shapes`), once known."""
    columns: Mapped[list[str]] = mapped_column(default=list)
    """Columns of the source, in its order."""
    mapping: Mapped[dict[str, Any] | None]
    """target field -> source column, as asked for."""
    split: Mapped[dict[str, Any] | None]
    """`{eval: share, seed}` as asked for, or None."""
    rows: Mapped[int] = mapped_column(default=0)
    """Usable rows, train and eval."""
    train_rows: Mapped[int] = mapped_column(default=0)
    eval_rows: Mapped[int] = mapped_column(default=0)
    errors: Mapped[int] = mapped_column(default=0)
    """Lines with an error that have not been left out; runs are blocked while there are any."""
    warnings: Mapped[int] = mapped_column(default=0)
    left_out: Mapped[int] = mapped_column(default=0)
    """Lines of the source left out of this version on request."""
    source_name: Mapped[str]
    source_bytes: Mapped[int] = mapped_column(default=0)
    source_sha256: Mapped[str | None]
    sha256: Mapped[str | None]
    """Hash of the usable rows in order: what a run trained on."""
    path: Mapped[str]
    """Folder below the storage root: the source, `rows.jsonl` and its index."""
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="SET NULL"))
    """The version this one was made from."""
    lineage: Mapped[dict[str, Any] | None]
    """How it came about (upload, recipe with its parameters, left-out lines)."""
    progress: Mapped[dict[str, Any] | None]
    """`{done, total, text}` while importing; bytes."""
    checks: Mapped[dict[str, Any] | None]
    """What the import found out beside problems: doubles, leaks, lengths in characters, rows added and removed."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())


class Problem(Base):
    """Something wrong with one line of a dataset; at most the first thousand of each severity are kept."""

    __tablename__ = "dataset_problems"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    line: Mapped[int]
    severity: Mapped[str]
    """error or warning."""
    field: Mapped[str]
    message: Mapped[str]
    excerpt: Mapped[str]


class TokenCount(Base):
    """Token lengths of a dataset under one tokenizer, counted by a job."""

    __tablename__ = "token_counts"
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="CASCADE"), primary_key=True)
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id", ondelete="CASCADE"), primary_key=True)
    status: Mapped[str] = mapped_column(default="counting")
    """counting, ready or failed."""
    reason: Mapped[str | None]
    tokens: Mapped[int | None]
    trained_tokens: Mapped[int | None]
    path: Mapped[str | None]
    """`.npy` file of uint32 lengths, shape (rows, 2 or 3): prompt, then each full sequence; in row order, below the storage root."""
    shown_rows: Mapped[int | None]
    """The first so many rows are kept token by token."""
