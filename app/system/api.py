"""REST of the studio's state: `GET /system`, and cancelling a job."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from app.system import service
from app.system.schemas import SystemOut
from app.web import Reader, ReadSession, Writer, WriteSession, api_router, settings_of

router = api_router("system")


@router.get("/system", response_model=SystemOut)
def get_system(who: Reader, session: ReadSession, request: Request) -> Any:
    """Workers and their devices, the queue, disk, database, versions, recent failures. Paths and addresses are for admins."""
    return service.overview(session, who, settings_of(request))


@router.post("/jobs/{job_id}/cancel")
def cancel_job(who: Writer, session: WriteSession, job_id: str) -> dict[str, Any]:
    """Stop a job (an import, a count, an export) for good."""
    job = service.cancel_job(session, who.workspace_id, job_id)
    return {"id": job.id, "kind": job.kind, "status": job.status, "reason": job.reason}
