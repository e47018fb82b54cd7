"""Leases on rows: claim, renew, free, sweep. The row is the truth; a message only says "look at the table". Knows no noun."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.database import now


class LeaseLost(Exception):
    """Somebody else owns the row now (or nobody): stop, and write nothing more."""


class Leased:
    """Columns of a row that a worker takes, works on and gives back (runs and jobs)."""

    status: Mapped[str] = mapped_column(default="queued", index=True)
    reason: Mapped[str | None]
    reason_code: Mapped[str | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """How often the row was claimed; every write of a worker carries it (fencing)."""
    failures: Mapped[int] = mapped_column(default=0)
    """Attempts in a row that ended without anything newly committed."""
    lease_owner: Mapped[str | None]
    """`worker id/uuid` of the claim."""
    lease_until: Mapped[float | None] = mapped_column(index=True)
    heartbeat_at: Mapped[float | None]
    not_before: Mapped[float | None]
    """Back-off: not claimed before this moment."""
    dispatched_at: Mapped[float | None]
    """When the doorbell was last rung for the row."""


@dataclass(frozen=True)
class Claim:
    """A row that is ours: its id, the attempt that fences our writes, and the owner mark."""

    id: str
    attempt: int
    owner: str


def claim(
    session: Session, table: type[Any], *, worker_id: str, lease_seconds: float, taken: str, where: ColumnElement[bool] | None = None
) -> Claim | None:
    """Take the first waiting row of `table` (priority, then age), setting its status to `taken`; None when none waits."""
    owner = f"{worker_id}/{uuid.uuid4().hex}"
    first = (
        select(table.id)
        .where(table.status == "queued", or_(table.not_before.is_(None), table.not_before <= now()))
        .order_by(table.priority.desc(), table.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if where is not None:
        first = first.where(where)
    row = session.execute(
        update(table)
        .where(table.id == first.scalar_subquery(), table.status == "queued")
        .values(
            status=taken,
            attempt=table.attempt + 1,
            lease_owner=owner,
            lease_until=now() + lease_seconds,
            heartbeat_at=now(),
            not_before=None,
            reason=None,
            reason_code=None,
        )
        .returning(table.id, table.attempt)
        .execution_options(synchronize_session=False)
    ).first()
    return Claim(row.id, row.attempt, owner) if row else None


def renew(session: Session, table: type[Any], mine: Claim, *, lease_seconds: float) -> str:
    """Renew the lease and return the row's status, which says whether somebody asked to pause or stop.

    Raises:
        LeaseLost: the lease ran out or the row was claimed anew.
    """
    row = session.execute(
        update(table)
        .where(table.id == mine.id, table.attempt == mine.attempt, table.lease_owner == mine.owner, table.lease_until > now())
        .values(lease_until=now() + lease_seconds, heartbeat_at=now())
        .returning(table.status)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        raise LeaseLost(mine.id)
    return str(row.status)


def hold(session: Session, table: type[Any], mine: Claim) -> Any:
    """Lock and return the row for a write of its owner, in this transaction.

    Raises:
        LeaseLost: the row is no longer ours.
    """
    row = session.scalars(
        select(table).where(table.id == mine.id, table.attempt == mine.attempt, table.lease_owner == mine.owner).with_for_update()
    ).first()
    if row is None:
        raise LeaseLost(mine.id)
    return row


def free(row: Any) -> None:
    """Take the lease off a row that its owner gives back or has finished."""
    row.lease_owner = row.lease_until = row.heartbeat_at = None


def expired(session: Session, table: type[Any]) -> list[Any]:
    """Rows whose worker is gone (lease ran out), locked for the sweeper; rows another sweeper holds are left out."""
    rows = session.scalars(
        select(table)
        .where(table.lease_until.is_not(None), table.lease_until < now())
        .order_by(table.id)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    return list(rows)


def owned_by(session: Session, table: type[Any], worker_id: str) -> list[Any]:
    """Rows leased to one worker process, locked."""
    return list(
        session.scalars(
            select(table).where(table.lease_owner.startswith(worker_id + "/", autoescape=True)).with_for_update(skip_locked=True)
        )
    )


def back_off_seconds(failures: int) -> float:
    """Wait before the next attempt: none, 5 s, 10 s, 20 s … at most 6 minutes."""
    return 0.0 if failures <= 1 else min(360.0, 5.0 * 2.0 ** (failures - 2))


def waiting(session: Session, table: type[Any], where: ColumnElement[bool] | None = None) -> int:
    """How many rows wait and may be claimed now."""
    query = (
        select(func.count()).select_from(table).where(table.status == "queued", or_(table.not_before.is_(None), table.not_before <= now()))
    )
    if where is not None:
        query = query.where(where)
    return int(session.scalar(query) or 0)
