"""The settings of a project: the form that changes them, and what happens when two people change them at once."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

from fastapi import Depends, Request, Response

from app.accounts.schemas import Principal
from app.errors import Conflict, Invalid
from app.feedback import form, service
from app.feedback.form import Draft
from app.feedback.tables import Project
from app.forms import posted_form
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router

router = pages_router()

Posted = Annotated[dict[str, str], Depends(posted_form)]


@router.get("/feedback/{project_id}/edit")
def edit_form(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """The settings of a project."""
    project = service.get_project(session, who.workspace_id, project_id)
    return settings_page(request, who, project, form.from_project(project), {})


def settings_page(
    request: Request, who: Principal, project: Project, draft: Draft, errors: dict[str, str], *, seen: str = "", status: int | None = None
) -> Response:
    """The form with a draft of the settings."""
    return page(
        request,
        "feedback/_edit_fields.html" if is_partial(request) else "feedback/edit.html",
        who,
        status=status or (422 if errors else 200),
        project=project,
        tab="edit",
        may_change=who.role in ("admin", "engineer"),
        kind=form.KINDS[project.kind],
        draft=draft,
        errors=errors,
        titles=form.TITLES,
        seen=seen or _state(project),
        most={"candidates": form.MOST_CANDIDATES, "questions": form.MOST_QUESTIONS},
    )


def _state(project: Project) -> str:
    """A mark of the settings as they are: when it differs, somebody changed them."""
    draft = form.from_project(project)
    return hashlib.sha256(json.dumps([draft.values, draft.questions], sort_keys=True).encode()).hexdigest()[:16]


@router.post("/feedback/{project_id}/edit")
def edit(request: Request, who: Writer, session: WriteSession, project_id: str, posted: Posted) -> Response:
    """Change a project; when somebody else did so meanwhile, both versions are shown and nothing is lost."""
    project = service.get_project(session, who.workspace_id, project_id, lock=True)
    draft = form.from_post(posted)
    draft.kind = project.kind
    if "act" in posted:
        return settings_page(request, who, project, draft, {}, seen=posted.get("seen", ""))
    if posted.get("seen") and posted["seen"] != _state(project):
        now_ = form.from_project(project)
        differing = {name: text for name, text in now_.values.items() if name in draft.values and draft[name].replace("\r\n", "\n") != text}
        words = "; ".join(f"{form.TITLES.get(name, name)} is now “{text[:80]}”" for name, text in differing.items())
        errors = {
            "": f"Somebody changed this project meanwhile. {words or 'Its extra questions differ'}. Save again to have what you typed."
        }
        return settings_page(request, who, project, draft, errors, status=409)
    try:
        service.change_project(session, project, draft.change())
    except (Invalid, Conflict) as error:
        return settings_page(request, who, project, draft, form.errors_of(error, draft), seen=posted.get("seen", ""))
    return hx_redirect(request, f"/feedback/{project.id}")
