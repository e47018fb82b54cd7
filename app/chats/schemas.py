"""What may be asked of checkpoints in a chat, and how chats and answers are shown. Touches no database."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.chats.tables import Answer, Chat, Turn
from app.database import iso

ACTIVE = ("queued", "loading", "answering", "stopping")
"""Statuses of answers that are not over."""
HELD = ("loading", "answering", "stopping")
"""Statuses of answers that a worker holds."""
KINDS = ["base", "full", "adapter"]
"""Kinds of checkpoints that can answer."""
MAX_MESSAGE = 100_000
MAX_CHARACTERS = 200_000
MAX_MESSAGES = 200

Text = Annotated[str, Field(max_length=MAX_MESSAGE)]


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


class Sampling(BaseModel):
    """How the next token is chosen."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    temperature: float = Field(0.7, ge=0, le=2, allow_inf_nan=False)
    """0 always takes the likeliest token (greedy); more is more varied."""
    top_p: float = Field(0.95, gt=0, le=1, allow_inf_nan=False)
    """Only the likeliest tokens that together have this probability are drawn from."""
    max_new_tokens: int = Field(512, ge=1, le=8192)
    """Where an answer is cut off."""
    seed: int | None = Field(None, ge=0, lt=2**31)
    """The same seed, messages and settings give the same answer. None: a new one each time."""


class ChatCreate(BaseModel):
    """A question to one to three checkpoints."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoints: list[str] = Field(min_length=1, max_length=3)
    """Ids of the checkpoints that are to answer: base models, full fine-tunes or adapters."""
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    """The conversation so far; the last message is of the user."""
    sampling: Sampling = Field(default_factory=Sampling)
    stream: bool = True
    """True: tokens as server-sent events. False: one JSON answer when all is said."""

    @model_validator(mode="after")
    def _sensible(self) -> ChatCreate:
        if self.messages[-1].role != "user" or not self.messages[-1].content.strip():
            raise ValueError("The last message must be of the user and hold something to answer.")
        if any(message.role == "system" for message in self.messages[1:]):
            raise ValueError("A system message may only be the first.")
        if sum(len(message.content) for message in self.messages) > MAX_CHARACTERS:
            raise ValueError(f"The messages have more than {MAX_CHARACTERS:,} characters together. Leave out the oldest.")
        return self


class AnswerOut(BaseModel):
    """What one checkpoint answers."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    turn: int
    place: int
    """Column, from 0."""
    checkpoint: str | None
    """Null when the checkpoint was deleted since."""
    checkpoint_name: str
    status: Literal["queued", "loading", "answering", "stopping", "done", "stopped", "failed"]
    reason: str | None
    reason_code: str | None
    queue_place: int | None
    progress: dict[str, Any] | None
    """`{done, total, text}` while the model loads."""
    text: str | None
    """Null while the answer is being given: then the stream has it."""
    tokens: int
    prompt_tokens: int | None
    seconds: float | None
    finish: Literal["stop", "length", "stopped"] | None
    sampling: Sampling


class TurnOut(BaseModel):
    """A message of a person with its answers."""

    number: int
    prompt: str
    answers: list[AnswerOut]


class ChatOut(BaseModel):
    """A conversation."""

    id: str
    title: str
    source: Literal["playground", "api"]
    checkpoints: list[str]
    system: str
    sampling: Sampling
    status: Literal["active", "idle"]
    created_by: str | None
    created_at: str | None
    updated_at: str | None
    seq: int


class ChatDetail(ChatOut):
    """A conversation with all that was said."""

    opening: list[Message]
    turns: list[TurnOut]


def answer_out(answer: Answer, text: str | None, queue_place: int | None = None) -> dict[str, Any]:
    """The fields of `AnswerOut`."""
    return {
        "id": answer.id,
        "turn": answer.turn,
        "place": answer.place,
        "checkpoint": answer.checkpoint_id,
        "checkpoint_name": answer.checkpoint_name,
        "status": answer.status,
        "reason": answer.reason,
        "reason_code": answer.reason_code,
        "queue_place": queue_place,
        "progress": answer.progress,
        "text": text,
        "tokens": answer.tokens,
        "prompt_tokens": answer.prompt_tokens,
        "seconds": answer.seconds,
        "finish": answer.finish,
        "sampling": answer.sampling,
    }


def chat_out(chat: Chat, active: bool) -> dict[str, Any]:
    """The fields of `ChatOut`."""
    return {
        "id": chat.id,
        "title": chat.title,
        "source": chat.source,
        "checkpoints": chat.checkpoints,
        "system": chat.system,
        "sampling": chat.sampling,
        "status": "active" if active else "idle",
        "created_by": chat.created_by,
        "created_at": iso(chat.created_at),
        "updated_at": iso(chat.updated_at),
        "seq": chat.seq,
    }


def chat_detail(chat: Chat, turns: list[tuple[Turn, list[dict[str, Any]]]], active: bool) -> dict[str, Any]:
    """The fields of `ChatDetail`."""
    listed = [{"number": turn.number, "prompt": turn.prompt, "answers": answers} for turn, answers in turns]
    return {**chat_out(chat, active), "opening": chat.opening, "turns": listed}
