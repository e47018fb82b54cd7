"""The page of a new run: a form made from the schemas, and beside it what the run would do and take."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from sqlalchemy.orm import Session

from app import methods, presets, tuners
from app.accounts.schemas import Principal
from app.errors import Invalid, NotFound, StudioError
from app.forms import errors_of, posted_form
from app.methods.base import GROUPS, Objective
from app.plans import draft as drafts
from app.plans import service, sources
from app.plans.draft import Draft
from app.presets import Preset
from app.runs import service as runs
from app.runs import written
from app.runs.schemas import RunCreate
from app.web import ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router, settings_of

router = pages_router()

T = TypeVar("T")


Posted = Annotated[dict[str, str], Depends(posted_form)]


@router.get("/runs/new")
def new_run(request: Request, who: Writer, session: ReadSession) -> Response:
    """The form: empty, like the run `from`, to go on with a checkpoint of the run `parent`, or with what the link names filled in."""
    query = request.query_params
    if query.get("from"):
        draft = sources.like(runs.get(session, who.workspace_id, query["from"]))
    elif query.get("parent"):
        draft = sources.further(runs.get(session, who.workspace_id, query["parent"]), query.get("checkpoint", "")[:200])
    else:
        draft = drafts.from_link(session, who.workspace_id, query)
    return _form(request, who, session, draft, {})


@router.post("/runs/new")
def start_run(request: Request, who: Writer, session: WriteSession, posted: Posted) -> Response:
    """Queue the run; a field that cannot be used comes back with the form."""
    draft = drafts.from_post(posted)
    try:
        run = runs.create(session, who.workspace_id, who.user_id, draft.request())
    except StudioError as error:
        if error.status >= 500:
            raise
        return _form(request, who, session, draft, _errors(error))
    session.flush()
    return hx_redirect(request, f"/runs/{run.id}")


@router.post("/runs/new/fields")
def fields(request: Request, who: Writer, session: WriteSession, posted: Posted) -> Response:
    """The fields anew, after another method or tuner was chosen; what was typed stays."""
    return _form(request, who, session, drafts.from_post(posted), {}, status=200)


@router.post("/runs/new/yaml")
def fill_from_yaml(request: Request, who: Writer, session: WriteSession, posted: Posted) -> Response:
    """The fields as pasted YAML has them; what cannot be used comes back at its field, and YAML that cannot be read in a sentence."""
    try:
        draft = sources.from_yaml(session, who.workspace_id, posted.get("yaml", ""))
    except Invalid as error:
        if is_partial(request):
            return page(request, "runs/_paste_problem.html", who, status=422, problem=error.message)
        raise
    answer = _form(request, who, session, draft, _check(session, who.workspace_id, draft), status=200)
    answer.headers["HX-Trigger"] = "filled"
    return answer


def _check(session: Session, workspace_id: str, draft: Draft) -> dict[str, str]:
    """What is wrong in a draft, by field."""
    try:
        asked = draft.request()
        service.plan(session, workspace_id, asked)
    except StudioError as error:
        if error.status >= 500:
            raise
        return _errors(error)
    return {}


@router.post("/runs/new/plan")
def plan(request: Request, who: Writer, session: WriteSession, posted: Posted) -> Response:
    """What the run would do and take, as the form stands; how it is started elsewhere, and how it differs from the run it was made from."""
    draft = drafts.from_post(posted)
    context: dict[str, Any] = {"plan": None, "problems": [], "starts": {}, "parent": None, "differences": []}
    if draft.parent_run:
        with contextlib.suppress(NotFound):
            context["parent"] = parent = runs.get(session, who.workspace_id, draft.parent_run)
            context["differences"] = sources.differences(session, draft, parent)
    try:
        asked = draft.request()
        context["plan"] = service.plan(session, who.workspace_id, asked)
        context["starts"] = _starts(request, draft, asked)
    except StudioError as error:
        if error.status >= 500:
            raise
        called = drafts.titles(draft.groups({}))
        context["problems"] = [f"{called[name]}: {words}" if name in called else words for name, words in _errors(error).items()]
    return page(request, "runs/_plan.html", who, **context)


def _starts(request: Request, draft: Draft, asked: RunCreate) -> dict[str, str]:
    """The run as a file, a command and a call; what was typed as text becomes numbers."""
    values = written.request_of(asked)
    for name, kind in (("params", draft.objective.params), ("tuner_params", draft.how.params)):
        if values.get(name):
            values[name] = kind.model_validate(values[name]).model_dump(include=set(values[name]))
    return {
        "yaml": written.as_yaml(values),
        "command": written.as_command(values),
        "curl": written.as_curl(values, settings_of(request).address),
    }


def _errors(error: StudioError) -> dict[str, str]:
    if isinstance(error, Invalid):
        return errors_of(error)
    return {error.field or "": error.message}


def _form(request: Request, who: Principal, session: Session, draft: Draft, errors: dict[str, str], status: int | None = None) -> Response:
    models = drafts.models(session, who.workspace_id, draft.checkpoint, draft.objective)
    data = drafts.data(session, who.workspace_id, draft.dataset, draft.objective)
    if request.method == "GET":
        draft.checkpoint, draft.dataset = draft.checkpoint or drafts.only(models), draft.dataset or drafts.only(data)
    groups = draft.groups(errors)
    context: dict[str, Any] = {
        "draft": draft,
        "errors": errors,
        "titles": drafts.titles(groups),
        "others": drafts.others(session, who.workspace_id, groups),
        "methods": _by_need(),
        "tuners": _first(tuners.registry(), Draft.tuner),
        "trainable": service.shares(session, who.workspace_id, draft.checkpoint),
        "presets": _presets(),
        "groups": groups,
        "models": models,
        "datasets": data,
        "eval_datasets": drafts.data(session, who.workspace_id, draft.eval_dataset, draft.objective),
    }
    template = "runs/_fields.html" if is_partial(request) else "runs/new.html"
    return page(request, template, who, status=status or (422 if errors else 200), **context)


def _by_need() -> list[tuple[str, list[Objective]]]:
    """The methods by what people have, those to take first in front."""
    known = _first(methods.registry(), Draft.method).values()
    found = [(need, [each for each in known if each.group == need]) for need in GROUPS]
    return [(need, some) for need, some in found if some]


def _presets() -> list[tuple[str, list[Preset]]]:
    """The presets by what people have."""
    known = [each for each in presets.registry().values() if each.method in methods.registry()]
    return [(need, some) for need in GROUPS if (some := [each for each in known if methods.registry()[each.method].group == need])]


def _first(known: Mapping[str, T], name: str) -> dict[str, T]:
    """The registry with one entry in front: the one to take first."""
    return dict(sorted(known.items(), key=lambda item: item[0] != name))
