"""The judges of a project for its owner: how far each agrees with people, adding one, stopping it, letting it go on, deleting it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import Conflict, StudioError
from app.feedback import form, judge_report, judge_words, judges, projects
from app.feedback.judges import JudgeIn
from app.feedback.tables import Project
from app.feedback.tables_judges import Judge
from app.forms import posted_form
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, page, pages_router
from app.words import plain_words

router = pages_router()

Posted = Annotated[dict[str, str], Depends(posted_form)]
TITLES = {"checkpoint": "Checkpoint", "principles": "Principles", "limit": "Items at most", "side": "Takes a side from", "name": "Name"}
BLANK = {"checkpoint": "", "name": "", "principles": "", "limit": "1000", "side": "60"}


def _context(who: Principal, project: Project) -> dict[str, Any]:
    may_change = who.role in ("admin", "engineer")
    return {"project": project, "tab": "judges", "may_change": may_change, "kind": form.KINDS[project.kind]}


def _card(session: Session, project: Project, judge: Judge) -> dict[str, Any]:
    """What the card of a judge shows: while it is at work how far it is, afterwards what may be said of it."""
    progress = judges.progress(session, judge)
    busy = progress is not None and progress["status"] in ("queued", "running")
    return {
        "judge": judge,
        "progress": progress,
        "busy": busy,
        "left": 0 if busy else judges.waiting(session, project, judge),
        "report": None if busy else judge_report.report(session, project, judge),
    }


def _show(
    request: Request,
    who: Principal,
    session: Session,
    project: Project,
    values: Mapping[str, str] | None = None,
    errors: Mapping[str, str] | None = None,
    error: StudioError | None = None,
) -> Response:
    return page(
        request,
        "feedback/judges.html",
        who,
        status=error.status if error else 422 if errors else 200,
        cards=[_card(session, project, judge) for judge in judges.listed(session, project)],
        offered=judges.offered(session, who.workspace_id),
        kind_of=judges.kind_of,
        values={**BLANK, **(values or {})},
        errors=errors or {},
        titles=TITLES,
        error=error,
        sent=judge_words.template(project.kind),
        most=judges.MOST_PRINCIPLES,
        **_context(who, project),
    )


@router.get("/feedback/{project_id}/judges")
def show_judges(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """Models that judge the items, each with how far it agrees with people; they are never counted as people."""
    return _show(request, who, session, projects.get(session, who.workspace_id, project_id))


@router.get("/feedback/{project_id}/judges/{judge_id}/card")
def show_card(request: Request, who: Reader, session: ReadSession, project_id: str, judge_id: str) -> Response:
    """One judge as it is now, for the page that waits for it."""
    project = projects.get(session, who.workspace_id, project_id)
    card = _card(session, project, judges.get(session, project, judge_id))
    return page(request, "feedback/_judge.html", who, card=card, **_context(who, project))


@router.post("/feedback/{project_id}/judges")
def add_judge(request: Request, who: Writer, session: WriteSession, project_id: str, posted: Posted) -> Response:
    """Have a checkpoint judge the items of a project."""
    project = projects.get(session, who.workspace_id, project_id)
    values = {name: posted.get(name, "").replace("\r\n", "\n") for name in BLANK}
    asked, errors = _asked(values)
    if asked is None:
        return _show(request, who, session, project, values, errors)
    try:
        judges.add(session, project, asked, who.user_id)
    except StudioError as error:
        if error.status not in (404, 409, 422):
            raise
        if error.field is None:
            return _show(request, who, session, project, values, error=error)
        return _show(request, who, session, project, values, {error.field.partition(".")[0]: error.message})
    return hx_redirect(request, f"/feedback/{project.id}/judges")


def _asked(values: Mapping[str, str]) -> tuple[JudgeIn | None, dict[str, str]]:
    """The judge that a form asks for, or what is wrong with it, by field."""
    errors: dict[str, str] = {}
    limit, words = form.number_of(values["limit"] or BLANK["limit"], 1, judges.MOST_ITEMS)
    if words or limit is None or limit != int(limit):
        errors["limit"] = words or "Type a whole number."
    side, words = form.number_of(values["side"] or BLANK["side"], 50, 90)
    if words or side is None:
        errors["side"] = words
    if not values["checkpoint"]:
        errors["checkpoint"] = "Choose the checkpoint that judges."
    if errors or limit is None or side is None:
        return None, errors
    principles = [line.strip() for line in values["principles"].split("\n") if line.strip()]
    given = {"checkpoint": values["checkpoint"], "name": values["name"], "principles": principles, "limit": int(limit)}
    try:
        return JudgeIn.model_validate({**given, "tie": round(side / 100 - 0.5, 6)}), {}
    except ValidationError as error:
        return None, {str(each["loc"][0]): plain_words(each) for each in error.errors()}


@router.post("/feedback/{project_id}/judges/{judge_id}/{step}")
def steer_judge(
    request: Request, who: Writer, session: WriteSession, project_id: str, judge_id: str, step: str, posted: Posted
) -> Response:
    """Stop a judge, let it go on, or delete it with all it said."""
    project = projects.get(session, who.workspace_id, project_id)
    judge = judges.get(session, project, judge_id)
    try:
        if step == "delete":
            judges.delete(session, judge)
        elif step == "go-on":
            more = judge.done + judges.JudgeIn.model_fields["limit"].default if posted.get("more") else None
            judges.go_on(session, project, judge, min(more, judges.MOST_ITEMS) if more else None)
        elif step == "stop":
            judges.cancel(session, judge)
        else:
            raise Conflict("A judge can be stopped, go on, or be deleted.")
    except Conflict as error:
        return _show(request, who, session, project, error=error)
    return hx_redirect(request, f"/feedback/{project.id}/judges")
