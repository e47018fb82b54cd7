"""Chats as people and programs use them: ask, go on, ask again, stop, delete. What a worker writes is in `progress`.

`ask` is the way to an answer for everything in the studio that wants one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app import queue
from app.chats import progress
from app.chats.schemas import ACTIVE, KINDS, MAX_CHARACTERS, MAX_MESSAGE, ChatCreate, Sampling, answer_out
from app.chats.tables import Answer, Chat, Turn
from app.checkpoints import heads
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import now
from app.errors import Conflict, Invalid, NotFound, TooMany, Unavailable
from app.settings import get_settings
from app.workers import service as workers

TITLE = 80
NO_WORKER = "No worker that can answer is running. Start one with: luthier worker"


# --- may it be used -------------------------------------------------------------------------------------------------------


def no_worker(session: Session) -> str | None:
    """Why nobody can answer now, in words; None when somebody can."""
    alive = workers.alive(session, get_settings().lease_seconds)
    if any("chat" in worker.lanes for worker in alive):
        return None
    return next((worker.problem for worker in alive if worker.problem), None) or NO_WORKER


def askable(session: Session, workspace_id: str, limit: int = 300) -> list[Checkpoint]:
    """Checkpoints that can be talked to, newest first."""
    return checkpoints.list_checkpoints(session, workspace_id, limit=limit, kinds=KINDS, status="ready", writing=True)


def pick(session: Session, workspace_id: str, checkpoint_ids: Sequence[str]) -> list[Checkpoint]:
    """The checkpoints with some ids, fit to answer.

    Raises:
        NotFound: there is none with such an id.
        Conflict: it is not ready.
        Invalid: it is of a kind that does not answer.
    """
    found = []
    for checkpoint_id in checkpoint_ids:
        checkpoint = checkpoints.get(session, workspace_id, checkpoint_id)
        if checkpoint.kind not in KINDS:
            raise Invalid(f"“{checkpoint.name}” is a {checkpoint.kind} model and does not answer. Take another.", field="checkpoints")
        heads.must_write(checkpoint, "checkpoints")
        if checkpoint.status != "ready":
            raise Conflict(f"“{checkpoint.name}” is {checkpoint.status}; take a checkpoint that is ready.", field="checkpoints")
        found.append(checkpoint)
    return found


def _check_room(session: Session, user_id: str | None, wanted: int) -> None:
    """Keep one person, and all together, from asking more than workers can answer."""
    refusal = no_worker(session)
    if refusal:
        raise Unavailable(refusal, code="no_worker")
    settings = get_settings()
    mine = (Answer.status.in_(ACTIVE)) & or_(Answer.lease_until.is_(None), Answer.lease_until >= now())
    active = session.scalar(select(func.count()).select_from(Answer).where(mine, Answer.created_by == user_id)) or 0
    if active + wanted > settings.max_chat_answers:
        raise TooMany(
            f"You already wait for {active} answer{'' if active == 1 else 's'}, and {settings.max_chat_answers} at once are allowed. "
            "Wait for one to end, or stop one."
        )
    if progress.waiting(session) + wanted > settings.max_queued_answers:
        raise TooMany(f"{settings.max_queued_answers} questions already wait for a worker. Try again in a moment.")


# --- asking ---------------------------------------------------------------------------------------------------------------


def ask(
    session: Session,
    chat: Chat,
    asked: Sequence[Checkpoint],
    histories: Sequence[list[dict[str, str]]],
    sampling: Sampling,
    *,
    turn: int,
    user_id: str | None,
) -> list[Answer]:
    """Queue a question to some checkpoints, each with the messages it is to read, and ring for a worker.

    Raises:
        Unavailable: no worker could answer.
        TooMany: the caller, or everybody together, waits for too many answers.
        Invalid: the messages are too long.
    """
    for messages in histories:
        if sum(len(message["content"]) for message in messages) > MAX_CHARACTERS:
            raise Invalid(f"The conversation has more than {MAX_CHARACTERS:,} characters. Start a new one.", field="text")
    _check_room(session, user_id, len(asked))
    session.flush()
    seq = progress.touch(session, chat.id)
    made = [
        Answer(
            workspace_id=chat.workspace_id,
            chat_id=chat.id,
            turn=turn,
            place=place,
            checkpoint_id=checkpoint.id,
            checkpoint_name=checkpoint.name,
            messages=messages,
            sampling=sampling.model_dump(),
            status="queued",
            text="",
            tokens=0,
            attempt=0,
            seq=seq,
            created_by=user_id,
            dispatched_at=now(),
        )
        for place, (checkpoint, messages) in enumerate(zip(asked, histories, strict=True))
    ]
    for answer in made:  # one by one, so that they are taken in the order of the columns
        session.add(answer)
        session.flush()
    queue.ring(session, "chat")
    return made


def create(session: Session, workspace_id: str, user_id: str | None, request: ChatCreate, source: str = "api") -> Chat:
    """A new chat with its first question.

    Raises:
        StudioError: as `pick` and `ask`.
    """
    asked = pick(session, workspace_id, request.checkpoints)
    messages = [message.model_dump() for message in request.messages]
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    prompt = messages.pop()["content"]
    chat = Chat(
        workspace_id=workspace_id,
        title=_title(prompt),
        source=source,
        checkpoints=[checkpoint.id for checkpoint in asked],
        system=system,
        sampling=request.sampling.model_dump(),
        opening=messages,
        seq=0,
        created_by=user_id,
    )
    session.add(chat)
    session.flush()
    session.add(Turn(chat_id=chat.id, number=1, prompt=prompt))
    ask(session, chat, asked, _histories(session, chat, asked, 1, prompt), request.sampling, turn=1, user_id=user_id)
    return chat


def go_on(session: Session, chat: Chat, user_id: str | None, text: str, request: dict[str, Any]) -> None:
    """Add a message and ask for its answers.

    Args:
        request: `{checkpoints, system, sampling}` from now on.

    Raises:
        Conflict: an answer is still being given.
        StudioError: as `pick` and `ask`.
    """
    _check_idle(session, chat, "Stop it, or wait, before you write on.")
    text = _clean(text)
    asked = _change(session, chat, request)
    number = (session.scalar(select(func.max(Turn.number)).where(Turn.chat_id == chat.id)) or 0) + 1
    histories = _histories(session, chat, asked, number, text)
    session.add(Turn(chat_id=chat.id, number=number, prompt=text))
    ask(session, chat, asked, histories, Sampling.model_validate(chat.sampling), turn=number, user_id=user_id)


def ask_again(session: Session, chat: Chat, user_id: str | None, request: dict[str, Any], text: str | None = None) -> None:
    """Give the last message new answers, after changing its text where one is given.

    Raises:
        Conflict: an answer is still being given.
        StudioError: as `pick` and `ask`.
    """
    _check_idle(session, chat, "Stop it first.")
    last = session.scalars(select(Turn).where(Turn.chat_id == chat.id).order_by(Turn.number.desc()).limit(1)).one()
    asked = _change(session, chat, request)
    if text is not None:
        last.prompt = _clean(text)
        if last.number == 1:
            chat.title = _title(last.prompt)
    for answer in session.scalars(select(Answer).where(Answer.chat_id == chat.id, Answer.turn == last.number)):
        session.delete(answer)
    session.flush()
    histories = _histories(session, chat, asked, last.number, last.prompt)
    ask(session, chat, asked, histories, Sampling.model_validate(chat.sampling), turn=last.number, user_id=user_id)


def _change(session: Session, chat: Chat, request: dict[str, Any]) -> list[Checkpoint]:
    asked = pick(session, chat.workspace_id, request["checkpoints"])
    chat.checkpoints = [checkpoint.id for checkpoint in asked]
    chat.system, chat.sampling = request["system"], request["sampling"].model_dump()
    return asked


def _histories(session: Session, chat: Chat, asked: Sequence[Checkpoint], turn: int, prompt: str) -> list[list[dict[str, str]]]:
    """What each column reads: the system prompt, what was said before with the answers of that column, the prompt."""
    turns = list(session.scalars(select(Turn).where(Turn.chat_id == chat.id, Turn.number < turn).order_by(Turn.number)))
    said = {(answer.turn, answer.place): answer for answer in session.scalars(select(Answer).where(Answer.chat_id == chat.id))}
    found = []
    for place in range(len(asked)):
        messages: list[dict[str, str]] = [{"role": "system", "content": chat.system}] if chat.system.strip() else []
        messages += chat.opening
        for each in turns:
            answer = said.get((each.number, place)) or said.get((each.number, 0))
            if answer is not None and (answer.text or answer.status == "done"):  # a message without an answer is left out
                messages += [{"role": "user", "content": each.prompt}, {"role": "assistant", "content": answer.text}]
        found.append([*messages, {"role": "user", "content": prompt}])
    return found


def _title(prompt: str) -> str:
    words = " ".join("".join(character if character.isprintable() else " " for character in prompt).split())
    return words if len(words) <= TITLE else f"{words[: TITLE - 1].rstrip()}…"


def _clean(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\x00", "").strip()
    if not text:
        raise Invalid("Write a message first.", field="text")
    if len(text) > MAX_MESSAGE:
        raise Invalid(f"A message has at most {MAX_MESSAGE:,} characters, and this one has {len(text):,}.", field="text")
    return text


def _check_idle(session: Session, chat: Chat, what_to_do: str) -> None:
    """See that no answer is being given; those of a worker that is gone are ended here."""
    active = list(session.scalars(select(Answer).where(Answer.chat_id == chat.id, Answer.status.in_(ACTIVE)).with_for_update()))
    lost = progress.is_lost(session, active)
    for answer in active:
        if answer.id not in lost:
            raise Conflict(f"“{answer.checkpoint_name}” is still answering. {what_to_do}")
        progress.give_up(session, answer, "killed", progress.GONE)


# --- stopping, finding, deleting ------------------------------------------------------------------------------------------


def get(session: Session, workspace_id: str, chat_id: str) -> Chat:
    """A chat of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    chat = session.scalars(select(Chat).where(Chat.id == chat_id, Chat.workspace_id == workspace_id)).first()
    if chat is None:
        raise NotFound("There is no such conversation; it may have been deleted.")
    return chat


