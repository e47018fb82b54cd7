"""Metrics of runs: live points as rows, long histories sealed into chunks."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base


class Metric(Base):
    """One point. A value that is no number is NULL here and named by `nonfinite` (SQLite would turn NaN into NULL)."""

    __tablename__ = "metrics"
    __table_args__ = (Index("ix_metrics_run_id_seq", "run_id", "seq"),)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    nonfinite: Mapped[str | None]
    """nan, inf or -inf."""
    attempt: Mapped[int]
    seq: Mapped[int]
    """The run's sequence number of the transaction that wrote it."""


class MetricChunk(Base):
    """Consecutive points of one metric in two arrays, little-endian: steps as int64, values as float64 (NaN and inf as they are)."""

    __tablename__ = "metric_chunks"
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    first_step: Mapped[int] = mapped_column(primary_key=True)
    last_step: Mapped[int]
    count: Mapped[int]
    last_seq: Mapped[int]
    steps: Mapped[bytes]
    values: Mapped[bytes]
    outline: Mapped[bytes | None]
    """Steps and then values of the few hundred points that keep the shape, enough to draw a long curve; None in chunks of old versions."""
