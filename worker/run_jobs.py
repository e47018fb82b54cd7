"""Do one queued job: claim it, hold its lease while a child works, write its result in the transaction that ends it."""

from __future__ import annotations

import os
import shutil
import signal
from threading import Event
from typing import Any

from app import leases
from app.database import Database
from app.errors import StudioError
from app.jobs import service
from app.jobs.tables import Job
from app.leases import Claim, LeaseLost
from app.settings import Settings
from worker.allocator import preload_env
from worker.kinds import KINDS, Kind
from worker.process import Child
from worker.supervise import Holding, log, scratch, why


def one(database: Database, settings: Settings, worker_id: str, lane: str, shutdown: Event, slot: str | None = None) -> bool:
    """Claim and do the next job of a lane; False when none waits.

    Args:
        slot: the device it may use, in the lane of the devices.
    """
    with database.write() as session:
        mine = leases.claim(
            session, Job, worker_id=worker_id, lease_seconds=settings.lease_seconds, taken="running", where=Job.lane == lane
        )
    if mine is None:
        return False
    try:
        _do(database, settings, mine, shutdown, slot)
    except LeaseLost:
        log.warning("Job %s belongs to another worker now.", mine.id)
    return True


def _do(database: Database, settings: Settings, mine: Claim, shutdown: Event, slot: str | None) -> None:
    with database.read() as session:
        job = session.get(Job, mine.id)
        if job is None:
            return
        kind = KINDS.get(job.kind)
        try:
            spec = kind.spec(session, job) if kind else None
        except StudioError as error:
            spec, refusal = None, error.message
        else:
            refusal = f"This worker does not know jobs of kind “{job.kind}”; it may be older than the web server."
    if kind is None or spec is None:
        with database.write() as session:
            _fail(session, leases.hold(session, Job, mine), kind, refusal, "config")
        return
    folder = scratch(settings, f"{mine.id}-{mine.attempt}")
    try:
        spec = {"work": str(folder), **spec, "module": kind.child, "job_id": mine.id, "lease_seconds": settings.lease_seconds}
        told, environment = _on_device(settings, slot) if slot else ({}, None)
        child = Child({**spec, **told}, folder, environment)
        holding = Holding(database, settings, Job, mine, child, shutdown)
        holding.run(lambda messages: _write(database, mine, kind, messages), pausable=False)
        _end(database, mine, kind, child, holding, limited=bool(spec.get("memory_bytes")))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_device(settings: Settings, slot: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What a child that reckons on a device is told of it, and its environment, in which its GPU is number 0."""
    threads = settings.threads or os.cpu_count() or 1
    visible = "" if slot == "cpu" else slot.partition(":")[2] or "0"
    policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits sleeps, as in training
    environment = {**preload_env(), "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": policy}
    return {"device": "cpu" if slot == "cpu" else "cuda:0", "threads": threads}, {**environment, "CUDA_VISIBLE_DEVICES": visible}


def _write(database: Database, mine: Claim, kind: Kind, messages: list[dict[str, Any]]) -> None:
    news: dict[str, Any] = {}
    for message in messages:
        if message["kind"] == "progress":
            news = {"done": message["done"], "total": message["total"], "text": message["text"] or news.get("text", "")}
        elif message["kind"] == "phase":
            news = {**news, "text": message["text"]}
        elif message["kind"] == "log":
            log.info("%s: %s", mine.id, message["text"])
    if not news:
        return
    with database.write() as session:
        job: Job = leases.hold(session, Job, mine)
        job.progress = {**(job.progress or {}), **news}
        if kind.progress:
            kind.progress(session, job, job.progress)


def _end(database: Database, mine: Claim, kind: Kind, child: Child, holding: Holding, *, limited: bool) -> None:
    with database.write() as session:
        job: Job = leases.hold(session, Job, mine)
        if holding.outcome and holding.outcome["kind"] == "result":
            try:
                with session.begin_nested():
                    kind.done(session, job, holding.outcome["result"])
            except StudioError as error:
                _fail(session, job, kind, error.message, error.code)
                return
            service.finish(session, job, {})
            return
        code, reason = why(child, holding.outcome, holding.kill_reason)
        if limited and child.code in (-signal.SIGABRT, -signal.SIGSEGV):
            # A library that gets no memory aborts; another attempt would end the same way.
            code, reason = "memory", "This needed more memory than the limit allows."
        if code in ("killed", "stalled", "preempted"):
            if not service.give_back(session, job, counts=code != "preempted"):
                kind.failed(session, job, job.reason or reason, "killed")
            return
        _fail(session, job, kind, reason, code)


def _fail(session: Any, job: Job, kind: Kind | None, reason: str, code: str) -> None:
    if kind:
        kind.failed(session, job, reason, code)
    service.fail(session, job, reason, code)


def reap(session: Any) -> int:
    """Put jobs whose worker is gone back into the queue, or fail them when that happened too often."""
    jobs = leases.expired(session, Job)
    for job in jobs:
        give_back(session, job)
    return len(jobs)


def give_back(session: Any, job: Job) -> None:
    """One job of a dead worker."""
    if not service.give_back(session, job, counts=True):
        kind = KINDS.get(job.kind)
        if kind:
            kind.failed(session, job, job.reason or "The worker died.", "killed")
