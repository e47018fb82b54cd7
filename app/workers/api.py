"""REST of workers: `GET /workers`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from app.database import Base, iso
from app.settings import get_settings
from app.web import Reader, ReadSession, api_router
from app.workers import service

router = api_router("workers")


@router.get("/workers")
def list_workers(who: Reader, session: ReadSession) -> list[dict[str, Any]]:
    """Workers that gave a sign of life within a lease, and the run each holds."""
    runs = Base.metadata.tables["runs"]
    held = {
        str(owner).partition("/")[0]: run_id
        for run_id, owner in session.execute(
            select(runs.c.id, runs.c.lease_owner).where(runs.c.lease_owner.is_not(None), runs.c.workspace_id == who.workspace_id)
        )
    }
    return [
        {
            "id": worker.id,
            "host": worker.host.partition("/")[0],
            "gpus": [device for device in worker.devices if device.get("kind") == "cuda"],
            "devices": worker.devices,
            "memory": worker.memory,
            "versions": worker.versions,
            "problem": worker.problem,
            "status": "busy" if worker.id in held else "idle",
            "run_id": held.get(worker.id),
            "heartbeat_at": iso(worker.heartbeat_at),
        }
        for worker in service.alive(session, get_settings().lease_seconds)
    ]
