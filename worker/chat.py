"""The worker's side of the speaker: takes questions, keeps the child with the loaded models, writes what it says, makes room for runs."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from dataclasses import dataclass
from threading import Event
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.chats import progress
from app.chats.tables import Answer
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import Database
from app.errors import StudioError
from app.leases import Claim, LeaseLost
from app.rendering import bytes_
from app.runs.tables import Run
from app.settings import Settings
from worker.chat_answer import DELETED, Conversation, Speaking
from worker.loading import precision
from worker.memory import free_bytes
from worker.supervise import scratch

log = logging.getLogger(__name__)

KEEP_MODELS = 2
ROOM_SECONDS = 20.0
"""How long a run that needs a GPU waits for the answer being given there."""
MARGIN = 0.05
"""Share of a device's memory that is left alone."""
PROGRAM_BYTES = 600 * 1024**2
WORK_BYTES = {"cpu": 256 * 1024**2, "cuda": 1024**3}


@dataclass(frozen=True)
class Question:
    """An answer to give, as the child needs it."""

    key: str
    name: str
    weights: dict[str, int]
    """Bytes the weights take, about, on a `cpu` and on `cuda`."""
    order: dict[str, Any]


class SpeakerProcess:
    """At most one child of this worker that answers; it is started when it is asked, and ended when it is idle or in the way."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        self.device: str | None = None
        self.names: dict[str, str] = {}
        """Loaded models: key -> name of the checkpoint, the one used last at the end."""
        self.changed = Event()
        """Set when something was loaded or let go."""
        self._child: Speaking | None = None
        self._folder: Any = None
        self._turn = threading.Lock()
        self._evict = Event()
        self._beaten = self._used = time.monotonic()

    # --- the child --------------------------------------------------------------------------------------------------------

    def _start(self, slot: str, worker_id: str) -> Speaking:
        self._folder = scratch(self.settings, f"speaker-{worker_id}")
        reading, writing = os.pipe()
        spec = {
            "module": "worker.chat_speak",
            "lease_seconds": self.settings.lease_seconds,
            "orders": reading,
            "keep": KEEP_MODELS,
            "device": "cpu" if slot == "cpu" else "cuda:0",
        }
        visible = "" if slot == "cpu" else slot.partition(":")[2]
        try:
            child = Speaking(spec, self._folder, {"CUDA_VISIBLE_DEVICES": visible, "OMP_WAIT_POLICY": "PASSIVE"}, (reading,))
        finally:
            os.close(reading)
        child.orders = os.fdopen(writing, "w", encoding="utf-8")
        self._child, self.device, self._beaten = child, slot, time.monotonic()
        return child

    def _close(self) -> None:
        child, self._child, self.device = self._child, None, None
        self.names = {}
        self.changed.set()
        if child is None:
            return
        child.close()
        with contextlib.suppress(OSError):
            child.orders.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def keep(self) -> None:
        """Beat for the child, and let it go when nobody has asked for some time. Called every second or so."""
        child, now = self._child, time.monotonic()
        if child is None:
            return
        if now - self._beaten >= self.settings.heartbeat_seconds:
            self._beaten = now
            child.beat()
        if self._turn.acquire(blocking=False):
            try:
                child.drain(0.0)
                if child.code is not None or now - self._used > self.settings.chat_idle_seconds:
                    self._close()
            finally:
                self._turn.release()

    def close(self) -> None:
        """End the child, whatever it does."""
        self._evict.set()
        with self._turn:
            self._close()
        self._evict.clear()

    def make_room(self, slot: str) -> None:
        """Unload what is on a device, since a run begins there. On a GPU an answer may first be ended; beside a CPU run it goes on."""
        if self._child is None or self.device != slot:
            return
        if self._turn.acquire(timeout=0.0 if slot == "cpu" else ROOM_SECONDS):
            try:
                self._close()
            finally:
                self._turn.release()
        elif slot != "cpu":
            self.close()

    # --- one question -----------------------------------------------------------------------------------------------------

    def one(self, worker_id: str, slots: list[str], training: set[str], shutdown: Event) -> bool:
        """Take and answer the next question; False when none waits.

        Args:
            slots: the devices of this worker.
            training: those of them on which a run is at work.
        """
        with self.database.write() as session:
            mine = progress.claim(session, worker_id, self.settings.lease_seconds)
        if mine is None:
            return False
        with self._turn:
            self._used = time.monotonic()
            try:
                self._answer(mine, worker_id, slots, training, shutdown)
            except LeaseLost:
                log.info("Answer %s is wanted no longer.", mine.id)
                if self._child is not None:
                    self._child.tell({"stop": mine.id})
            self._used = time.monotonic()
        return True

    def _answer(self, mine: Claim, worker_id: str, slots: list[str], training: set[str], shutdown: Event) -> None:
        try:
            with self.database.read() as session:
                question = _question(session, mine.id, self.settings.threads)
                slot, refusal = self._place(session, question, worker_id, slots, training)
        except StudioError as error:
            slot, refusal = "", error.message
        if refusal:
            with self.database.write() as session:
                progress.failed(session, mine, "refused", refusal)
            return
        child = self._child
        if child is None:
            with self.database.write() as session:
                progress.loading(session, mine, {"done": 0, "total": 3, "text": "Starting the program"})
            child = self._start(slot, worker_id)
        child.tell(question.order)
        conversation = Conversation(self.database, self.settings, child, mine, shutdown, self._evict)
        try:
            conversation.run()
        finally:
            if conversation.loaded is not None:
                names = {**self.names, question.key: question.name}
                self.names = {key: names[key] for key in conversation.loaded if key in names}
                self.changed.set()
            if child.code is not None:
                self._close()

    def _place(self, session: Session, question: Question, worker_id: str, slots: list[str], training: set[str]) -> tuple[str, str | None]:
        """The device to answer on, or why there is none, in words."""
        run = session.execute(
            select(Run.name).where(Run.lease_owner.startswith(f"{worker_id}/", autoescape=True)).order_by(Run.id).limit(1)
        ).scalar()
        usable = [slot for slot in slots if slot == "cpu" or slot not in training]
        if not usable:
            return "", f"The run “{run or 'that is going on'}” holds the memory of the GPU. Ask again when it has ended, or pause it first."
        if self.device is not None and self.device not in usable:
            self._close()
        if question.key in self.names and self._child is not None and self._child.code is None:
            return self.device or usable[0], None
        for _ in range(2):
            slot = self.device or max(usable, key=lambda each: free_bytes(each)[0])
            kind = slot.partition(":")[0]
            free, total = free_bytes(slot)
            needed = int(question.weights[kind] * 1.2) + WORK_BYTES[kind] + (0 if self._child else PROGRAM_BYTES)
            if free - MARGIN * total >= needed:
                return slot, None
            if self._child is None:
                break
            self._close()  # the models loaded before may be what is in the way
        short = f"“{question.name}” needs about {bytes_(needed)} of memory, and {bytes_(max(0, free - MARGIN * total))} are free"
        if run:
            return "", f"{short} while the run “{run}” is going on. Ask again when it has ended, or pause it first."
        return "", f"{short}. Close what else uses the memory of this machine, or take a smaller model."


def _question(session: Session, answer_id: str, threads: int) -> Question:
    """What the child needs to know of an answer.

    Raises:
        StudioError: the checkpoint is not there (any more).
    """
    answer = session.get_one(Answer, answer_id)
    checkpoint = session.get(Checkpoint, answer.checkpoint_id) if answer.checkpoint_id else None
    if checkpoint is None:
        raise StudioError(DELETED.format(name=answer.checkpoint_name))
    base = checkpoints.base_of(session, checkpoint)
    model = checkpoints.training_paths(session, checkpoint)
    key = f"{checkpoint.id}:{checkpoint.sha256}"
    order = {
        "answer": answer.id,
        "key": key,
        "model": model,
        "messages": answer.messages,
        "sampling": answer.sampling,
        "threads": threads,
    }
    adapter = (checkpoint.size_bytes or 0) if checkpoint is not base else 0
    weights = {kind: _weights(base, kind) + adapter for kind in WORK_BYTES}
    return Question(key, checkpoint.name, weights, order)


def _weights(base: Checkpoint, kind: str) -> int:
    """Bytes a model's weights take, about: as stored, or twice that where the processor does not reckon in their precision."""
    config = base.config or {}
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    wide = base.kind == "full" or stored == "float32" or (kind == "cpu" and precision("auto", "adapter", "cpu").loaded == "float32")
    return (base.parameters or 0) * (4 if wide else 2) or (base.size_bytes or 0)
