"""Jobs: work a worker does beside runs (imports, token counts, recipes), each a leased row."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now
from app.leases import Leased


class Job(Leased, Base):
    """One job. Status: queued, running, succeeded, failed or cancelled."""

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("job"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str]
    """Names the entry in `worker.jobs.KINDS`."""
    lane: Mapped[str] = mapped_column(default="cpu")
    """`cpu` or `device`."""
    subject_id: Mapped[str | None] = mapped_column(index=True)
    """The row the job works for, such as the dataset being imported."""
    payload: Mapped[dict[str, Any]] = mapped_column(default=dict)
    priority: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any] | None]
    """`{done, total, text}`, for people to read."""
    result: Mapped[dict[str, Any] | None]
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
    finished_at: Mapped[float | None]
