"""Hold a lease while a child works: renew it, write what the child reports, obey pause and stop, fence off when it is lost."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from sqlalchemy.exc import DBAPIError, OperationalError

from app import leases
from app.database import Database
from app.leases import Claim, LeaseLost
from app.settings import Settings
from worker.process import Child
from worker.reporting import FENCED

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.4
STATUS_SECONDS = 1.0
GRACE_SECONDS = 8.0
"""How long a trainer may take to write its checkpoint when the worker shuts down."""


class Holding:
    """The loop around one child. What to write is the caller's; when to write, renew, pause and end is here."""

    def __init__(self, database: Database, settings: Settings, table: type[Any], mine: Claim, child: Child, shutdown: Event) -> None:
        self.database, self.settings, self.table, self.mine, self.child, self.shutdown = database, settings, table, mine, child, shutdown
        self.outcome: dict[str, Any] | None = None
        """The child's `result` or `fatal` message."""
        self.status = ""
        self.pause_asked_at: float | None = None
        self.kill_reason: tuple[str, str] | None = None
        """(code, words) when this side ended the child."""

    def run(self, write: Callable[[list[dict[str, Any]]], None], *, pausable: bool) -> None:
        """Until the child has ended and its last message is written.

        Args:
            write: writes messages in one fenced transaction; raises LeaseLost when the row is no longer ours.

        Raises:
            LeaseLost: the row belongs to somebody else; the child has been killed and nothing more may be written.
        """
        try:
            self._loop(write, pausable)
        finally:
            self.child.close()

    def _loop(self, write: Callable[[list[dict[str, Any]]], None], pausable: bool) -> None:
        buffer: list[dict[str, Any]] = []
        now = time.monotonic()
        last_flush = last_step = last_alive = now
        last_status = last_beat = 0.0
        while True:
            arrived = self.child.drain(0.1)
            ended = self.child.code is not None
            if ended:
                self.child.join()
                arrived += self.child.drain(0.0)
            now = time.monotonic()
            for message in arrived:
                kind = message["kind"]
                if kind == "alive":
                    last_alive = now
                elif kind in ("result", "fatal"):
                    self.outcome = message
                else:
                    if kind in ("step", "progress", "phase", "total", "metrics"):
                        last_step = now
                    buffer.append(message)
            if buffer and (ended or now - last_flush >= FLUSH_SECONDS):
                if self._try(partial(write, buffer)):
                    buffer = []
                last_flush = now
            if ended and not buffer:
                return
            every = 1.0 if ended else self.settings.heartbeat_seconds
            if now - last_beat >= every and self._try(self._renew):
                last_beat = now
            if now - last_status >= STATUS_SECONDS:
                self._try(self._look)
                last_status = now
            if ended:
                continue
            self._obey(now, pausable)
            if now - last_alive > self.settings.lease_seconds + self.settings.heartbeat_seconds:
                self._kill("stalled", "The trainer froze.")
            elif now - last_step > self.settings.stall_seconds:
                self._kill("stalled", f"The trainer made no step for {self.settings.stall_seconds:.0f} s.")

    def _try(self, action: Callable[[], None]) -> bool:
        """Do something in the database; False when it cannot be reached just now, which the fence takes care of if it lasts."""
        try:
            action()
        except (OperationalError, DBAPIError) as error:
            if not isinstance(error, OperationalError) and not error.connection_invalidated:
                raise
            log.warning("The database does not answer (%s); trying again.", str(error.orig).splitlines()[0])
            return False
        return True

    def _renew(self) -> None:
        with self.database.write() as session:
            self.status = leases.renew(session, self.table, self.mine, lease_seconds=self.settings.lease_seconds)
        self.child.beat()

    def _look(self) -> None:
        with self.database.read() as session:
            row = session.get(self.table, self.mine.id)
            if row is None or row.lease_owner != self.mine.owner:
                raise LeaseLost(self.mine.id)
            self.status = row.status

    def _obey(self, now: float, pausable: bool) -> None:
        if self.status == "stopping":
            self._kill("stopped", "Stopped on request.")
        elif self.status == "pausing" or self.shutdown.is_set():
            if not pausable:
                self._kill("preempted", "The worker shut down.")
            elif self.pause_asked_at is None:
                self.pause_asked_at = now
                self.child.ask_pause()
            elif self.shutdown.is_set() and now - self.pause_asked_at > GRACE_SECONDS:
                self._kill("preempted", "The worker shut down before the trainer had written its checkpoint.")

    def _kill(self, code: str, words: str) -> None:
        if self.kill_reason is None:
            self.kill_reason = (code, words)
        self.child.kill()


def why(child: Child, outcome: dict[str, Any] | None, kill_reason: tuple[str, str] | None) -> tuple[str, str]:
    """Code and words of an attempt that did not end with a result."""
    if outcome and outcome["kind"] == "fatal":
        return outcome["code"], outcome["reason"]
    if kill_reason:
        return kill_reason
    code = child.code
    if code in FENCED:
        return (
            "stalled",
            "The trainer ended itself, since it heard nothing from its worker for too long. The machine may have too much to do.",
        )
    if code == -9:
        return "killed", "The trainer was killed (SIGKILL): by the system when memory runs out, or by hand."
    if code is not None and code < 0:
        return "killed", f"The trainer was ended by signal {-code}."
    return "crash", f"The trainer ended with exit code {code} before it was done."


def scratch(settings: Settings, name: str) -> Path:
    """A fresh private folder for an attempt, on the file system of the storage."""
    folder = settings.storage / "work" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)
    return folder
