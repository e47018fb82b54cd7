"""REST of exports: ask for one, follow it, fetch the file."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import FileResponse

from app.exports import service
from app.exports.schemas import ExportCreate, ExportOut, export_out
from app.web import After, Limit, Page, Reader, ReadSession, Writer, WriteSession, api_router, idempotent, paged

router = api_router("exports")


@router.post("/exports", status_code=201, response_model=ExportOut)
def create_export(who: Writer, session: WriteSession, request: Request, body: ExportCreate) -> Any:
    """Have a checkpoint packed into one file; `status` goes exporting → ready or failed."""

    def create() -> dict[str, Any]:
        export = service.create(session, who.workspace_id, who.user_id, body)
        session.refresh(export)
        return export_out(export)

    return idempotent(request, session, who, body, create)


@router.get("/exports", response_model=Page[ExportOut])
def list_exports(
    who: Reader,
    session: ReadSession,
    limit: Limit = 50,
    after: After = None,
    checkpoint: Annotated[str | None, Query(description="Only those of this checkpoint.")] = None,
) -> Any:
    """Exports of the workspace, newest first."""
    found = service.list_exports(session, who.workspace_id, limit=limit + 1, after=after, checkpoint_id=checkpoint)
    return paged([export_out(export) for export in found], limit, lambda item: str(item["id"]))


@router.get("/exports/{export_id}", response_model=ExportOut)
def get_export(who: Reader, session: ReadSession, export_id: str) -> Any:
    """One export."""
    return export_out(service.get(session, who.workspace_id, export_id))


@router.get("/exports/{export_id}/file", response_class=FileResponse)
def get_file(who: Reader, session: ReadSession, export_id: str) -> FileResponse:
    """The packed file. With `Range` a part of it: a download that broke off can be resumed."""
    export = service.get(session, who.workspace_id, export_id)
    return FileResponse(
        service.file_of(export),
        media_type="application/zip",
        filename=export.file_name,
        headers={"Content-Security-Policy": "sandbox", "X-Content-SHA256": export.sha256 or ""},
    )


@router.delete("/exports/{export_id}", status_code=204)
def delete_export(who: Writer, session: WriteSession, export_id: str) -> Response:
    """Delete an export and its file; one that is going on is stopped."""
    service.delete(session, who.workspace_id, export_id)
    return Response(status_code=204)
