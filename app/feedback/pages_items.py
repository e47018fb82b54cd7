"""The items of a project for its owner: the list with filters, and one item with where its answers came from and every vote."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import Conflict, Invalid, StudioError
from app.feedback import form, service, views
from app.feedback.schemas import FILTERS, FLAG_REASONS
from app.feedback.tables import Item, Project
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router

router = pages_router()

PAGE_ROWS = 50
MOST_EXTRA = 20
_Short = Annotated[str, Query(max_length=200)]


def _frame(who: Principal, project: Project) -> dict[str, Any]:
    return {"project": project, "tab": "items", "may_change": who.role in ("admin", "engineer"), "kind": form.KINDS[project.kind]}


@router.get("/feedback/{project_id}/items")
def list_items(
    request: Request, who: Reader, session: ReadSession, project_id: str, status: _Short = "", q: _Short = "", after: _Short = ""
) -> Response:
    """Items of a project, those of one state, or those whose prompt holds a text."""
    project = service.get_project(session, who.workspace_id, project_id)
    status = status if status in views.STATUSES else ""
    found = service.page_items(session, project, after or None, PAGE_ROWS + 1, status or None, q.strip() or None)
    shown = found[:PAGE_ROWS]
    context = {
        "items": shown,
        "excerpts": {each.id: views.excerpt(each) for each in shown},
        "given": views.given(session, [each.id for each in shown]),
        "older": shown[-1].id if len(found) > PAGE_ROWS else None,
        "reasons": {**FLAG_REASONS, **FILTERS},
        "statuses": views.STATUSES,
        "chosen": status,
        "q": q,
        "after": after,
        **_frame(who, project),
    }
    return page(request, "feedback/_items.html" if is_partial(request) else "feedback/items.html", who, **context)


@router.get("/feedback/{project_id}/items/{item_id}")
def show_item(request: Request, who: Reader, session: ReadSession, project_id: str, item_id: str) -> Response:
    """One item: its prompt, its answers with their sources, and who said what of them."""
    project = service.get_project(session, who.workspace_id, project_id)
    return _show_item(request, who, session, project, service.get_item(session, project, item_id))


def _show_item(
    request: Request, who: Principal, session: Session, project: Project, item: Item, error: StudioError | None = None
) -> Response:
    answers = service.responses_of(session, [item.id]).get(item.id, [])
    return page(
        request,
        "feedback/item.html",
        who,
        status=error.status if error else 200,
        item=item,
        answers=answers,
        votes=views.said(session, project, item, answers),
        given=views.given(session, [item.id]).get(item.id, (0, 0)),
        reasons={**FLAG_REASONS, **FILTERS},
        error=error,
        excerpt=views.excerpt(item),
        **_frame(who, project),
    )


@router.post("/feedback/{project_id}/items/{item_id}/remove")
def remove_item(request: Request, who: Writer, session: WriteSession, project_id: str, item_id: str) -> Response:
    """Take an item out of the queue and of what is trained on; its votes stay."""
    project = service.get_project(session, who.workspace_id, project_id)
    item = service.get_item(session, project, item_id)
    try:
        service.remove_item(session, project, item.id)
    except (Conflict, Invalid) as error:
        return _show_item(request, who, session, project, item, error)
    return hx_redirect(request, f"/feedback/{project.id}/items/{item.id}")


@router.post("/feedback/{project_id}/items/{item_id}/reopen")
def reopen_item(
    request: Request, who: Writer, session: WriteSession, project_id: str, item_id: str, extra: Annotated[str, Form(max_length=20)] = "1"
) -> Response:
    """Ask for more ratings of an item."""
    project = service.get_project(session, who.workspace_id, project_id)
    item = service.get_item(session, project, item_id)
    try:
        if not extra.strip().isdecimal() or not 1 <= int(extra) <= MOST_EXTRA:
            raise Invalid(f"Ask for 1 to {MOST_EXTRA} more ratings.", field="extra")
        service.reopen_item(session, project, item.id, int(extra))
    except (Conflict, Invalid) as error:
        return _show_item(request, who, session, project, item, error)
    return hx_redirect(request, f"/feedback/{project.id}/items/{item.id}")
