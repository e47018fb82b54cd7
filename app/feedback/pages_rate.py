"""The page on which people rate: one item after another, blind, by keys or by plain forms. What is said is taken by `votes`."""

from __future__ import annotations

import secrets
import time
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from app.accounts.schemas import Principal
from app.errors import BadRequest, Conflict, Invalid, NotFound
from app.feedback import raters, service, views
from app.feedback.differences import differences
from app.feedback.schemas import FLAG_REASONS, SKIP_REASONS, Done, Task, Vote
from app.feedback.tables import Event, Project, Rater
from app.rendering import LONGEST
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
_THUMBS = ((1, "Good", "thumbs-up", "↑", "ArrowUp"), (0, "Bad", "thumbs-down", "↓", "ArrowDown"))
_POINTS = ("Very bad", "Bad", "Fair", "Good", "Very good")
LETTERS = "ABCDEFGHI"
_ROLES = ("admin", "engineer", "rater")


async def _fields(request: Request) -> FormData:
    return await request.form()


Fields = Annotated[FormData, Depends(_fields)]
Ahead = Annotated[int, Query(ge=0, le=9)]
Only = Annotated[bool, Query(description="No next item is wanted: the vote was kept by the browser, which shows another page now.")]


def _key(request: Request, fields: FormData) -> str:
    key = request.headers.get("idempotency-key") or str(fields.get("key", ""))
    if not 1 <= len(key) <= 255:
        raise BadRequest("The vote carries no key, so it could be counted twice. Reload the page and vote again.")
    return key


def _rater(session: Session, who: Principal, project_id: str, *, voting: bool = False) -> tuple[Project, Rater]:
    return service.enter(session, who, project_id, voting=voting)


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


def grades_of(project: Project) -> list[tuple[int, str]]:
    """Grades of a pair in the words of the project's question."""
    return [(value, words.replace("better", "worse") if project.direction == "worse" else words) for value, words in GRADES]


