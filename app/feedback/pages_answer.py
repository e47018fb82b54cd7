"""The page on which a checkpoint is let answer a project's prompts beside others. Generates nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.checkpoints import service as checkpoints
from app.errors import Invalid, StudioError
from app.feedback import answering, generation, projects
from app.feedback import form as projects_form
from app.feedback.tables import Project
from app.forms import posted_form
from app.web import ReadSession, Writer, WriteSession, hx_redirect, page, pages_router

router = pages_router()

Posted = Annotated[dict[str, str], Depends(posted_form)]
Text = Annotated[str, Query(max_length=200)]
SAMPLING = {"temperature": "Temperature", "top_p": "Top-p", "max_tokens": "Tokens at most"}
_OFFERED = 200


@router.get("/feedback/{project_id}/answer")
def form(request: Request, who: Writer, session: ReadSession, project_id: str, checkpoint: Text = "") -> Response:
    """Which prompts, beside whom, and how; filled in with what is usual."""
    return _show(request, who, session, projects.get(session, who.workspace_id, project_id), {"checkpoint": checkpoint})


@router.post("/feedback/{project_id}/answer")
def start(request: Request, who: Writer, session: WriteSession, project_id: str, posted: Posted) -> Response:
    """Have the answers generated. With no more than a checkpoint the usual is done: held-out prompts, beside what it was trained from."""
    project = projects.get(session, who.workspace_id, project_id)
    try:
        with session.begin_nested():
            answering.ask(session, project, posted.get("checkpoint", "")[:200], **_asked(posted), created_by=who.user_id)
    except StudioError as error:
        if error.status >= 500:
            raise
        return _show(request, who, session, project, posted, error)
    return hx_redirect(request, f"/feedback/{project_id}")


def _asked(posted: Mapping[str, str]) -> dict[str, Any]:
    """What a form says beyond the checkpoint.

    Raises:
        Invalid: a field that cannot be read.
    """
    if not posted.get("checkpoint"):
        raise Invalid("Choose the model that is to answer.", field="checkpoint")
    found: dict[str, Any] = {}
    if posted.get("prompts"):
        if posted["prompts"] not in answering.WHICH:
            raise Invalid("Choose the held-out prompts, or all.", field="prompts")
        found["prompts"] = posted["prompts"]
    if "limit" in posted:
        limit, wrong = projects_form.number_of(posted["limit"] or "200", 1, 10_000)
        if limit is None or limit != int(limit):
            raise Invalid(wrong or "How many prompts is a whole number.", field="limit")
        found["limit"] = int(limit)
    if "chosen" in posted:
        found["against"] = [name.removeprefix("against.")[:200] for name in posted if name.startswith("against.")]
        found["sampling"] = {name: posted[name][:40] for name in SAMPLING if posted.get(name, "").strip()}
    return found


def _show(
    request: Request, who: Principal, session: Session, project: Project, posted: Mapping[str, str], error: StudioError | None = None
) -> Response:
    models = checkpoints.list_checkpoints(
        session, who.workspace_id, limit=_OFFERED, kinds=list(generation.ANSWERING), status="ready", writing=True
    )
    wanted = posted.get("checkpoint", "")
    chosen = next((each for each in models if wanted in (each.id, each.name)), None)
    if chosen is None and wanted:
        try:
            chosen = checkpoints.get(session, who.workspace_id, wanted)
            models.insert(0, chosen)
        except StudioError:
            chosen = None
    others = {each.id: (each.name, each.answers) for each in answering.members(session, project) if each.ready}
    start = answering.start_of(session, chosen) if chosen else None
    if start is not None:
        others.setdefault(start.id, (start.name, 0))
    usual = answering.others_by_default(session, project, chosen) if chosen else list(others)[:1]
    against = [name.removeprefix("against.") for name in posted if name.startswith("against.")] if "chosen" in posted else usual
    left = {which: len(hashes) for which, hashes in answering.open_prompts(session, project, chosen).items()}
    known = answering.sampling_of(project, usual)
    sampling = {name: posted.get(name) if "chosen" in posted else f"{known[name]:g}" if name in known else "" for name in SAMPLING}
    field = (error.field or "").split(".") if error else [""]
    where = {"candidates": "sampling" if "sampling" in field else "checkpoint"}.get(field[0], field[0])
    return page(
        request,
        "feedback/answer.html",
        who,
        status=error.status if error else 200,
        project=project,
        tab="train",
        may_change=True,
        kind=projects_form.KINDS[project.kind],
        error=error if error is not None and where not in ("checkpoint", "prompts", "against", "limit", "sampling") else None,
        errors={where: error.message} if error else {},
        models=models,
        chosen=chosen,
        others={id: told for id, told in others.items() if chosen is None or id != chosen.id},
        against=against,
        start=start.id if start else "",
        left=left,
        which=posted.get("prompts") or ("held_out" if left["held_out"] else "all"),
        titles=answering.WHICH,
        limit=posted.get("limit", "200"),
        sampling=sampling,
        labels=SAMPLING,
    )
