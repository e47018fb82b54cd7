"""The pages that make a project and fill it: the form, what it would ask of people, a look at a file, items that are added later."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Annotated, Any

from fastapi import Depends, Form, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from app.accounts.schemas import Principal
from app.checkpoints import service as checkpoints
from app.datasets import service as datasets
from app.errors import Conflict, Invalid, StudioError
from app.feedback import form, generation, imports, pages_edit, service
from app.feedback.form import Draft
from app.feedback.schemas import FILTERS, Candidate, ItemIn
from app.feedback.tables import Project
from app.forms import posted_form, typed
from app.rendering import number
from app.web import (
    ReadSession,
    Writer,
    database_of,
    hx_redirect,
    is_partial,
    page,
    pages_router,
    settings_of,
    unrecorded,
    upload,
)

router = pages_router()

OFFERED = 200
SHOWN_ITEMS = 3
HEAD_BYTES = 256 * 1024
MOST_PASTED = 16 * 1024**2
Posted = Annotated[dict[str, str], Depends(posted_form)]


@dataclass
class Sent:
    """A posted form with a file."""

    fields: dict[str, str]
    file: UploadFile | None = None
    names: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str] | None:
        """Lines of the file or, without one, of what was pasted; None without either."""
        if self.file is not None:
            return _decoded(io.TextIOWrapper(self.file.file, encoding="utf-8-sig"))
        text = self.fields.get("text", "")
        return lines_of(text) if text.strip() else None


def lines_of(text: str) -> Iterator[str]:
    """Lines as a file has them. `str.splitlines` would also end one at U+2028 and the like, which JSON may hold within a string."""
    return iter(io.StringIO(text, newline=None))


def _decoded(text: io.TextIOWrapper) -> Iterator[str]:
    try:
        yield from text
    except UnicodeDecodeError:
        raise Invalid("The file is not UTF-8 text. Save it as UTF-8 and choose it again.", field="file") from None


@asynccontextmanager
async def _sent(request: Request) -> AsyncIterator[Sent]:
    posted = await request.form(max_files=1, max_fields=300, max_part_size=MOST_PASTED)
    file = posted.get("file")
    fields = {name: value for name, value in posted.multi_items() if isinstance(value, str)}
    yield Sent(fields, file if isinstance(file, UploadFile) and file.filename else None)
    if isinstance(file, UploadFile):
        await file.close()


# --- the form -------------------------------------------------------------------------------------------------------------


@router.get("/feedback/new")
def new_project(request: Request, who: Writer, session: ReadSession, kind: str = "") -> Response:
    """First what is rated, then the form of that kind."""
    if kind not in form.KINDS:
        return page(request, "feedback/start.html", who, kinds=form.KINDS, query=str(request.url.query))
    return _form(request, who, session, form.blank(kind, request.query_params.multi_items()), {})


@router.post("/feedback/new/fields")
@unrecorded
def fields(request: Request, who: Writer, session: ReadSession, posted: Posted) -> Response:
    """The fields anew, with one more row or one less; what was typed stays."""
    draft = form.from_post(posted)
    if posted.get("project"):
        project = service.get_project(session, who.workspace_id, posted["project"])
        draft.kind = project.kind
        return pages_edit.settings_page(request, who, project, draft, {}, seen=posted.get("seen", ""))
    if posted.get("add_to"):
        return _form(request, who, session, draft, {}, service.get_project(session, who.workspace_id, posted["add_to"]))
    return _form(request, who, session, draft, {})


def _choices(session: Session, workspace_id: str, draft: Draft) -> dict[str, Any]:
    """What can answer, and whose prompts can be answered; what is chosen is among them."""
    models = checkpoints.list_checkpoints(
        session, workspace_id, limit=OFFERED, kinds=list(generation.ANSWERING), status="ready", writing=True
    )
    found = [
        each for each in datasets.list_datasets(session, workspace_id, limit=OFFERED, latest=True) if each.status == "ready" and each.rows
    ]
    for asked in {row.get("checkpoint", "") for row in draft.candidates} - {each.id for each in models} - {""}:
        with_ = [each for each in models if each.name == asked]
        for row in draft.candidates:
            if with_ and row.get("checkpoint") == asked:
                row["checkpoint"] = with_[0].id
    if draft["prompts"] and all(each.id != draft["prompts"] for each in found):
        try:
            found.insert(0, datasets.get(session, workspace_id, draft["prompts"]))
        except StudioError:
            draft.values["prompts"] = ""
    return {"models": models, "datasets": found}


def _form(
    request: Request, who: Principal, session: Session, draft: Draft, errors: dict[str, str], project: Project | None = None
) -> Response:
    context = {
        "draft": draft,
        "errors": errors,
        "titles": form.TITLES,
        "kind": form.KINDS[draft.kind],
        "max_bytes": settings_of(request).max_upload_bytes,
        "head_bytes": HEAD_BYTES,
        "most": {"candidates": form.MOST_CANDIDATES, "questions": form.MOST_QUESTIONS},
        "asked": "",
        **_choices(session, who.workspace_id, draft),
    }
    if project is not None:
        context |= {"project": project, "tab": "items", "may_change": True}
        template = "feedback/_add_fields.html" if is_partial(request) else "feedback/add.html"
    else:
        template = "feedback/_fields.html" if is_partial(request) else "feedback/new.html"
    return page(request, template, who, status=422 if errors else 200, **context)


@router.post("/feedback/new")
@upload
async def create_project(who: Writer, request: Request) -> Response:
    """Make the project, and have its items generated or take them in; a field that cannot be used comes back with the form."""
    async with _sent(request) as sent:
        return await run_in_threadpool(_create, request, who, sent)


def _create(request: Request, who: Principal, sent: Sent) -> Response:
    draft = form.from_post(sent.fields)
    if "act" in sent.fields:  # a row more or less, without a script
        with database_of(request).read() as session:
            return _form(request, who, session, draft, {})
    try:
        asked = draft.request()
        with database_of(request).write() as session:
            project = service.create_project(session, who.workspace_id, asked, who.user_id)
            session.flush()
            _fill(session, who, project, draft, sent)
            to = f"/feedback/{project.id}"
    except StudioError as error:
        if error.status >= 500:
            raise
        with database_of(request).read() as session:
            return _form(request, who, session, draft, form.errors_of(error, draft))
    return hx_redirect(request, to)


def _fill(session: Session, who: Principal, project: Project, draft: Draft, sent: Sent) -> None:
    """Queue what is to be generated, or take the sent items in.

    Raises:
        Invalid: there is nothing to take in, or none of it can be rated.
    """
    if draft["source"] != "import":
        values, wrong = draft.generation()
        if wrong:
            raise Invalid(wrong[0]["message"], field=wrong[0]["field"], details=wrong)
        generation.start(
            session,
            project,
            dataset=values.get("prompts"),
            prompt_texts=values.get("prompt_texts"),
            candidates=[each if isinstance(each, Candidate) else Candidate(**each) for each in values["candidates"]],
            limit=values["limit"],
            seed=project.seed,
            created_by=who.user_id,
            pairs="all" if draft["pairs"] == "all" else "one",
        )
        return
    found = sent.lines()
    if found is None:
        raise Invalid("Choose a file, or paste items.", field="text")
    try:
        added = service.add_items(session, project, imports.read(None, found))
    except Invalid as error:
        raise Invalid(error.message, field="text") from error
    if added.count <= sum(added.filtered.values()):
        words = ", ".join(f"{FILTERS.get(reason, reason)} ({number(count)})" for reason, count in added.filtered.items())
        raise Invalid(f"None of the items can be rated: {words}." if words else "There is no item in it.", field="text")


@router.post("/feedback/new/plan")
@unrecorded
def plan(request: Request, who: Writer, session: ReadSession, posted: Posted) -> Response:
    """What the form asks of people and of the machine, in words."""
    draft = form.from_post(posted)
    return page(request, "feedback/_plan.html", who, draft=draft, plan=_plan(session, who.workspace_id, draft))


def _plan(session: Session, workspace_id: str, draft: Draft) -> dict[str, Any]:
    """How many answers, items and ratings a draft means; None where that cannot be said yet."""
    items: int | None = None
    answers: int | None = None
    limit, _ = form.number_of(draft["limit"] or "200", 1, 100_000)
    if draft["source"] == "import":
        items = int(draft["counted"]) if draft["counted"].isdecimal() else None
    elif limit is not None and (draft["prompts"] or draft.prompts):
        prompts = len(draft.prompts)
        if draft["prompts"]:
            try:
                prompts = datasets.get(session, workspace_id, draft["prompts"]).rows or 0
            except StudioError:
                prompts = 0
        prompts = min(prompts, int(limit))
        items, answering = draft.items(prompts), len([each for each in draft.candidates if each.get("checkpoint")])
        per_prompt = 2 if draft.kind == "pair" and (answering <= 2 or draft["pairs"] != "all") else max(1, answering)
        answers = prompts * per_prompt
    overlap, _ = form.number_of(draft["overlap"] or "1", 1, 50)
    share, _ = form.number_of(draft["overlap_share"] or "100", 0, 100)
    found: dict[str, Any] = {
        "items": items,
        "answers": answers,
        "overlap": int(overlap or 1),
        "share": share if share is not None else 100.0,
    }
    if items is not None:
        found["several"] = round(items * found["share"] / 100) if found["overlap"] > 1 else 0
        found["ratings"] = items + found["several"] * (found["overlap"] - 1)
        repeat, _ = form.number_of(draft["repeat_rate"] or "0", 0, 50)
        found["repeats"] = round(found["ratings"] * (repeat or 0) / 100)
    return found


@router.post("/feedback/new/look")
@unrecorded
def look(
    request: Request,
    who: Writer,
    head: Annotated[str, Form(max_length=4 * HEAD_BYTES)] = "",
    cut: Annotated[str, Form(max_length=5)] = "",
) -> Response:
    """What the beginning of a file or of pasted text would be read as; keeps nothing."""
    lines = list(lines_of(head))
    if cut and len(lines) > 1:
        lines = lines[:-1]  # it ends in the middle of a line
    items: list[ItemIn] = []
    skipped: list[imports.Unreadable] = []
    count, problem = 0, ""
    try:
        for item in imports.read(None, lines, skipped=skipped):
            count += 1
            if len(items) < SHOWN_ITEMS:
                items.append(item)
    except Invalid as error:
        problem = "" if cut and items else error.message
    context: dict[str, Any] = {
        "items": items,
        "count": count,
        "cut": bool(cut),
        "problem": problem if head.strip() else "",
        "skipped": skipped,
    }
    return page(request, "feedback/_look.html", who, **context)


@router.post("/feedback/new/guidelines")
@unrecorded
def preview_guidelines(request: Request, who: Writer, guidelines: Annotated[str, Form(max_length=100_000)] = "") -> Response:
    """Guidelines as raters will read them."""
    return page(request, "feedback/_guidelines.html", who, guidelines=guidelines)


# --- more items -----------------------------------------------------------------------------------------------------------


@router.get("/feedback/{project_id}/add")
def add_form(request: Request, who: Writer, session: ReadSession, project_id: str) -> Response:
    """The form that adds items to a project: generated by further checkpoints, or imported."""
    project = service.get_project(session, who.workspace_id, project_id)
    draft = form.blank(project.kind, request.query_params.multi_items())
    draft.values.setdefault("prompts", project.prompts_dataset_id or "")
    if not request.query_params.getlist("checkpoint") and project.candidates:
        draft.candidates = [
            {
                **form.CANDIDATE,
                "checkpoint": str(each.get("checkpoint_id") or ""),
                **{name: typed(value) for name, value in each.get("sampling", {}).items()},
            }
            for each in islice(project.candidates, form.MOST_CANDIDATES)
        ]
    return _form(request, who, session, draft, {}, project)


@router.post("/feedback/{project_id}/add")
@upload
async def add_items(who: Writer, request: Request, project_id: str) -> Response:
    """Have further items generated, or take them in."""
    async with _sent(request) as sent:
        return await run_in_threadpool(_add, request, who, project_id, sent)


def _add(request: Request, who: Principal, project_id: str, sent: Sent) -> Response:
    draft = form.from_post(sent.fields)
    errors: dict[str, str] = {}
    if "act" not in sent.fields:
        try:
            with database_of(request).write() as session:
                _fill(session, who, service.get_project(session, who.workspace_id, project_id), draft, sent)
        except (Invalid, Conflict) as error:
            errors = form.errors_of(error, draft)
        else:
            return hx_redirect(request, f"/feedback/{project_id}")
    with database_of(request).read() as session:
        project = service.get_project(session, who.workspace_id, project_id)
        draft.kind = project.kind
        return _form(request, who, session, draft, errors, project)
