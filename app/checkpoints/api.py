"""REST of checkpoints: list, read, import, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import FileResponse

from app.checkpoints import files, service
from app.checkpoints.schemas import CheckpointCreate, CheckpointEdit, CheckpointOut, FileOut, checkpoint_out
from app.web import After, Limit, Page, Reader, ReadSession, Writer, WriteSession, api_router, idempotent, paged

router = api_router("checkpoints")


@router.post("/checkpoints", status_code=201, response_model=CheckpointOut)
def import_checkpoint(who: Writer, session: WriteSession, request: Request, body: CheckpointCreate) -> Any:
    """Queue the import of weights (safetensors folder, GGUF file or hub id); `status` goes importing → ready or failed."""
    return idempotent(
        request, session, who, body, lambda: checkpoint_out(service.create_import(session, who.workspace_id, who.user_id, who.role, body))
    )


@router.get("/checkpoints", response_model=Page[CheckpointOut])
def list_checkpoints(
    who: Reader,
    session: ReadSession,
    limit: Limit = 50,
    after: After = None,
    kind: Annotated[str | None, Query(description="base, adapter, full, reward or classifier.")] = None,
    status: Annotated[str | None, Query(description="importing, ready, failed or quarantined.")] = None,
    run: Annotated[str | None, Query(description="Only those of this run.")] = None,
    q: Annotated[str | None, Query(description="Part of the name.")] = None,
) -> Any:
    """Checkpoints of the workspace, newest first."""
    found = service.list_checkpoints(
        session, who.workspace_id, limit=limit + 1, after=after, kinds=[kind] if kind else None, status=status, run_id=run, q=q
    )
    return paged([checkpoint_out(checkpoint) for checkpoint in found], limit, lambda item: str(item["id"]))


@router.get("/checkpoints/{checkpoint_id}", response_model=CheckpointOut)
def get_checkpoint(who: Reader, session: ReadSession, checkpoint_id: str) -> Any:
    """One checkpoint."""
    return checkpoint_out(service.get(session, who.workspace_id, checkpoint_id))


@router.patch("/checkpoints/{checkpoint_id}", response_model=CheckpointOut)
def edit_checkpoint(who: Writer, session: WriteSession, checkpoint_id: str, body: CheckpointEdit) -> Any:
    """Rename a checkpoint, or write notes on it."""
    return checkpoint_out(service.edit(session, who.workspace_id, checkpoint_id, body))


@router.get("/checkpoints/{checkpoint_id}/files", response_model=list[FileOut])
def list_files(who: Reader, session: ReadSession, checkpoint_id: str) -> Any:
    """The files of a checkpoint, as its manifest names them. An export (`POST /exports`) packs those of use elsewhere into one."""
    checkpoint = service.get(session, who.workspace_id, checkpoint_id)
    return [files.file_out(checkpoint, entry) for entry in files.listed(checkpoint)]


@router.get("/checkpoints/{checkpoint_id}/download", response_class=FileResponse)
def download_file(
    who: Reader, session: ReadSession, checkpoint_id: str, file: Annotated[str, Query(max_length=255, description="Its name.")]
) -> FileResponse:
    """One file of a checkpoint: weights, tokenizer or configuration. With `Range` a part of it."""
    checkpoint = service.get(session, who.workspace_id, checkpoint_id)
    return FileResponse(
        files.place_of(checkpoint, file),
        media_type="application/octet-stream",
        filename=file,
        headers={"Content-Security-Policy": "sandbox", "Content-Encoding": "identity"},
    )


@router.delete("/checkpoints/{checkpoint_id}", status_code=204)
def delete_checkpoint(who: Writer, session: WriteSession, checkpoint_id: str) -> Response:
    """Delete a checkpoint and its files; 409 while runs or other checkpoints need it."""
    service.delete(session, who.workspace_id, checkpoint_id)
    return Response(status_code=204)
