"""The items of a project for its owner: the list with filters, and one item with where its answers came from and every vote."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Form, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import Conflict, Invalid, StudioError
from app.feedback import form, service, views
from app.feedback.schemas import FILTERS, FLAG_REASONS, Gold
from app.feedback.tables import Item, Project
from app.feedback.tables import Response as Answer
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router

router = pages_router()

PAGE_ROWS = 50
MOST_EXTRA = 20
PROPOSED = "proposed"
"""Shown as a state of items: they could be gold."""
COUNTED = 100_000
"""Ratings up to which the list of items counts those; with more only who asks for them waits for it."""
_Short = Annotated[str, Query(max_length=200)]


def _frame(who: Principal, project: Project) -> dict[str, Any]:
    return {"project": project, "tab": "items", "may_change": who.role in ("admin", "engineer"), "kind": form.KINDS[project.kind]}


@router.get("/feedback/{project_id}/items")
def list_items(
    request: Request, who: Reader, session: ReadSession, project_id: str, status: _Short = "", q: _Short = "", after: _Short = ""
) -> Response:
    """Items of a project, those of one state, or those whose prompt holds a text."""
    project = service.get_project(session, who.workspace_id, project_id)
    status = status if status in (*views.STATUSES, PROPOSED) else ""
    asked = status == PROPOSED or project.done <= COUNTED
    could = [each.item_id for each in service.proposed_gold(session, project)] if asked else None
    if status == PROPOSED:
        found = service.some_items(session, project, could or [])[:PAGE_ROWS]
    else:
        found = service.page_items(session, project, after or None, PAGE_ROWS + 1, status or None, q.strip() or None)
    shown = found[:PAGE_ROWS]
    context = {
        "items": shown,
        "excerpts": {each.id: views.excerpt(each) for each in shown},
        "given": views.given(session, [each.id for each in shown]),
        "older": shown[-1].id if len(found) > PAGE_ROWS else None,
        "reasons": {**FLAG_REASONS, **FILTERS},
        "statuses": views.STATUSES,
        "could_be_gold": None if could is None else len(could),
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
        right=_right(session, project, item, answers),
        given=views.given(session, [item.id]).get(item.id, (0, 0)),
        reasons={**FLAG_REASONS, **FILTERS},
        error=error,
        excerpt=views.excerpt(item),
        **_frame(who, project),
    )


_PREFERENCES = {
    "-3": "Answer 1 much better",
    "-2": "Answer 1 better",
    "-1": "Answer 1 slightly better",
    "0": "About the same",
    "1": "Answer 2 slightly better",
    "2": "Answer 2 better",
    "3": "Answer 2 much better",
}
_FIELDS = {"pair": "preference", "single": "score", "rank": "best"}


def _right(session: Session, project: Project, item: Item, answers: list[Answer]) -> dict[str, Any]:
    """What the form of the right answer shows: the choices, the one that holds or is proposed, and by how many."""
    if project.kind == "pair":
        choices = {
            value: words.replace("better", "worse") if project.direction == "worse" else words for value, words in _PREFERENCES.items()
        }
    elif project.kind == "single":
        choices = {"1": "Good", "0": "Bad"} if project.scale == "thumbs" else {str(points): f"{points} of 5" for points in range(1, 6)}
    else:
        word = "worst" if project.direction == "worse" else "best"
        choices = {str(each.place): f"Answer {each.place + 1} is the {word}" for each in answers if each.finish != "edited"}
    could = service.agreed_gold(session, project, item.id)
    holds = item.gold or (could.gold.model_dump() if could else {})
    value = holds.get(_FIELDS[project.kind])
    return {"choices": choices, "chosen": "" if value is None else f"{value:g}", "raters": could.raters if could else 0}


@router.post("/feedback/{project_id}/items/{item_id}/gold")
def make_gold(
    request: Request,
    who: Writer,
    session: WriteSession,
    project_id: str,
    item_id: str,
    answer: Annotated[str, Form(max_length=10)] = "",
    why: Annotated[str, Form(max_length=2000)] = "",
    use: Annotated[str, Form(max_length=10)] = "gold",
) -> Response:
    """Give an item a right answer: hidden among the others from now on, or for the practice round."""
    project = service.get_project(session, who.workspace_id, project_id)
    item = service.get_item(session, project, item_id)
    there = service.responses_of(session, [item.id])[item.id]
    try:
        if answer not in _right(session, project, item, there)["choices"]:
            raise Invalid("Choose the right answer: it is what raters are held against.", field="answer")
        kept = {"tolerance": item.gold["tolerance"]} if item.gold and "tolerance" in item.gold else {}
        gold = Gold.model_validate({_FIELDS[project.kind]: int(answer), "why": why, **kept})
        service.mark_gold(session, project, item.id, gold, practice=use == "practice")
    except (Conflict, Invalid) as error:
        return _show_item(request, who, session, project, item, error)
    return hx_redirect(request, f"/feedback/{project.id}/items/{item.id}")


@router.post("/feedback/{project_id}/items/{item_id}/ordinary")
def make_ordinary(request: Request, who: Writer, session: WriteSession, project_id: str, item_id: str) -> Response:
    """Make a gold item an ordinary one again."""
    project = service.get_project(session, who.workspace_id, project_id)
    item = service.get_item(session, project, item_id)
    try:
        service.unmark_gold(session, project, item.id)
    except (Conflict, Invalid) as error:
        return _show_item(request, who, session, project, item, error)
    return hx_redirect(request, f"/feedback/{project.id}/items/{item.id}")


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
