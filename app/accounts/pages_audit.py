"""The audit log for admins: a page with filters, and the same as CSV. An admin of one workspace sees what concerns it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from app.accounts import audit
from app.accounts.pages_own import section
from app.accounts.schemas import Principal
from app.web import Admin, ReadSession, download, pages_router

router = pages_router()

Word = Annotated[str, Query(max_length=200)]
PIECE = 50
CSV_ROWS = 100_000


def _filters(who: Principal, actor: str, action: str, subject: str) -> dict[str, Any]:
    workspace_id = None if who.studio else who.workspace_id
    return {"workspace_id": workspace_id, "actor": actor.strip(), "action": action.strip(), "subject": subject.strip()}


@router.get("/settings/audit")
def show_log(
    request: Request,
    who: Admin,
    session: ReadSession,
    actor: Word = "",
    action: Word = "",
    subject: Word = "",
    after: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
) -> HTMLResponse:
    """Who did what, newest first."""
    asked = _filters(who, actor, action, subject)
    found = audit.entries(session, **asked, limit=PIECE + 1, after=after)
    return section(
        request,
        "audit",
        who,
        entries=found[:PIECE],
        older=found[PIECE - 1].number if len(found) > PIECE else None,
        after=after,
        filters={"actor": actor, "action": action, "subject": subject},
        nouns=audit.nouns(session),
        chain=audit.check(session) if who.studio and "check" in request.query_params else None,
    )


@router.get("/settings/audit.csv")
def log_as_csv(who: Admin, session: ReadSession, actor: Word = "", action: Word = "", subject: Word = "") -> StreamingResponse:
    """The entries that match, at most 100,000, as CSV."""
    found = audit.entries(session, **_filters(who, actor, action, subject), limit=CSV_ROWS)
    return download(iter([piece.encode() for piece in audit.as_csv(found)]), "audit.csv", "text/csv; charset=utf-8")
