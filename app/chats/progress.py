"""What a worker writes about an answer it gives, each write fenced by the attempt; and what becomes of answers whose worker is gone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app import leases
from app.chats.tables import Answer, Chat, Piece
from app.database import notify, now
from app.leases import Claim

GONE = "The worker that was answering is gone. Press Retry to ask again."


def touch(session: Session, chat_id: str) -> int:
    """Count this transaction on the chat and wake its watchers; returns the sequence number that its writes carry."""
    seq = session.execute(
        update(Chat)
        .where(Chat.id == chat_id)
        .values(seq=Chat.seq + 1, updated_at=now())
        .returning(Chat.seq)
        .execution_options(synchronize_session="fetch")
    ).scalar()
    notify(session, f"chat:{chat_id}")
    return int(seq or 0)


def claim(session: Session, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the next question that waits, or None."""
    return leases.claim(session, Answer, worker_id=worker_id, lease_seconds=lease_seconds, taken="loading")


def loading(session: Session, mine: Claim, progress: dict[str, Any]) -> None:
    """Say which step of loading the model is going on.

    Raises:
        LeaseLost: the answer is no longer ours.
    """
    answer: Answer = leases.hold(session, Answer, mine)
    answer.progress = progress
    answer.seq = touch(session, answer.chat_id)


def add(session: Session, mine: Claim, text: str, tokens: int) -> None:
    """Add a piece of text; `tokens` counts all of the answer.

    Raises:
        LeaseLost: the answer is no longer ours; nothing is written.
    """
    answer: Answer = leases.hold(session, Answer, mine)
    if answer.status == "loading":
        answer.status = "answering"
    answer.progress, answer.tokens = None, tokens
    answer.seq = touch(session, answer.chat_id)
    session.add(Piece(answer_id=answer.id, seq=answer.seq, text=text.replace("\x00", ""), tokens=tokens))


def finish(session: Session, mine: Claim, said: dict[str, Any]) -> None:
    """The answer is whole: `{text, tokens, prompt_tokens, seconds, finish}`.

    Raises:
        LeaseLost: the answer is no longer ours; nothing is written.
    """
    answer: Answer = leases.hold(session, Answer, mine)
    answer.tokens, answer.prompt_tokens, answer.seconds = said["tokens"], said["prompt_tokens"], said["seconds"]
    stopped = said["finish"] == "stopped" or answer.status == "stopping"
    answer.finish = "stopped" if stopped else said["finish"]
    _end(session, answer, "stopped" if stopped else "done", said["text"].replace("\x00", ""))


def failed(session: Session, mine: Claim, code: str, reason: str) -> None:
    """The answer ends here, for a reason in words; what was said so far stays.

    Raises:
        LeaseLost: the answer is no longer ours.
    """
    answer: Answer = leases.hold(session, Answer, mine)
    give_up(session, answer, code, reason)


def give_up(session: Session, answer: Answer, code: str, reason: str | None) -> None:
    """End an answer that will not be whole. One that a person wanted stopped is stopped, whatever else happened."""
    if answer.status == "stopping":
        code, reason = "stopped", None
    if code == "stopped":
        answer.finish = "stopped"
    answer.reason, answer.reason_code = reason, code if reason else None
    _end(session, answer, "stopped" if code == "stopped" else "failed", answer.text or said_so_far(session, [answer.id]).get(answer.id, ""))


def _end(session: Session, answer: Answer, status: str, text: str) -> None:
    answer.status, answer.text, answer.progress, answer.finished_at = status, text, None, now()
    leases.free(answer)
    session.execute(delete(Piece).where(Piece.answer_id == answer.id))
    answer.seq = touch(session, answer.chat_id)
    session.flush()


def said_so_far(session: Session, answer_ids: list[str]) -> dict[str, str]:
    """Text in pieces of answers that are being given, by id."""
    found: dict[str, list[str]] = {}
    query = select(Piece.answer_id, Piece.text).where(Piece.answer_id.in_(answer_ids)).order_by(Piece.answer_id, Piece.seq)
    for answer_id, text in session.execute(query):
        found.setdefault(answer_id, []).append(text)
    return {answer_id: "".join(parts) for answer_id, parts in found.items()}


def is_lost(session: Session, answers: list[Answer]) -> set[str]:
    """Which of some answers have a worker that stopped giving signs of life; nobody may have swept them up yet."""
    held = [answer.id for answer in answers if answer.lease_until is not None]
    return set(session.scalars(select(Answer.id).where(Answer.id.in_(held), Answer.lease_until < now()))) if held else set()


def reap(session: Session) -> int:
    """End the answers whose lease ran out. Returns how many there were."""
    rows = leases.expired(session, Answer)
    for answer in rows:
        give_up(session, answer, "killed", GONE)
    return len(rows)


def release_worker(session: Session, worker_id: str, reason: str = GONE) -> None:
    """End at once the answers of a worker known to be gone."""
    for answer in leases.owned_by(session, Answer, worker_id):
        give_up(session, answer, "killed", reason)


def waiting(session: Session) -> int:
    """How many questions wait for a worker."""
    return int(session.scalar(select(func.count()).select_from(Answer).where(Answer.status == "queued")) or 0)
