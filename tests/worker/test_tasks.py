"""Lanes, heartbeats and the sweep of a worker: nothing waits behind a slow job, nothing held by a dead process stays held."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from sqlalchemy import update

from app import leases, queue
from app.database import now
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.runs import progress
from app.runs.tables import Run
from app.workers import service as workers
from app.workers.tables import Worker
from tests.factories import add_run
from worker import run_jobs, tasks
from worker.tasks import Lane, Station


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lanes the bell was rung for."""
    rung: list[str] = []
    monkeypatch.setattr(queue, "tick", rung.append)
    return rung


def test_a_bell_that_rings_while_all_slots_work_is_remembered() -> None:
    started, go_on, done = threading.Event(), threading.Event(), []
    waiting = [1]

    def work(slot: str) -> bool:
        if not waiting:
            return False
        done.append(waiting.pop())
        started.set()
        go_on.wait(5)
        return True

    lane, shutdown = Lane("cpu", ["one"], work), threading.Event()
    thread = threading.Thread(target=lane.serve, args=(shutdown,))
    thread.start()
    started.wait(5)
    assert not lane.idle
    waiting.append(2)
    lane.serve(shutdown)  # returns at once: the slot is taken
    go_on.set()
    thread.join(5)
    assert done == [1, 2] and lane.idle


def test_an_upload_does_not_wait_behind_a_run() -> None:
    release, served = threading.Event(), threading.Event()
    shutdown = threading.Event()
    device = Lane("device", ["cpu"], lambda slot: release.wait(10) and False)
    cpu = Lane("cpu", ["a", "b"], lambda slot: served.set() or False)
    training = threading.Thread(target=device.serve, args=(shutdown,))
    training.start()
    cpu.serve(shutdown)
    assert served.is_set() and training.is_alive()
    release.set()
    training.join(5)


def _dead_worker(stack: Any) -> str:
    """A worker row of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    mark = workers.process_mark(process.pid)
    process.wait()
    with stack.database.write() as session:
        worker = workers.register(session, lanes=["device", "cpu"], devices=[], versions={}, problem=None)
        worker.process = mark or f"{process.pid}:1.0"
        return worker.id


def test_a_restarted_worker_frees_at_once_what_dead_processes_of_its_host_hold(stack: Any, ticks: list[str]) -> None:
    dead = _dead_worker(stack)
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    with stack.database.write() as session:
        run_id = add_run(session, stack.workspace_id).id
        job_id = jobs.enqueue(session, workspace_id=stack.workspace_id, kind="x").id
        mine = progress.claim(session, dead, 30)
        assert mine and leases.claim(session, Job, worker_id=dead, lease_seconds=30, taken="running")
        progress.begin(session, mine, 0, workers.process_mark(left.pid))
    station = Station(stack.database, stack.settings)
    station.arrive()
    with stack.database.read() as session:
        assert session.get_one(Run, run_id).status == "queued"
        assert session.get_one(Job, job_id).status == "queued"
        assert session.get(Worker, dead) is None
    assert left.wait(5) == -9, "the trainer of the dead worker still runs"
    assert "device" in ticks and "cpu" in ticks


def test_a_worker_of_another_host_is_judged_by_its_lease_only(stack: Any, ticks: list[str]) -> None:
    dead = _dead_worker(stack)
    with stack.database.write() as session:
        session.execute(update(Worker).where(Worker.id == dead).values(host="elsewhere"))
        run_id = add_run(session, stack.workspace_id).id
        assert progress.claim(session, dead, 30)
    station = Station(stack.database, stack.settings)
    station.arrive()
    station.sweep()
    with stack.database.read() as session:
        assert session.get_one(Run, run_id).status == "preparing"
    with stack.database.write() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_until=now() - 1))
    station.sweep()
    with stack.database.read() as session:
        assert session.get_one(Run, run_id).status == "queued"


def test_a_wiped_queue_is_healed_by_the_sweep(stack: Any, ticks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, stack.workspace_id, dispatched_at=now()).id
        jobs.enqueue(session, workspace_id=stack.workspace_id, kind="x")
    ticks.clear()
    devices, _ = tasks.find_devices(stack.settings)
    monkeypatch.setattr(tasks, "find_devices", lambda _settings: (devices, None))  # also where torch is not installed
    station = Station(stack.database, stack.settings)
    station.arrive()
    station.sweep()
    assert "cpu" in ticks and "device" not in ticks, "a run that was just rung for needs no second bell"
    with stack.database.write() as session:
        session.execute(update(Run).where(Run.id == run_id).values(dispatched_at=now() - 31))
    station.sweep()
    assert "device" in ticks


def test_without_torch_a_worker_says_so_on_the_runs_that_wait(stack: Any, ticks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)
    with stack.database.write() as session:
        run_id = add_run(session, stack.workspace_id).id
    station = Station(stack.database, stack.settings)
    station.arrive()
    station.sweep()
    with stack.database.read() as session:
        run = session.get_one(Run, run_id)
        assert run.status == "queued" and run.reason_code == "no_worker" and "pip install" in (run.reason or "")
    monkeypatch.undo()
    if Station(stack.database, stack.settings).problem:
        pytest.skip("torch is not installed here, so no worker that can train can arrive")
    able = Station(stack.database, stack.settings)
    able.arrive()
    able.sweep()
    with stack.database.read() as session:
        assert session.get_one(Run, run_id).reason is None


def test_a_job_whose_process_dies_three_times_fails_in_words(stack: Any, ticks: list[str]) -> None:
    with stack.database.write() as session:
        job_id = jobs.enqueue(session, workspace_id=stack.workspace_id, kind="x").id
    for _ in range(3):
        with stack.database.write() as session:
            session.execute(update(Job).values(not_before=None))
            assert leases.claim(session, Job, worker_id="w", lease_seconds=-1, taken="running")
        time.sleep(0.01)
        with stack.database.write() as session:
            assert run_jobs.reap(session) == 1
    with stack.database.read() as session:
        job = session.get_one(Job, job_id)
        assert job.status == "failed" and "3 times" in (job.reason or "")
