"""Worker processes: who is there, on which host, with which devices."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, now


class Worker(Base):
    """One worker process. It counts as gone when its heartbeat is older than a lease."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str] = mapped_column(index=True)
    """Host name and process namespace: only workers with the same one may judge each other's process ids."""
    process: Mapped[str]
    """`pid:start time`, so that a reused pid is not mistaken for the old process."""
    lanes: Mapped[list[str]] = mapped_column(default=list)
    devices: Mapped[list[Any]] = mapped_column(default=list)
    """`[{name, kind, memory_bytes, bf16}]`, one per device slot."""
    memory: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """`{total, used}` of the host, in bytes."""
    state: Mapped[dict[str, Any] | None]
    """What it does besides runs and jobs: `{devices: [{used}], speaker: {device, models}}`; bytes, where they were measured."""
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    problem: Mapped[str | None]
    """Why this worker cannot train (such as torch missing), in words."""
    started_at: Mapped[float] = mapped_column(default=now())
    heartbeat_at: Mapped[float] = mapped_column(default=now())
