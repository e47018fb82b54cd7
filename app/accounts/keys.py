"""Idempotency keys: a request that is sent twice is done once. Knows nothing of HTTP."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts.tables import IdempotencyKey
from app.database import now
from app.errors import Invalid

KEY_SECONDS = 7 * 24 * 3600


def reserve_key(session: Session, *, user_id: str, route: str, key: str, request_hash: str) -> tuple[IdempotencyKey, bool]:
    """Take an `Idempotency-Key` within the caller's transaction: its row, and whether it is new.

    A second request with the key waits for the first one's transaction; when that is undone, the key is free again.

    Raises:
        Invalid: the key was used with another request.
    """
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - KEY_SECONDS))
    mine = IdempotencyKey(user_id=user_id, route=route, key=key, request_hash=request_hash, status=0, answer={})
    try:
        with session.begin_nested():
            session.add(mine)
            session.flush()
        return mine, True
    except IntegrityError:
        same = (IdempotencyKey.user_id == user_id, IdempotencyKey.route == route, IdempotencyKey.key == key)
        known = session.scalars(select(IdempotencyKey).where(*same)).one()
        if known.request_hash != request_hash:
            raise Invalid(
                "This Idempotency-Key was used with another request. Take a new key for a new request.", code="idempotency_key_reused"
            ) from None
        return known, False
