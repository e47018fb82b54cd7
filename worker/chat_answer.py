"""The loop around one answer: what the speaker says is written in small batches, what people want is passed on. Starts no process."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from threading import Event
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from app import leases
from app.chats import progress
from app.chats.tables import Answer
from app.database import Database
from app.leases import Claim, LeaseLost
from app.settings import Settings
from worker.process import Child
from worker.supervise import why

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.08
LOOK_SECONDS = 0.25
STOP_SECONDS = 0.6
"""A child that has not heard a stop by then (it loads a model, or reads a long prompt) is killed."""
EVICTED = "A run needed the memory of the device, so the model was unloaded in the midst of this answer. Ask again when the run has ended."
DELETED = "The checkpoint “{name}” was deleted, so it cannot answer. Choose another."
SHUT_DOWN = "The worker shut down. Press Retry to ask again."


class Speaking(Child):
    """The child that answers, with a pipe for questions."""

    orders: Any
    """The pipe's end for writing."""

    def tell(self, order: dict[str, Any]) -> None:
        """Send one order. A child that is gone is seen by its exit code."""
        with contextlib.suppress(OSError, ValueError):
            self.orders.write(json.dumps(order) + "\n")
            self.orders.flush()


class Conversation:
    """The loop around one answer: what the child says is written in small batches, what people want is passed on."""

    def __init__(self, database: Database, settings: Settings, child: Speaking, mine: Claim, shutdown: Event, evict: Event) -> None:
        self.database, self.settings, self.child, self.mine = database, settings, child, mine
        self.shutdown, self.evict = shutdown, evict
        self.loaded: list[str] | None = None
        """Keys of the models that the child has now, where it said so."""
        self._pieces: list[str] = []
        self._tokens = 0
        self._end: Callable[[Session], None] | None = None
        self._status = "loading"
        self._stop_at: float | None = None
        self._killed: tuple[str, str] | None = None

    def run(self) -> None:
        """Until the answer has ended and that is written.

        Raises:
            LeaseLost: the answer is no longer ours, or nobody wants it any more.
        """
        flushed = beaten = looked = time.monotonic()
        while True:
            arrived = self.child.drain(0.04)
            gone = self.child.code is not None
            if gone:
                self.child.join()
                arrived += self.child.drain(0.0)
            for message in arrived:
                self._hear(message)
            now = time.monotonic()
            if self._end is None and gone:
                self._end = self._gone
            if self._pieces and (self._end or now - flushed >= FLUSH_SECONDS) and self._try(self._flush):
                flushed = now
            if self._end and not self._pieces and self._try(self._end):
                return
            if now - beaten >= self.settings.heartbeat_seconds and self._try(self._renew):
                beaten = now
            if now - looked >= LOOK_SECONDS and self._try(self._look, write=False):
                looked = now
            self._obey(now)

    def _try(self, action: Callable[[Session], None], *, write: bool = True) -> bool:
        """Do something in a transaction; False when the database does not answer just now."""
        try:
            with self.database.write() if write else self.database.read() as session:
                action(session)
        except OperationalError as error:
            log.warning("The database does not answer (%s); trying again.", str(error.orig).splitlines()[0])
            return False
        return True

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "log":
            log.info("speaker: %s", message["text"])
        elif kind == "fatal":
            self._end = lambda session: progress.failed(session, self.mine, message["code"], message["reason"])
        if message.get("answer") != self.mine.id:
            return
        if kind == "loading":
            shown = {name: message[name] for name in ("done", "total", "text")}
            self._try(lambda session: progress.loading(session, self.mine, shown))
        elif kind == "loaded":
            self.loaded = message["keys"]
        elif kind == "token":
            self._pieces.append(message["text"])
            self._tokens = message["tokens"]
        elif kind == "said":
            self._end = lambda session: progress.finish(session, self.mine, message["said"])
        elif kind == "refused":
            self.loaded = message["keys"]
            self._end = lambda session: self._refused(session, message["code"], message["reason"])

    def _gone(self, session: Session) -> None:
        code, reason = self._killed or why(self.child, None, None)
        progress.failed(session, self.mine, code, _of_speaker(reason))

    def _refused(self, session: Session, code: str, reason: str) -> None:
        answer = session.get(Answer, self.mine.id)
        if code == "model" and answer is not None and answer.checkpoint_id is None:
            reason = DELETED.format(name=answer.checkpoint_name)
        progress.failed(session, self.mine, code, reason)

    def _flush(self, session: Session) -> None:
        count = len(self._pieces)
        progress.add(session, self.mine, "".join(self._pieces[:count]), self._tokens)
        del self._pieces[:count]

    def _renew(self, session: Session) -> None:
        leases.renew(session, Answer, self.mine, lease_seconds=self.settings.lease_seconds)

    def _look(self, session: Session) -> None:
        answer = session.get(Answer, self.mine.id)
        if answer is None or answer.lease_owner != self.mine.owner:
            raise LeaseLost(self.mine.id)
        self._status = answer.status

    def _obey(self, now: float) -> None:
        if self.evict.is_set() and not self._killed:
            self._kill("evicted", SHUT_DOWN if self.shutdown.is_set() else EVICTED)
        if self._status != "stopping" and not self.shutdown.is_set():
            return
        if self._stop_at is None:
            self._stop_at = now
            self.child.tell({"stop": self.mine.id})
        elif now - self._stop_at > STOP_SECONDS and not self._end:
            self._kill("stopped" if self._status == "stopping" else "preempted", SHUT_DOWN)

    def _kill(self, code: str, reason: str) -> None:
        if self._killed is None:
            self._killed = (code, reason)
        self.child.kill()


def _of_speaker(reason: str) -> str:
    """Words about a child's end, as they fit an answer."""
    return reason.replace("The trainer", "The process that was answering") + ("" if "Retry" in reason else " Press Retry to ask again.")
