"""The page on which people rate: one item after another, blind, by keys or by plain forms. What is said is taken by `votes`."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from app.accounts.schemas import Principal
from app.errors import BadRequest, Conflict, Invalid, NotFound
from app.feedback import service
from app.feedback.differences import differences
from app.feedback.schemas import FLAG_REASONS, SKIP_REASONS, Done, Task, Vote
from app.feedback.tables import Project, Rater, Rating
from app.web import Person, ReadSession, WriteSession, is_partial, page, pages_router, see_other, unrecorded

router = pages_router()
GRADES = (
    (-3, "A much better"),
    (-2, "A better"),
    (-1, "A slightly"),
    (0, "Same"),
    (1, "B slightly"),
    (2, "B better"),
    (3, "B much better"),
)
_ROLES = ("admin", "engineer", "rater")


async def _fields(request: Request) -> FormData:
    return await request.form()


Fields = Annotated[FormData, Depends(_fields)]
Ahead = Annotated[int, Query(ge=0, le=9)]


def _key(request: Request, fields: FormData) -> str:
    key = request.headers.get("idempotency-key") or str(fields.get("key", ""))
    if not 1 <= len(key) <= 255:
        raise BadRequest("The vote carries no key, so it could be counted twice. Reload the page and vote again.")
    return key


def _rater(session: Session, who: Principal, project_id: str, *, voting: bool = False) -> tuple[Project, Rater]:
    project = service.get_project(session, who.workspace_id, project_id)
    return project, service.rater_for(session, project, who, voting=voting)


def _whole(fields: FormData, name: str) -> int | None:
    text = str(fields.get(name) or "")
    return int(text) if text.isdecimal() and len(text) < 12 else None


def _vote(fields: FormData) -> Vote:
    """A vote as a form says it.

    Raises:
        Invalid: nothing was chosen, or something that is no answer.
    """
    said: dict[str, Any] = {"comment": fields.get("comment") or "", "better": fields.get("better") or None, "labels": {}}
    said |= {name: _whole(fields, name) for name in ("active_ms", "wall_ms")}
    chosen = str(fields.get("preference") or "")
    if chosen:
        said["preference"] = int(chosen) if chosen.lstrip("-").isdecimal() else chosen
    if fields.get("score"):
        said["score"] = fields["score"]
    ranks: dict[int, list[str]] = {}
    for name, value in fields.multi_items():
        if name.startswith("rank.") and str(value).isdecimal():
            ranks.setdefault(int(str(value)), []).append(name.removeprefix("rank."))
        elif name.startswith("label.") and value:
            key, _, response = name.removeprefix("label.").partition(".")
            if response:
                said["labels"].setdefault(key, {})[response] = value
            else:
                said["labels"][key] = value
    if ranks:
        said["ranking"] = [ranks[rank] for rank in sorted(ranks)]
    try:
        return Vote.model_validate(said)
    except ValueError:
        raise Invalid("This is not an answer to the question. Choose one of the buttons.", field="preference") from None


def _shown(session: Session, project: Project, rater: Rater, task: Task | None, done: Done | None = None) -> dict[str, Any]:
    """What the page and its fragment show; of a response only its id and its text."""
    midnight = time.time() // 86_400 * 86_400
    today = select(func.count()).select_from(Rating).where(Rating.project_id == project.id, Rating.at >= midnight)
    apart = differences(task.responses[0].text, task.responses[1].text) if task and project.kind == "pair" else None
    return {
        "project": project,
        "task": task,
        "told": done,
        "rater": rater,
        "apart": apart,
        "grades": GRADES,
        "skips": SKIP_REASONS,
        "flags": FLAG_REASONS,
        "key": secrets.token_urlsafe(16),
        "today": session.scalar(today.where(Rating.rater_id == rater.id)) or 0,
        "share": min(1.0, project.done / project.slots) if project.slots else 0.0,
    }


def _answer(
    request: Request, who: Principal, session: Session, project: Project, rater: Rater, *, ahead: int = 0, done: Done | None = None
) -> HTMLResponse:
    """The next item, as a fragment or as the whole page."""
    closed = None
    try:
        task = service.claim(session, project, rater, ahead=ahead)
    except Conflict as error:
        task, closed = None, str(error)
    if task is None and rater.status in ("paused", "removed"):
        closed = f"You were paused. {rater.reason or ''} Your ratings are kept; ask who runs the project."
    template = "feedback/_rate_task.html" if is_partial(request) else "feedback/rate.html"
    return page(request, template, who, closed=closed, **_shown(session, project, rater, task, done))


@router.get("/rate")
def choose(request: Request, who: Person, session: ReadSession) -> Response:
    """Projects that the caller may rate in; a rater lands here."""
    may_rate = who.role in _ROLES
    found = [project for project in service.list_projects(session, who.workspace_id) if project.status == "open"] if may_rate else []
    mine = select(Rater).where(Rater.who == f"user:{who.user_id}", Rater.project_id.in_([project.id for project in found]))
    own = {each.project_id: each for each in session.scalars(mine)}
    return page(request, "feedback/rate_list.html", who, may_rate=may_rate, projects=found, mine=own)


@router.get("/rate/{project_id}")
def rate_page(request: Request, who: Person, session: WriteSession, project_id: str) -> Response:
    """The item that the caller judges now; it is kept for them while the page is open."""
    project, rater = _rater(session, who, project_id)
    return _answer(request, who, session, project, rater)


@router.get("/rate/{project_id}/next")
def fetch_ahead(request: Request, who: Person, session: WriteSession, project_id: str, ahead: Ahead = 1) -> Response:
    """An item to come, so that it is there when it is wanted."""
    project, rater = _rater(session, who, project_id)
    return _answer(request, who, session, project, rater, ahead=ahead)


@router.get("/rate/{project_id}/history")
def history(request: Request, who: Person, session: WriteSession, project_id: str) -> Response:
    """What the caller said in this project, newest first."""
    project, rater = _rater(session, who, project_id, voting=True)
    return page(request, "feedback/rate_history.html", who, project=project, events=service.history(session, project, rater, 100))


@router.post("/rate/{project_id}/undo")
@unrecorded
def undo(request: Request, who: Person, session: WriteSession, fields: Fields, project_id: str) -> Response:
    """Take back what the caller said last, and show that item again."""
    project, rater = _rater(session, who, project_id)
    task = service.undo(session, project, rater, _key(request, fields))
    if task is None or not is_partial(request):
        return _answer(request, who, session, project, rater)
    return page(request, "feedback/_rate_task.html", who, closed=None, **_shown(session, project, rater, task))


@router.post("/rate/{project_id}/{slot}")
@unrecorded
def rate(request: Request, who: Person, session: WriteSession, fields: Fields, project_id: str, slot: str, ahead: Ahead = 0) -> Response:
    """Take a vote and answer with the next item."""
    project, rater = _rater(session, who, project_id, voting=True)
    done = service.rate(session, project, rater, slot, _vote(fields), _key(request, fields))
    if not is_partial(request) and done.feedback is None and done.sources is None:
        return see_other(f"/rate/{project.id}")
    return _answer(request, who, session, project, rater, ahead=ahead, done=done)


@router.post("/rate/{project_id}/{slot}/{step}")
@unrecorded
def leave(
    request: Request, who: Person, session: WriteSession, fields: Fields, project_id: str, slot: str, step: str, ahead: Ahead = 0
) -> Response:
    """Skip or flag an item, keep it a while longer (renew), or give it back (release)."""
    project, rater = _rater(session, who, project_id, voting=True)
    if step == "renew":
        service.renew(session, rater, slot)
        return Response(status_code=204)
    if step == "release":
        service.release(session, rater, slot)
        return Response(status_code=204) if is_partial(request) or not fields.get("leave") else see_other("/rate")
    if step not in ("skip", "flag"):
        raise NotFound("An item can be skipped, flagged, renewed or released.")
    act = service.skip if step == "skip" else service.flag
    act(session, project, rater, slot, str(fields.get("reason") or ""), _key(request, fields))
    if not is_partial(request):
        return see_other(f"/rate/{project.id}")
    return _answer(request, who, session, project, rater, ahead=ahead)
