"""Chats: conversations with checkpoints, their turns, and the answers that workers give."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.database import Base, new_id, now
from app.leases import Leased


class Chat(Base):
    """One conversation with one to three checkpoints, side by side."""

    __tablename__ = "chats"
    __table_args__ = (Index("ix_chats_workspace_id_id", "workspace_id", "id"),)
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("chat"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    title: Mapped[str]
    source: Mapped[str] = mapped_column(default="playground")
    """playground or api."""
    checkpoints: Mapped[list[str]] = mapped_column(default=list)
    """Ids of those asked last, in the order of the columns."""
    system: Mapped[str] = mapped_column(default="")
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict)
    opening: Mapped[list[Any]] = mapped_column(default=list)
    """Messages that came before the first turn, as a program sent them; without the system prompt."""
    seq: Mapped[int] = mapped_column(default=0)
    """Counts the chat's transactions; the cursor of live streams."""
    created_by: Mapped[str | None]
    created_at: Mapped[float] = mapped_column(default=now())
    updated_at: Mapped[float] = mapped_column(default=now())


class Turn(Base):
    """One message of a person."""

    __tablename__ = "chat_turns"
    chat_id: Mapped[str] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    prompt: Mapped[str]
    created_at: Mapped[float] = mapped_column(default=now())


class Answer(Leased, Base):
    """What one checkpoint answers in one turn; a worker takes it, as it takes a run.

    Status: queued, loading, answering, stopping, done, stopped or failed; no others.
    """

    __tablename__ = "chat_answers"
    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: new_id("ans"))
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    chat_id: Mapped[str] = mapped_column(ForeignKey("chats.id", ondelete="CASCADE"), index=True)
    turn: Mapped[int]
    place: Mapped[int]
    """Column, from 0."""
    checkpoint_id: Mapped[str | None] = mapped_column(ForeignKey("checkpoints.id", ondelete="SET NULL"))
    checkpoint_name: Mapped[str]
    messages: Mapped[list[Any]] = mapped_column(default=list)
    """All the model reads, system prompt first."""
    sampling: Mapped[dict[str, Any]] = mapped_column(default=dict)
    priority: Mapped[int] = mapped_column(default=0)
    text: Mapped[str] = mapped_column(default="")
    """Whole once the answer has ended; before that it lies in pieces."""
    tokens: Mapped[int] = mapped_column(default=0)
    prompt_tokens: Mapped[int | None]
    seconds: Mapped[float | None]
    """Time from the first to the last token, without the loading."""
    finish: Mapped[str | None]
    """stop (the model ended it), length (its limit) or stopped (a person)."""
    progress: Mapped[dict[str, Any] | None]
    """`{done, total, text}` while the model loads."""
    seq: Mapped[int] = mapped_column(default=0)
    """Sequence number of the chat at its last change."""
    created_by: Mapped[str | None] = mapped_column(index=True)
    created_at: Mapped[float] = mapped_column(default=now())
    finished_at: Mapped[float | None]


class Piece(Base):
    """A piece of an answer that is being given; removed when the answer is whole."""

    __tablename__ = "chat_pieces"
    answer_id: Mapped[str] = mapped_column(ForeignKey("chat_answers.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    tokens: Mapped[int]
    """How many tokens the answer has with it."""
