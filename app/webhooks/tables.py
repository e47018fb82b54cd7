"""Webhooks of a workspace, and what is to be sent (to them, and by e-mail): one row a message, kept with how it went."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now


class Webhook(Base):
    """An address that is told when something ends."""

    __tablename__ = "webhooks"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("wh"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    url: Mapped[str]
    secret: Mapped[str]
    """`whsec_…`; needed as it is to sign, so it is kept as it is, shown once and never again."""
    events: Mapped[list[str]] = mapped_column(default=list)
    """Which events are sent; an empty list: all of them."""
    disabled_reason: Mapped[str | None]
    """Why nothing is sent any more, such as the address answering that it is gone."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())


class Delivery(Base):
    """One message to one address. Status: pending, delivered or failed. Its id is the message's, the same at every try."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_status_next_at", "status", "next_at"),
        Index("ix_deliveries_webhook_id_id", "webhook_id", "id"),
    )
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("msg"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"), index=True)
    webhook_id: Mapped[str | None] = mapped_column(ForeignKey("webhooks.id", ondelete="CASCADE"))
    email: Mapped[str | None]
    """Whom an e-mail goes to; None: it goes to the webhook."""
    subject: Mapped[str | None]
    """Of an e-mail."""
    event: Mapped[str]
    body: Mapped[str]
    """Exactly what is sent and signed."""
    status: Mapped[str] = mapped_column(default="pending")
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[float | None] = mapped_column(default=now())
    """When it is tried next; while a worker tries it, when another one may."""
    answered: Mapped[int | None]
    """HTTP status of the last answer."""
    error: Mapped[str | None]
    """Why the last try failed, in words."""
    created_at: Mapped[float] = mapped_column(default=now())
    tried_at: Mapped[float | None]
