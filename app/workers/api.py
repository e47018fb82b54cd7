"""REST of workers: `GET /workers`."""

from __future__ import annotations

from typing import Any

from app.database import iso
from app.settings import get_settings
from app.web import Reader, ReadSession, api_router
from app.workers import service

router = api_router("workers")


@router.get("/workers")
def list_workers(who: Reader, session: ReadSession) -> list[dict[str, Any]]:
    """Workers that gave a sign of life within a lease, and what each works on in this workspace: a run, jobs, answers of chats."""
    doing = service.doing(session, who.workspace_id)
    anywhere = service.doing(session)
    return [
        {
            "id": worker.id,
            "host": worker.host.partition("/")[0],
            "gpus": [device for device in worker.devices if device.get("kind") == "cuda"],
            "devices": [{**device, "used_bytes": service.used_bytes(worker, number)} for number, device in enumerate(worker.devices)],
            "lanes": worker.lanes,
            "memory": worker.memory,
            "versions": worker.versions,
            "problem": worker.problem,
            "status": "busy" if worker.id in anywhere else "idle",
            "run_id": doing.get(worker.id, {}).get("run_id"),
            "jobs": doing.get(worker.id, {}).get("jobs", []),
            "answers": doing.get(worker.id, {}).get("answers", 0),
            "heartbeat_at": iso(worker.heartbeat_at),
        }
        for worker in service.alive(session, get_settings().lease_seconds)
    ]