def list_chats(
    session: Session, workspace_id: str, *, limit: int = 50, after: str | None = None, user_id: str | None = None, source: str | None = None
) -> list[Chat]:
    """Chats of the workspace, newest first."""
    query = select(Chat).where(Chat.workspace_id == workspace_id)
    if after:
        query = query.where(Chat.id < after)
    if user_id:
        query = query.where(Chat.created_by == user_id)
    if source:
        query = query.where(Chat.source == source)
    return list(session.scalars(query.order_by(Chat.id.desc()).limit(limit)))


def stop(session: Session, workspace_id: str, chat_id: str) -> Chat:
    """Stop the answers that are being given; asking twice changes nothing."""
    chat = get(session, workspace_id, chat_id)
    active = list(session.scalars(select(Answer).where(Answer.chat_id == chat.id, Answer.status.in_(ACTIVE)).with_for_update()))
    lost = progress.is_lost(session, active)
    for answer in active:
        if answer.status == "queued" or answer.id in lost:
            progress.give_up(session, answer, "stopped", None)
        elif answer.status != "stopping":
            answer.status = "stopping"
            session.flush()
            answer.seq = progress.touch(session, chat.id)
    session.flush()
    return chat


def delete(session: Session, workspace_id: str, chat_id: str) -> None:
    """Remove a chat; a worker that is answering in it notices and stops."""
    session.delete(get(session, workspace_id, chat_id))
    session.flush()


