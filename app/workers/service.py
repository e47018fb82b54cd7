"""Register workers, keep their heartbeat, find the dead ones. Does not start any."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.database import Base, new_id, now
from app.settings import get_settings
from app.workers.tables import Worker


def host_mark() -> str:
    """This host and process namespace: processes with the same mark can judge each other's process ids."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()}{namespace and '/' + namespace}"


def process_mark(pid: int) -> str | None:
    """`pid:start time` of a living process, or None."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return f"{pid}:{process.create_time():.2f}"
    except psutil.Error:
        return None


def is_alive(mark: str) -> bool:
    """Whether the process of a mark still runs on this host."""
    return process_mark(int(mark.partition(":")[0])) == mark


def register(session: Session, *, lanes: list[str], devices: list[Any], versions: dict[str, Any], problem: str | None) -> Worker:
    """Add this process as a worker."""
    worker = Worker(
        id=new_id("worker"),
        host=host_mark(),
        process=process_mark(os.getpid()) or f"{os.getpid()}:0",
        lanes=lanes,
        devices=devices,
        memory=memory(),
        versions=versions,
        problem=problem,
    )
    session.add(worker)
    session.flush()
    return worker


def memory() -> dict[str, int]:
    """Memory of this host, in bytes."""
    found = psutil.virtual_memory()
    return {"total": found.total, "used": found.total - found.available}


def beat(session: Session, worker_id: str, state: dict[str, Any] | None = None) -> bool:
    """Renew a worker's heartbeat and say what it holds; False when its row is gone and it has to register anew."""
    worker = session.get(Worker, worker_id)
    if worker is None:
        return False
    worker.heartbeat_at = now()
    worker.memory = memory()
    worker.state = state or worker.state
    session.flush()
    return True


def leave(session: Session, worker_id: str) -> None:
    """Take a worker off the list."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def dead_on_this_host(session: Session) -> list[str]:
    """Ids of workers of this host whose process is gone."""
    rows = session.scalars(select(Worker).where(Worker.host == host_mark()))
    return [worker.id for worker in rows if not is_alive(worker.process)]


def forget_silent(session: Session, seconds: float) -> None:
    """Remove workers that have been silent for long; their leases ran out before."""
    session.execute(delete(Worker).where(Worker.heartbeat_at < now() - seconds))


def list_workers(session: Session) -> list[Worker]:
    """All workers that count as there, oldest first."""
    return list(session.scalars(select(Worker).order_by(Worker.id)))


def alive(session: Session, seconds: float) -> list[Worker]:
    """Workers that gave a sign of life within `seconds`."""
    return list(session.scalars(select(Worker).where(Worker.heartbeat_at >= now() - seconds).order_by(Worker.id)))


def doing(session: Session, workspace_id: str | None = None) -> dict[str, dict[str, Any]]:
    """What each worker holds, by its id: `{run_id, run, jobs: [{id, kind}], answers}`; of one workspace, or of all."""
    tables = Base.metadata.tables
    found: dict[str, dict[str, Any]] = {}

    def held(name: str, *columns: str) -> Any:
        table = tables[name]
        query = select(table.c.lease_owner, *(table.c[column] for column in columns)).where(table.c.lease_owner.is_not(None))
        return session.execute(query if workspace_id is None else query.where(table.c.workspace_id == workspace_id))

    def of(owner: str) -> dict[str, Any]:
        return found.setdefault(owner.partition("/")[0], {"run_id": None, "run": None, "jobs": [], "answers": 0})

    for owner, run_id, name in held("runs", "id", "name"):
        of(owner).update(run_id=run_id, run=name)
    for owner, job_id, kind in held("jobs", "id", "kind"):
        of(owner)["jobs"].append({"id": job_id, "kind": kind})
    for owner, _ in held("chat_answers", "id"):
        of(owner)["answers"] += 1
    return found


def device(session: Session) -> dict[str, Any] | None:
    """What the foot of every page shows: the first device of the newest living worker, with the memory in use where it is known."""
    found = session.scalars(
        select(Worker).where(Worker.heartbeat_at >= now() - get_settings().lease_seconds).order_by(Worker.id.desc()).limit(1)
    ).first()
    if found is None or not found.devices:
        return None
    first = found.devices[0]
    return {
        "name": first["name"],
        "kind": first["kind"],
        "count": len(found.devices),
        "total": first.get("memory_bytes"),
        "used": used_bytes(found, 0),
        "problem": found.problem,
    }


def used_bytes(worker: Worker, number: int) -> int | None:
    """Memory in use on a worker's device, where it was measured."""
    if worker.devices[number]["kind"] == "cpu":
        return worker.memory.get("used")
    measured = (worker.state or {}).get("devices") or []
    return measured[number].get("used") if number < len(measured) else None
