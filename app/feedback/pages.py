"""The owner's pages of feedback: the list, a project with its progress, what steers it; its parts are beside this."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import Conflict, StudioError
from app.feedback import form, generation, pages_edit, pages_items, pages_new, pages_raters, service, views
from app.feedback.schemas import ProjectChange
from app.feedback.tables import Project
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router, see_other, templates

router = pages_router()
for _part in (
    pages_new,
    pages_edit,
    pages_items,
    pages_raters,
):  # before the pages of one project, whose address takes any name
    router.routes.extend(_part.router.routes)
for _name in ("pages_rate", "pages_quality", "pages_judges", "pages_train"):  # rating, what votes say, what is made of them
    if find_spec(f"app.feedback.{_name}"):
        router.routes.extend(import_module(f"app.feedback.{_name}").router.routes)

_WRITERS = ("admin", "engineer")
_STEPS = {"open": "open", "pause": "paused", "close": "closed"}


def context(who: Principal, project: Project, tab: str) -> dict[str, Any]:
    """What the frame of a project's pages (`feedback/_project.html`) needs."""
    return {"project": project, "tab": tab, "may_change": who.role in _WRITERS, "kind": form.KINDS[project.kind]}


@router.get("/feedback")
def list_projects(request: Request, who: Reader, session: ReadSession) -> Response:
    """Every project of the workspace, newest first."""
    found = service.list_projects(session, who.workspace_id)
    return page(
        request,
        "feedback/list.html",
        who,
        projects=found,
        raters=views.rater_counts(session, found),
        kinds=form.KINDS,
        may_change=who.role in _WRITERS,
    )


@router.get("/feedback/{project_id}")
def show(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """A project: how far it is, by whom, and what is being generated."""
    project = service.get_project(session, who.workspace_id, project_id)
    return _show(request, who, session, project)


def _show(request: Request, who: Principal, session: Session, project: Project, error: StudioError | None = None) -> HTMLResponse:
    shown = {**views.overview(session, project), **context(who, project, "overview")}
    return page(request, "feedback/project.html", who, status=error.status if error else 200, error=error, **shown)


@router.get("/feedback/{project_id}/depth")
def depth(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """Items by how many ratings they have, counted now; without htmx on the overview."""
    project = service.get_project(session, who.workspace_id, project_id)
    shown = {**views.overview(session, project, deep=True), **context(who, project, "overview")}
    if is_partial(request):
        return page(request, "feedback/_depth.html", who, **shown)
    return page(request, "feedback/project.html", who, error=None, **shown)


@router.post("/feedback/{project_id}/status/{step}")
def set_status(request: Request, who: Writer, session: WriteSession, project_id: str, step: str) -> Response:
    """Open a project for its raters, pause it or close it."""
    project = service.get_project(session, who.workspace_id, project_id)
    if step not in _STEPS:
        raise Conflict("A project can be opened, paused or closed.")
    service.change_project(session, project, ProjectChange(status=_STEPS[step]))
    return hx_redirect(request, f"/feedback/{project.id}")


@router.post("/feedback/{project_id}/generation/{step}")
def steer_generation(request: Request, who: Writer, session: WriteSession, project_id: str, step: str) -> Response:
    """Stop what is being generated, or go on with it."""
    project = service.get_project(session, who.workspace_id, project_id)
    try:
        if step == "go-on":
            generation.go_on(session, project)
        else:
            generation.cancel(session, project)
    except Conflict as error:
        return _show(request, who, session, project, error)
    return hx_redirect(request, f"/feedback/{project.id}")


@router.post("/feedback/{project_id}/delete")
def delete(request: Request, who: Writer, session: WriteSession, project_id: str) -> Response:
    """Delete a project with its items and votes; datasets that were made of it stay."""
    service.delete_project(session, service.get_project(session, who.workspace_id, project_id), by=who)
    return hx_redirect(request, "/feedback") if is_partial(request) else see_other("/feedback")


def live_fragment(session: Session, project_id: str) -> str:
    """The overview as it is now, for whoever watches it."""
    project = session.get(Project, project_id)
    if project is None:
        return ""
    return templates().get_template("feedback/_live.html").render(**views.overview(session, project))
