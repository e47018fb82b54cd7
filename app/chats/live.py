"""The live topic of a chat (`chat:ID`): tokens as they come, and how its answers stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.chats import service
from app.chats.schemas import ACTIVE, answer_out
from app.chats.tables import Answer, Chat, Piece
from app.database import now
from app.events import Frame


class ChatTopic:
    """Frames of one chat in the order of its transactions: `answer` (how one stands), `token` (more of its text), `done`."""

    fragment_seconds = 0.1
    """How often a page gets the text anew at most; a person should see it flow."""

    def __init__(self, render: Callable[[Session, str, bool], str] | None = None) -> None:
        self._render = render
        self._told: set[str] = set()

    def admit(self, session: Session, workspace_id: str, key: str) -> None:
        """See that the chat is one of the workspace.

        Raises:
            NotFound: it is not.
        """
        service.get(session, workspace_id, key)

    def now(self, session: Session, key: str) -> int:
        """The chat's newest sequence number."""
        return int(session.scalar(select(Chat.seq).where(Chat.id == key)) or 0)

    def changed(self, session: Session, cursors: dict[str, int]) -> list[str]:
        """Chats with transactions past their cursor, and those whose worker has fallen silent since."""
        rows = session.execute(select(Chat.id, Chat.seq).where(Chat.id.in_(list(cursors))))
        found = [row.id for row in rows if row.seq > cursors[row.id]]
        silent = select(Answer.id, Answer.chat_id).where(Answer.chat_id.in_(list(cursors)), Answer.lease_until < now())
        for answer_id, chat_id in session.execute(silent):
            if answer_id not in self._told:
                self._told.add(answer_id)
                found.append(chat_id)
        return list(dict.fromkeys(found))

    def frames(self, session: Session, key: str, after: int) -> tuple[list[Frame], int]:
        """What came after a sequence number. Text of answers that have ended since comes whole, in their `answer` frame."""
        chat = session.get(Chat, key)
        if chat is None:
            return [], after
        if after > chat.seq:  # the cursor of another life of this database
            after = 0
        topic = f"chat:{key}"
        parts: list[tuple[int, int, str, dict[str, Any]]] = []
        found = service.answers(session, chat, after)
        places = service.queue_places(session) if any(answer.status == "queued" for answer in found) else {}
        for answer in found:
            going = answer.status in ACTIVE
            pieces = session.scalars(select(Piece).where(Piece.answer_id == answer.id).order_by(Piece.seq)).all() if going else []
            if answer.status != "answering" or not pieces or pieces[0].seq > after:  # text that goes on needs no other word
                shown = answer_out(answer, None if going else answer.text, places.get(answer.id))
                parts.append((answer.seq, 0, "answer", {"topic": topic, "answer": shown}))
            for piece in pieces:
                if piece.seq > after:
                    data = {"topic": topic, "answer": answer.id, "place": answer.place, "text": piece.text, "tokens": piece.tokens}
                    parts.append((piece.seq, 1, "token", data))
        if chat.seq > after and not service.is_active(session, chat):
            parts.append((chat.seq, 2, "done", {"topic": topic}))
        parts = sorted((part for part in parts if part[0] <= chat.seq), key=lambda part: part[:2])
        frames, whole = [], after
        for place, (seq, _, kind, data) in enumerate(parts):
            # Only the last frame of a transaction moves the cursor: a cut before it repeats frames that may be repeated.
            if place + 1 == len(parts) or parts[place + 1][0] != seq:
                whole = seq
            frames.append(Frame.of(whole, kind, data))
        return frames, chat.seq

    def fragment(self, session: Session, key: str, after: int | None = None) -> str:
        """HTML of the turn that is going on; of the whole conversation for a page that missed something."""
        return self._render(session, key, after is not None) if self._render else ""
