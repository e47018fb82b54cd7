"""The Celery door and the two lanes behind it: a message says "look at the table", the lane claims what waits. Trains nothing itself."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import psutil
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

import app.tables  # noqa: F401  # all of them: a foreign key can only be sorted when its table is known
from app import leases, queue
from app.chains import service as chains
from app.chats import progress as chats
from app.checkpoints import service as checkpoints
from app.database import Database
from app.jobs.tables import Job
from app.runs import progress
from app.runs.tables import Run
from app.settings import Settings
from app.workers import service as workers
from worker import deliver, leftovers, memory, run_jobs, run_training
from worker.chat import SpeakerProcess
from worker.process import kill_left_behind

log = logging.getLogger(__name__)

CPU_SLOTS = 2
REDISPATCH_SECONDS = 30.0
SPEAKER_SECONDS = 1.0
"""How often the child that answers is looked after."""
POST_SECONDS = 1.0
"""How often messages to webhooks and by e-mail are looked for."""
LEFTOVERS_SECONDS = 3600.0
"""How often files without a row are looked for."""
NO_TORCH = (
    "This worker has no torch, so it cannot train. Install the training packages with: pip install 'luthier[train]' and restart the worker."
)


class Lane:
    """So many slots; each works as long as something waits. A bell that rings while all are busy is remembered."""

    def __init__(self, name: str, slots: list[str], work: Callable[[str], bool]) -> None:
        self.name, self._work = name, work
        self._free = list(slots)
        self._lock = threading.Lock()
        self._again = False

    @property
    def idle(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def serve(self, shutdown: threading.Event) -> None:
        """Take a free slot and work until nothing waits."""
        while not shutdown.is_set():
            with self._lock:
                if not self._free:
                    self._again = True
                    return
                slot = self._free.pop(0)
                self._again = False
            try:
                while not shutdown.is_set() and self._work(slot):
                    pass
            finally:
                with self._lock:
                    self._free.insert(0, slot)
                    again = self._again
            if not again:
                return


class Station:
    """One worker process: its lanes, its heartbeat, its sweep."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database, self.settings = database, settings
        self.shutdown = threading.Event()
        self.devices, self.problem = find_devices(settings)
        self.id = ""
        slots = [] if self.problem else [device["slot"] for device in self.devices]
        self.speaker = SpeakerProcess(database, settings)
        self._training: set[str] = set()
        self.lanes = {
            "device": Lane("device", slots, self._device),
            "cpu": Lane("cpu", ["cpu"] * CPU_SLOTS, lambda slot: run_jobs.one(database, settings, self.id, "cpu", self.shutdown)),
            "chat": Lane("chat", slots and ["chat"], self._chat),
        }
        self._threads: list[threading.Thread] = []

    def _device(self, slot: str) -> bool:
        with self.database.read() as session:
            job_waits, run_waits = leases.waiting(session, Job, Job.lane == "device"), leases.waiting(session, Run)
        if job_waits:
            self.speaker.make_room(slot)
            if run_jobs.one(self.database, self.settings, self.id, "device", self.shutdown, slot):
                return True
        if not run_waits:
            return False
        self._training.add(slot)
        try:
            self.speaker.make_room(slot)
            return run_training.one(self.database, self.settings, self.id, slot, self.shutdown)
        finally:
            self._training.discard(slot)
            chains.advance(self.database)

    def _chat(self, _: str) -> bool:
        slots = [device["slot"] for device in self.devices]
        if "cpu" not in slots and self._training.issuperset(slots) and self._others_can_talk():
            return False
        return self.speaker.one(self.id, slots, self._training, self.shutdown)

    def _others_can_talk(self) -> bool:
        """Whether another worker could answer that trains nothing."""
        with self.database.read() as session:
            alive = workers.alive(session, self.settings.lease_seconds)
            busy = workers.doing(session)
        return any("chat" in worker.lanes and worker.id not in busy for worker in alive if worker.id != self.id)

    @property
    def slots(self) -> int:
        """How many jobs may run at once, over all lanes."""
        return CPU_SLOTS + len(self.devices) + 1

    def arrive(self) -> None:
        """Register, free what dead workers of this host hold, and mend paths when the storage folder moved."""
        self._register()
        self.free_dead()
        with self.database.write() as session:
            checkpoints.rehome(session, self.settings.storage)

    def _register(self) -> None:
        with self.database.write() as session:
            lanes = ["cpu"] if self.problem else list(queue.LANES)
            devices = [{name: value for name, value in device.items() if name != "slot"} for device in self.devices]
            self.id = workers.register(session, lanes=lanes, devices=devices, versions=versions(), problem=self.problem).id

    def free_dead(self) -> None:
        """Take over at once what worker processes of this host left when they died."""
        marks: list[str] = []
        with self.database.write() as session:
            for dead in workers.dead_on_this_host(session):
                marks += progress.release_worker(session, dead)
                for job in leases.owned_by(session, Job, dead):
                    run_jobs.give_back(session, job)
                chats.release_worker(session, dead)
                workers.leave(session, dead)
        for mark in marks:
            kill_left_behind(mark)
        self._sweep_scratch()

    def _sweep_scratch(self) -> None:
        """Remove folders of attempts that nobody holds any more."""
        work = self.settings.storage / "work"
        if not work.is_dir():
            return
        with self.database.read() as session:
            rows = [
                *session.scalars(select(Run).where(Run.lease_owner.is_not(None))),
                *session.scalars(select(Job).where(Job.lease_owner.is_not(None))),
            ]
            held = {f"{row.id}-{row.attempt}" for row in rows} | {f"speaker-{worker.id}" for worker in workers.list_workers(session)}
        for folder in work.iterdir():
            if folder.name not in held and time.time() - folder.stat().st_mtime > self.settings.lease_seconds:
                shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Start the heartbeat and the sweep."""
        for name, every, action in (
            ("heartbeat", self.settings.heartbeat_seconds, self.beat),
            ("sweep", self.settings.sweep_seconds, self.sweep),
            ("speaker", min(SPEAKER_SECONDS, self.settings.heartbeat_seconds), self.keep_speaker),
            ("post", POST_SECONDS, lambda: deliver.due(self.database, self.settings)),
            ("leftovers", LEFTOVERS_SECONDS, lambda: leftovers.sweep(self.database, self.settings)),
        ):
            thread = threading.Thread(target=self._repeat, args=(every, action), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _repeat(self, every: float, action: Callable[[], None]) -> None:
        while not self.shutdown.wait(every):
            try:
                action()
            except DBAPIError as error:
                log.warning("The database does not answer (%s); trying again.", str(error.orig).splitlines()[0])
            except Exception:  # boundary: a sweep must never end the worker
                log.exception("The sweep failed; trying again.")

    def beat(self) -> None:
        """Renew this worker's own heartbeat, and say what its devices hold."""
        used = {gpu.slot: gpu.used for gpu in memory.gpus()} if any(device["kind"] == "cuda" for device in self.devices) else {}
        state = {
            "devices": [{"used": used.get(device["slot"])} for device in self.devices],
            "speaker": {"device": self.speaker.device, "models": list(self.speaker.names.values())},
        }
        with self.database.write() as session:
            known = workers.beat(session, self.id, state)
        if not known:
            self._register()

    def keep_speaker(self) -> None:
        """Keep the child that answers alive, or let it go; a change is told at once."""
        self.speaker.keep()
        if self.speaker.changed.is_set():
            self.speaker.changed.clear()
            self.beat()

    def sweep(self) -> None:
        """Take over expired leases, say why runs wait, ring for what nobody took."""
        self.free_dead()
        with self.database.write() as session:
            progress.reap(session)
            run_jobs.reap(session)
            chats.reap(session)
            workers.forget_silent(session, 3600)
            able = [worker for worker in workers.alive(session, self.settings.lease_seconds) if "device" in worker.lanes]
            progress.explain_waiting(
                session, None if able else self.problem or "No worker that can train is there. Start one with: luthier worker"
            )
        chains.advance(self.database)
        with self.database.write() as session:
            runs_wait = progress.ring_again(session, REDISPATCH_SECONDS)
            lanes = {"device"} if runs_wait else set()
            for lane in queue.LANES:
                if leases.waiting(session, Job, Job.lane == lane):
                    lanes.add(lane)
            questions_wait = chats.waiting(session)
        for lane in lanes:
            if self.lanes[lane].idle:
                queue.tick(lane)
        if questions_wait and self.lanes["chat"].idle:  # not by a bell, which another worker might hear that cannot answer now
            threading.Thread(target=self.lanes["chat"].serve, args=(self.shutdown,), name="chat", daemon=True).start()

    def leave(self) -> None:
        """Say goodbye: what is left of our leases is free at once."""
        self.shutdown.set()
        self.speaker.close()
        with self.database.write() as session:
            progress.release_worker(session, self.id)
            chats.release_worker(session, self.id)
            for job in leases.owned_by(session, Job, self.id):
                run_jobs.give_back(session, job)
            workers.leave(session, self.id)


