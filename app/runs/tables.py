"""Runs and what they leave behind for people: events, logs, samples."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now
from app.leases import Leased


class Run(Leased, Base):
    """One fine-tuning run.

    Status: queued, preparing, running, pausing, paused, stopping, succeeded, failed or cancelled; no others.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("ix_runs_workspace_id_id", "workspace_id", "id"),
        Index("ix_runs_workspace_id_status", "workspace_id", "status"),
        Index("ix_runs_updated_at", "updated_at"),
        # Covers what the list can be filtered by, so that offering it reads no row.
        Index("ix_runs_filters", "workspace_id", "method", "tuner", "checkpoint_id", "dataset_id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("run"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    name: Mapped[str]
    method: Mapped[str]
    tuner: Mapped[str]
    checkpoint_id: Mapped[str] = mapped_column(ForeignKey("checkpoints.id", ondelete="RESTRICT"), index=True)
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id", ondelete="RESTRICT"), index=True)
    eval_dataset_id: Mapped[str | None] = mapped_column(ForeignKey("datasets.id", ondelete="RESTRICT"))
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    tuner_params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    seed: Mapped[int] = mapped_column(default=42)
    priority: Mapped[int] = mapped_column(default=0)
    parent_run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", ondelete="SET NULL"))
    tags: Mapped[list[str]] = mapped_column(default=list)
    notes: Mapped[str] = mapped_column(default="")
    phase: Mapped[str | None]
    """What a preparing run is doing, in words."""
    step: Mapped[int] = mapped_column(default=0)
    total_steps: Mapped[int | None]
    committed_step: Mapped[int | None]
    """Step of the newest committed checkpoint."""
    attempt_start_step: Mapped[int] = mapped_column(default=0)
    """Where the current attempt began or resumed."""
    latest: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Last value of each metric: name -> number, or "nan", "inf", "-inf"."""
    spark: Mapped[list[Any]] = mapped_column(default=list)
    """At most 64 points [step, loss] for the small curve in lists."""
    resolved: Mapped[dict[str, Any] | None]
    """Everything as it was really used: arguments, precision, device, versions, hashes."""
    adjustments: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What the studio changed after a failure, such as `{"batch_divisor": 2}` after running out of memory."""
    seq: Mapped[int] = mapped_column(default=0)
    """Counts the run's transactions; the cursor of live streams."""
    sealed_seq: Mapped[int] = mapped_column(default=0)
    """Points up to this sequence number may lie in chunks; an older cursor has to load the chart anew."""
    version: Mapped[int] = mapped_column(default=1)
    """Counts the edits of people; a PATCH names the one it saw."""
    child: Mapped[str | None]
    """`pid:start time` of the trainer, so that a successor on the host can end it."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    updated_at: Mapped[float] = mapped_column(default=now())


class RunEvent(Base):
    """One thing that happened to a run: claimed, resumed, checkpoint, paused, killed, finished…"""

    __tablename__ = "run_events"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float] = mapped_column(default=now())
    attempt: Mapped[int]
    kind: Mapped[str]
    message: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class RunLog(Base):
    """One line a trainer or its supervisor wrote."""

    __tablename__ = "run_logs"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[float]
    attempt: Mapped[int]
    level: Mapped[str]
    """debug, info, warning or error."""
    text: Mapped[str]


class RunSample(Base):
    """What a run answered to one of its fixed prompts at one step; step 0 is the model before training."""

    __tablename__ = "run_samples"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    text: Mapped[str]
    expected: Mapped[str | None]
    seq: Mapped[int]


class RunGrade(Base):
    """How often a run put the chosen answer of held-out pairs first, at one step, for the pairs of one grade."""

    __tablename__ = "run_grades"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    grade: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """3 much better, 2 better, 1 slightly better; 0 for pairs without a grade, as rankings give them."""
    pairs: Mapped[int]
    right: Mapped[int]
    margin: Mapped[float]
    """Mean of what the chosen answer lies above the rejected one."""
    seq: Mapped[int]