def _shown(session: Session, project: Project, rater: Rater, task: Task | None, done: Done | None = None) -> dict[str, Any]:
    """What the page and its fragment show; of a response only its id and its text."""
    apart = differences(task.responses[0].text, task.responses[1].text) if task and project.kind == "pair" else None
    ranking = ((task.earlier if task else None) or {}).get("ranking") or []
    return {
        "project": project,
        "task": task,
        "told": done,
        "rater": rater,
        "apart": apart,
        "grades": grades_of(project),
        "letters": LETTERS,
        "thumbs": _THUMBS,
        "points": _POINTS,
        "rank_of": {response: rank for rank, tied in enumerate(ranking, 1) for response in tied},
        "longest": LONGEST,
        "skips": SKIP_REASONS,
        "flags": FLAG_REASONS,
        "key": secrets.token_urlsafe(16),
        "today": max(0, rater.done - rater.done_before) if rater.day == int(time.time() // 86_400) else 0,
        "share": min(1.0, project.done / project.slots) if project.slots else 0.0,
    }


def _answer(
    request: Request,
    who: Principal,
    session: Session,
    project: Project,
    rater: Rater,
    *,
    ahead: int = 0,
    only: bool = False,
    done: Done | None = None,
) -> HTMLResponse:
    """The next item, as a fragment or as the whole page; without one where the answer to a vote is `only` that it was taken."""
    task = closed = None
    try:
        task = None if only else service.claim(session, project, rater, ahead=ahead)
    except Conflict as error:
        closed = str(error)
    if task is None and rater.status in ("paused", "removed"):
        closed = f"You were paused. {rater.reason or ''} Your ratings are kept; ask who runs the project."
    template = "feedback/_rate_task.html" if is_partial(request) else "feedback/rate.html"
    return page(request, template, who, closed=closed, **_shown(session, project, rater, task, done))


@router.get("/rate")
def choose(request: Request, who: Person, session: ReadSession) -> Response:
    """Projects that the caller may rate in; a rater lands here."""
    may_rate = who.role in _ROLES
    found = [project for project in service.list_projects(session, who.workspace_id) if project.status == "open"] if may_rate else []
    found = [project for project in found if who.project_id in (None, project.id)]
    mine = select(Rater).where(Rater.who == raters.key_of(who), Rater.project_id.in_([project.id for project in found]))
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
    events = service.history(session, project, rater, 100)
    shown = select(Event.id, Event.order).where(Event.id.in_([event["event_id"] for event in events]))
    orders = {event_id: order for event_id, order in session.execute(shown)}
    for event in events:
        event["words"] = words_of(project, event, orders.get(event["event_id"]) or [])
        event["labels"] = views.labels_of(project, event["answer"].get("labels") or {}, _lettered(orders.get(event["event_id"]) or []))
    return page(request, "feedback/rate_history.html", who, project=project, events=events, key=secrets.token_urlsafe(16))


def words_of(project: Project, event: dict[str, Any], order: list[str]) -> str:
    """What a rater did, on the sides as they were shown: `A better`, `4 of 5`, `B, then A = C`."""
    if event["kind"] in ("skip", "flag"):
        reasons = SKIP_REASONS if event["kind"] == "skip" else FLAG_REASONS
        return ("Skipped: " if event["kind"] == "skip" else "Flagged: ") + reasons.get(event["reason"], event["reason"] or "")
    answer = event["answer"]
    if answer.get("ranking"):
        return ", then ".join(" = ".join(_letter(order, one) for one in tied) for tied in answer["ranking"])
    if answer.get("score") is not None:
        return ("Good" if answer["score"] else "Bad") if project.scale == "thumbs" else f"{answer['score']:g} of 5"
    said = answer.get("preference")
    return {"both_bad": "Both bad", "both_good": "Both good"}.get(said) or dict(grades_of(project)).get(said, "–")


def _lettered(order: list[str]) -> dict[str, str]:
    return dict(zip(order, LETTERS, strict=False))


def _letter(order: list[str], response: str) -> str:
    return LETTERS[order.index(response)] if response in order else "?"


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
def rate(
    request: Request, who: Person, session: WriteSession, fields: Fields, project_id: str, slot: str, ahead: Ahead = 0, only: Only = False
) -> Response:
    """Take a vote and answer with the next item."""
    project, rater = _rater(session, who, project_id, voting=True)
    done = service.rate(session, project, rater, slot, _vote(fields), _key(request, fields))
    if not is_partial(request) and done.feedback is None and done.sources is None:
        return see_other(f"/rate/{project.id}")
    return _answer(request, who, session, project, rater, ahead=ahead, only=only, done=done)


def _renew(session: Session, rater: Rater, slots: list[str]) -> list[str]:
    """Keep items a while longer; those that somebody else has by now."""
    lost = []
    for slot in slots:
        try:
            service.renew(session, rater, slot)
        except Conflict:
            lost.append(slot)
    return lost


@router.post("/rate/{project_id}/{slot}/{step}")
@unrecorded
def leave(
    request: Request,
    who: Person,
    session: WriteSession,
    fields: Fields,
    project_id: str,
    slot: str,
    step: str,
    ahead: Ahead = 0,
    only: Only = False,
) -> Response:
    """Skip or flag an item, keep it and those fetched ahead (`also`) a while longer (renew), or give it back (release)."""
    project, rater = _rater(session, who, project_id, voting=True)
    if step == "renew":
        return JSONResponse({"lost": _renew(session, rater, [slot, *(str(each) for each in fields.getlist("also")[:9])])})
    if step == "release":
        service.release(session, rater, slot)
        return Response(status_code=204) if is_partial(request) or not fields.get("leave") else see_other("/rate")
    if step not in ("skip", "flag"):
        raise NotFound("An item can be skipped, flagged, renewed or released.")
    act = service.skip if step == "skip" else service.flag
    done = act(session, project, rater, slot, str(fields.get("reason") or ""), _key(request, fields))
    if not is_partial(request):
        return see_other(f"/rate/{project.id}")
    return _answer(request, who, session, project, rater, ahead=ahead, only=only, done=done)
