"""The pages of exports: the list, the form, one export with its log and how to use it. What they show comes from the service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.checkpoints import service as checkpoints
from app.errors import Conflict, Invalid, NotFound
from app.exports import service
from app.exports.schemas import DTYPES, FORMATS, STEPS, ExportCreate, ways
from app.exports.tables import Export
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, page, pages_router

router = pages_router()

PAGE_ROWS = 100
_CHOICES = 200
_WRITERS = ("admin", "engineer")
_Text = Annotated[str, Form(max_length=200)]
_Short = Annotated[str, Query(max_length=100)]


@router.get("/exports")
def list_exports(request: Request, who: Reader, session: ReadSession, checkpoint: _Short = "", after: _Short = "") -> Response:
    """What was packed to take away, newest first."""
    found = service.list_exports(session, who.workspace_id, limit=PAGE_ROWS + 1, after=after or None, checkpoint_id=checkpoint or None)
    shown = found[:PAGE_ROWS]
    return page(
        request,
        "exports/list.html",
        who,
        exports=shown,
        older=shown[-1].id if len(found) > PAGE_ROWS else None,
        checkpoint=checkpoint,
        after=after,
        may_change=who.role in _WRITERS,
    )


@router.get("/exports/new")
def export_form(request: Request, who: Writer, session: ReadSession, checkpoint: _Short = "", format: _Short = "") -> Response:
    """The form that asks for an export."""
    return _form(request, who, session, {"checkpoint": checkpoint, "format": format, "dtype": "stored", "rank": ""}, {})


def _form(request: Request, who: Any, session: Session, values: dict[str, str], errors: dict[str, str]) -> Response:
    found = checkpoints.list_checkpoints(session, who.workspace_id, limit=_CHOICES, status="ready")
    if values["checkpoint"] and values["checkpoint"] not in {each.id for each in found}:
        try:
            found.insert(0, checkpoints.get(session, who.workspace_id, values["checkpoint"]))
        except NotFound as error:
            errors = {"checkpoint": error.message, **errors}
    chosen = next((each for each in found if each.id == values["checkpoint"]), None)
    if not values["format"]:
        values["format"] = "merged" if chosen is not None and chosen.kind != "adapter" else "adapter"
    return page(
        request,
        "exports/new.html",
        who,
        status=422 if errors else 200,
        checkpoints=found,
        values=values,
        formats=FORMATS,
        dtypes=DTYPES,
        errors={**dict.fromkeys(values, ""), **errors},
    )


@router.post("/exports")
def create_export(
    request: Request,
    who: Writer,
    session: WriteSession,
    checkpoint: _Text = "",
    format: _Text = "",
    dtype: _Text = "stored",
    rank: _Text = "",
) -> Response:
    """Queue an export; a field that cannot be used comes back with the form."""
    values = {"checkpoint": checkpoint, "format": format, "dtype": dtype, "rank": rank.strip()}
    try:
        asked = ExportCreate.model_validate({name: value for name, value in values.items() if value or name != "rank"})
        export = service.create(session, who.workspace_id, who.user_id, asked)
    except ValidationError as error:
        words = {"checkpoint": "Choose a checkpoint.", "format": "Choose adapter or merged.", "dtype": "Choose one of the four."}
        words["rank"] = "Must be a whole number, at least 1, or empty."
        return _form(request, who, session, values, {name: words[name] for name in {str(each["loc"][0]) for each in error.errors()}})
    except (Invalid, Conflict, NotFound) as error:
        return _form(request, who, session, values, {error.field or "checkpoint": error.message})
    return hx_redirect(request, f"/exports/{export.id}")


@router.get("/exports/{export_id}")
def show(request: Request, who: Reader, session: ReadSession, export_id: str) -> Response:
    """One export: its file, its log, how to use it."""
    export = service.get(session, who.workspace_id, export_id)
    return page(request, "exports/detail.html", who, may_change=who.role in _WRITERS, **_context(export))


def _context(export: Export) -> dict[str, Any]:
    progress = export.progress or {}
    begun = bool(progress.get("total"))
    return {
        "export": export,
        "ways": ways(export) if export.status == "ready" else [],
        "about": FORMATS[export.format],
        "share": float(progress.get("done") or 0) / float(progress["total"]) if begun else 0.0,
        "steps": STEPS,
    }


@router.get("/exports/{export_id}/progress")
def progress(request: Request, who: Reader, session: ReadSession, export_id: str) -> Response:
    """How far an export is; when it has ended, the browser loads the page anew."""
    export = service.get(session, who.workspace_id, export_id)
    if export.status != "exporting":
        return hx_redirect(request, f"/exports/{export.id}")
    return page(request, "exports/_progress.html", who, **_context(export))


@router.get("/exports/{export_id}/row")
def row(request: Request, who: Reader, session: ReadSession, export_id: str) -> Response:
    """A line of the list, asked for again while the export goes on."""
    return page(request, "exports/_row.html", who, export=service.get(session, who.workspace_id, export_id))


@router.post("/exports/{export_id}/delete")
def delete(request: Request, who: Writer, session: WriteSession, export_id: str) -> Response:
    """Delete an export and its file."""
    service.delete(session, who.workspace_id, export_id)
    return hx_redirect(request, "/exports")