def find_devices(settings: Settings) -> tuple[list[dict[str, Any]], str | None]:
    """Device slots of this machine, and why it cannot train, if so. Asks the driver, so that no GPU library is imported here."""
    total = psutil.virtual_memory().total
    cpu = [{"slot": "cpu", "name": f"CPU, {os.cpu_count()} cores", "kind": "cpu", "memory_bytes": total}]
    problem = None if find_spec("torch") and find_spec("trl") else NO_TORCH
    if settings.device == "cpu":
        return cpu, problem
    gpus = [{"slot": gpu.slot, "name": gpu.name, "kind": "cuda", "memory_bytes": gpu.total} for gpu in memory.gpus()]
    if settings.device == "cuda" and not gpus:
        return [], problem or "LUTHIER_DEVICE is cuda, but nvidia-smi shows no GPU on this machine."
    return gpus or cpu, problem


def versions() -> dict[str, Any]:
    """Versions of what trains here, read without importing it."""
    found = {}
    for package in ("luthier", "torch", "transformers", "trl", "peft"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def drain(database: Database, settings: Settings, *, runs: bool = True) -> None:
    """Do everything that waits, here and now, through the real supervisor (for tests and one-off use)."""
    station = Station(database, settings)
    station.arrive()
    try:
        while run_jobs.one(database, settings, station.id, "cpu", station.shutdown) or (
            not station.problem and (station._chat("chat") or (runs and station._device(station.devices[0]["slot"])))
        ):
            pass
    finally:
        station.leave()
