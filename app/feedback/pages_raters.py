"""The raters of a project for its owner: who they are, pausing and removing them, opening their items again, inviting more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Form, Request, Response
from sqlalchemy.orm import Session

from app.accounts import invites
from app.accounts.schemas import Principal
from app.errors import Conflict, Invalid, StudioError
from app.feedback import form, reopening, service
from app.feedback.tables import Project, Rater
from app.web import Admin, Reader, ReadSession, Writer, WriteSession, hx_redirect, page, pages_router, settings_of

router = pages_router()

PAUSED = "Paused by {name}."
_Text = Annotated[str, Form(max_length=500)]


@router.get("/feedback/{project_id}/raters")
def list_raters(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """Everybody who rates in a project, with what they did."""
    return _page(request, who, session, service.get_project(session, who.workspace_id, project_id))


def _page(
    request: Request, who: Principal, session: Session, project: Project, *, error: StudioError | None = None, **more: Any
) -> Response:
    context: dict[str, Any] = {"made": None, "given": {}, "done": ""} | more
    return page(
        request,
        "feedback/raters.html",
        who,
        status=error.status if error else 200,
        project=project,
        tab="raters",
        kind=form.KINDS[project.kind],
        may_change=who.role in ("admin", "engineer"),
        raters=sorted(service.list_raters(session, project), key=lambda each: (each.status == "removed", each.name)),
        invited=[each for each in invites.list_invites(session, workspace_id=who.workspace_id) if each.invite.role == "rater"]
        if who.role == "admin"
        else [],
        error=error,
        **context,
    )


@router.post("/feedback/{project_id}/raters/invite")
def invite_rater(request: Request, who: Admin, session: WriteSession, project_id: str, name: _Text = "", email: _Text = "") -> Response:
    """Invite somebody as a rater; the link is on the answered page and nowhere else."""
    project = service.get_project(session, who.workspace_id, project_id)
    try:
        made, link = invites.invite(session, who, settings_of(request), name=name, role="rater", workspace_id=who.workspace_id, email=email)
    except (Conflict, Invalid) as error:
        return _page(request, who, session, project, error=error, given={"name": name, "email": email})
    words = f"Invite for “{made.name}”. Copy the link now: it is shown this once, and works once, within three days."
    return _page(request, who, session, project, made={"words": words, "link": link})


def _steer(
    request: Request, who: Principal, session: Session, project_id: str, rater_id: str, do: Callable[[Project, Rater], object]
) -> Response:
    project = service.get_project(session, who.workspace_id, project_id)
    rater = service.get_rater(session, project, rater_id)
    try:
        do(project, rater)
    except (Conflict, Invalid) as error:
        return _page(request, who, session, project, error=error)
    return hx_redirect(request, f"/feedback/{project.id}/raters")


@router.post("/feedback/{project_id}/raters/{rater_id}/pause")
def pause_rater(request: Request, who: Writer, session: WriteSession, project_id: str, rater_id: str) -> Response:
    """Give a rater no more items for now; their votes stay."""
    words = PAUSED.format(name=who.user_name)
    return _steer(request, who, session, project_id, rater_id, lambda project, rater: service.pause_rater(session, rater, words))


@router.post("/feedback/{project_id}/raters/{rater_id}/resume")
def resume_rater(request: Request, who: Writer, session: WriteSession, project_id: str, rater_id: str) -> Response:
    """Let a rater go on."""
    return _steer(request, who, session, project_id, rater_id, lambda project, rater: service.resume_rater(session, rater))


@router.post("/feedback/{project_id}/raters/{rater_id}/remove")
def remove_rater(request: Request, who: Writer, session: WriteSession, project_id: str, rater_id: str) -> Response:
    """Take a rater out of a project; their votes stay."""
    return _steer(request, who, session, project_id, rater_id, lambda project, rater: service.remove_rater(session, rater))


@router.post("/feedback/{project_id}/raters/{rater_id}/reopen")
def reopen_items(request: Request, who: Writer, session: WriteSession, project_id: str, rater_id: str) -> Response:
    """Ask somebody else for one more rating of every item this rater rated; the votes stay."""
    return _steer(request, who, session, project_id, rater_id, lambda project, rater: reopening.reopen_items_of(session, project, rater))
