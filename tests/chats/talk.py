"""A studio with a tiny real model and a worker in this process, for tests about answers."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from app import storage
from app.chats import service
from app.chats.schemas import ChatCreate
from app.chats.tables import Answer, Chat
from app.checkpoints.tables import Checkpoint
from app.workers import service as workers
from tests.factories import add_checkpoint
from tests.models import tiny_llama_folder

GREEDY = {"temperature": 0, "max_new_tokens": 12}


def tiny(stack: Any, name: str = "tiny") -> str:
    """A ready base checkpoint with the files of the tiny Llama."""
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, name=name, parameters=100_000, config={"dtype": "float32"})
        checkpoint.path = f"checkpoints/{checkpoint.id}"
        checkpoint.sha256 = "0" * 64
        shutil.copytree(tiny_llama_folder(), storage.root() / checkpoint.path)
        return checkpoint.id


def able_worker(stack: Any) -> str:
    """A worker row that says it can answer; nothing stands behind it."""
    with stack.database.write() as session:
        return workers.register(
            session, lanes=["device", "cpu", "chat"], devices=[{"name": "CPU", "kind": "cpu"}], versions={}, problem=None
        ).id


def ask(stack: Any, *checkpoints: str, text: str = "1 + 1 =", **sampling: Any) -> str:
    """A new chat with a question; returns its id."""
    request = ChatCreate(checkpoints=list(checkpoints), messages=[{"role": "user", "content": text}], sampling={**GREEDY, **sampling})
    with stack.database.write() as session:
        return service.create(session, stack.workspace_id, stack.admin_id, request).id


def answers(stack: Any, chat_id: str) -> list[Answer]:
    """The answers of a chat as people see them."""
    with stack.database.read() as session:
        return service.answers(session, session.get_one(Chat, chat_id))


def wait(stack: Any, chat_id: str, met: Callable[[list[Answer]], bool], seconds: float = 90.0) -> list[Answer]:
    """Until something holds for the answers of a chat."""
    end = time.monotonic() + seconds
    while True:
        found = answers(stack, chat_id)
        if met(found):
            return found
        assert time.monotonic() < end, [(answer.status, answer.reason, answer.progress) for answer in found]
        time.sleep(0.02)


def over(found: list[Answer]) -> bool:
    """Whether all answers have ended."""
    return bool(found) and all(answer.status in ("done", "stopped", "failed") for answer in found)


@contextmanager
def worker(stack: Any) -> Iterator[Any]:
    """A worker's chat lane, with heartbeat and speaker, in threads of this process."""
    from worker.tasks import Station

    station = Station(stack.database, stack.settings)
    station.arrive()
    station.start()

    def serve() -> None:
        while not station.shutdown.is_set():
            station.lanes["chat"].serve(station.shutdown)
            station.shutdown.wait(0.05)

    lane = threading.Thread(target=serve, daemon=True)
    lane.start()
    try:
        yield station
    finally:
        station.leave()
        lane.join(20)


def forget_files(stack: Any, checkpoint_id: str) -> None:
    """Remove a checkpoint's row and files, as deleting it does."""
    with stack.database.write() as session:
        checkpoint = session.get_one(Checkpoint, checkpoint_id)
        path = checkpoint.path
        session.delete(checkpoint)
    storage.remove(path or "")