def is_active(session: Session, chat: Chat) -> bool:
    """Whether an answer is waited for."""
    active = list(session.scalars(select(Answer).where(Answer.chat_id == chat.id, Answer.status.in_(ACTIVE))))
    return bool({answer.id for answer in active} - progress.is_lost(session, active))


def active_chats(session: Session, chats: Sequence[Chat]) -> set[str]:
    """Which of some chats wait for an answer."""
    query = select(Answer.chat_id).where(Answer.chat_id.in_([chat.id for chat in chats]), Answer.status.in_(ACTIVE))
    return set(session.scalars(query))


def turns(session: Session, chat: Chat) -> list[Turn]:
    """The messages of the person, in order."""
    return list(session.scalars(select(Turn).where(Turn.chat_id == chat.id).order_by(Turn.number)))


def answers(session: Session, chat: Chat, after: int = -1) -> list[Answer]:
    """The answers in order; only those that changed after a sequence number, where one is given.

    One whose worker is gone is shown as failed, also while nobody has swept it up.
    """
    found = list(session.scalars(select(Answer).where(Answer.chat_id == chat.id, Answer.seq > after).order_by(Answer.turn, Answer.place)))
    lost = progress.is_lost(session, found)
    for answer in found:
        if answer.id in lost:
            session.expunge(answer)
            answer.status, answer.reason, answer.reason_code, answer.progress = "failed", progress.GONE, "killed", None
            answer.text = progress.said_so_far(session, [answer.id]).get(answer.id, "")
    return found


def queue_places(session: Session) -> dict[str, int]:
    """Place in the queue of each waiting answer, from 1."""
    query = select(Answer.id).where(Answer.status == "queued").order_by(Answer.priority.desc(), Answer.id)
    return {answer_id: place for place, answer_id in enumerate(session.scalars(query), start=1)}


def described(session: Session, chat: Chat) -> list[tuple[Turn, list[dict[str, Any]]]]:
    """Each turn with its answers, as REST shows them."""
    found = answers(session, chat)
    places = queue_places(session) if any(answer.status == "queued" for answer in found) else {}
    by_turn: dict[int, list[dict[str, Any]]] = {}
    for answer in found:
        text = None if answer.status in ACTIVE else answer.text
        by_turn.setdefault(answer.turn, []).append(answer_out(answer, text, places.get(answer.id)))
    return [(turn, by_turn.get(turn.number, [])) for turn in turns(session, chat)]


def held_by(session: Session, worker_id: str) -> list[Answer]:
    """Answers that a worker is giving."""
    return list(session.scalars(select(Answer).where(Answer.lease_owner.startswith(f"{worker_id}/", autoescape=True))))
