"""The pages of chains: the list, the form, one chain with its steps. What they show comes from the services."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from sqlalchemy.orm import Session

from app import methods
from app.accounts.schemas import Principal
from app.chains import check, service, views, written
from app.chains.schemas import ChainCreate
from app.chains.tables import Chain
from app.chains.written import Classic
from app.errors import Invalid, StudioError
from app.forms import errors_of, posted_form
from app.plans import draft as drafts
from app.plans import service as plans
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, is_partial, page, pages_router, unrecorded

router = pages_router()

PAGE_ROWS = 50
_WRITERS = ("admin", "engineer")
_FIELDS = ("checkpoint", "answers", "pairs", "prompts", "method", "tuner", "name")
_DATA = {"answers": "sft", "pairs": "reward", "prompts": ""}
"""Field of the form -> method whose rows it holds; the last one's is chosen in the form."""
Posted = Annotated[dict[str, str], Depends(posted_form)]
_Short = Annotated[str, Query(max_length=100)]


@router.get("/chains")
def list_chains(request: Request, who: Reader, session: ReadSession, after: _Short = "") -> Response:
    """Runs that follow one another, newest first."""
    found = service.list_chains(session, who.workspace_id, limit=PAGE_ROWS + 1, after=after or None)
    shown = found[:PAGE_ROWS]
    older = shown[-1].id if len(found) > PAGE_ROWS else None
    context: dict[str, Any] = {"lines": views.lines(session, shown), "older": older, "after": after, "may_change": who.role in _WRITERS}
    return page(request, "chains/list.html", who, **context)


# --- a new one ------------------------------------------------------------------------------------------------------------


@router.get("/chains/new")
def chain_form(request: Request, who: Writer, session: ReadSession, way: _Short = "") -> Response:
    """The form: the classic three steps, or any others as YAML (`way=yaml`)."""
    form = Classic(method=next(iter(written.offered()), ""))
    return _form(request, who, session, form, "yaml" if way == "yaml" or not form.method else "classic", "", {})


@router.post("/chains/new")
def start_chain(request: Request, who: Writer, session: WriteSession, posted: Posted) -> Response:
    """Start the chain; a field that cannot be used comes back with the form. `do=yaml` shows the classic one as YAML instead."""
    form, way, text = _typed(posted)
    try:
        asked = _asked(session, who.workspace_id, form, way, text)
        if posted.get("do") == "yaml":
            return _form(request, who, session, form, "yaml", written.as_yaml(asked), {}, status=200)
        chain = service.create(session, who.workspace_id, who.user_id, asked)
    except StudioError as error:
        if error.status >= 500:
            raise
        return _form(request, who, session, form, way, text, _errors(error, way))
    return hx_redirect(request, f"/chains/{chain.id}")


@router.post("/chains/new/plan")
@unrecorded
def plan(request: Request, who: Writer, session: WriteSession, posted: Posted) -> Response:
    """What the first step would do and take, and what stands in the way of any."""
    form, way, text = _typed(posted)
    context: dict[str, Any] = {"plan": None, "asked": None, "problems": []}
    try:
        context["asked"] = asked = _asked(session, who.workspace_id, form, way, text)
        check.rehearse(session, who.workspace_id, who.user_id, asked.steps)
        context["plan"] = plans.plan(session, who.workspace_id, asked.steps[0])
    except StudioError as error:
        if error.status >= 500:
            raise
        context["problems"] = list(dict.fromkeys(_errors(error, way).values()))
    return page(request, "chains/_plan.html", who, **context)


def _typed(posted: dict[str, str]) -> tuple[Classic, str, str]:
    form = Classic(**{name: posted[name][:200] for name in _FIELDS if name in posted})
    return form, "yaml" if posted.get("way") == "yaml" else "classic", posted.get("yaml", "")


def _asked(session: Session, workspace_id: str, form: Classic, way: str, text: str) -> ChainCreate:
    if way == "yaml":
        if not text.strip():
            raise Invalid("Paste the steps first.", field="yaml")
        return written.from_yaml(session, workspace_id, text)
    return form.asked()


def _errors(error: StudioError, way: str) -> dict[str, str]:
    """Sentences by field of the form; what has none there stands under the field that all others are in."""
    found = errors_of(error) if isinstance(error, Invalid) else {error.field or "": error.message}
    if way == "yaml":
        return {"yaml": " ".join(dict.fromkeys([error.message, *(f"{name}: {words}" for name, words in list(found.items())[1:])]))}
    shown = {}
    for name, words in found.items():
        place = written.PLACES.get(name) or next((each for each in ("tuner", "method") if name.endswith(f".{each}")), name)
        shown[place if place in _FIELDS else ""] = words if place in _FIELDS else error.message
    return shown


def _form(
    request: Request,
    who: Principal,
    session: Session,
    form: Classic,
    way: str,
    text: str,
    errors: dict[str, str],
    status: int | None = None,
) -> Response:
    offered = written.offered()
    last = form.method if form.method in offered else next(iter(offered), "")
    models = drafts.models(session, who.workspace_id, form.checkpoint)
    data = {
        name: drafts.data(session, who.workspace_id, getattr(form, name), methods.registry()[method or last])
        for name, method in _DATA.items()
        if (method or last) in methods.registry()
    }
    if request.method == "GET":
        form.checkpoint = form.checkpoint or drafts.only(models)
        for name, choices in data.items():
            setattr(form, name, getattr(form, name) or drafts.only(choices))
    context = {
        "form": form,
        "way": way,
        "yaml": text,
        "errors": errors,
        "models": models,
        "data": data,
        "methods": offered,
        "tuners": written.offered_tuners(),
    }
    template = "chains/_fields.html" if is_partial(request) else "chains/new.html"
    return page(request, template, who, status=status or (422 if errors else 200), **context)


# --- one chain ------------------------------------------------------------------------------------------------------------


@router.get("/chains/{chain_id}")
def show_chain(request: Request, who: Reader, session: ReadSession, chain_id: str) -> Response:
    """One chain with its steps."""
    return _shown(request, who, session, service.get(session, who.workspace_id, chain_id), "chains/detail.html")


@router.get("/chains/{chain_id}/live")
def live(request: Request, who: Reader, session: ReadSession, chain_id: str) -> Response:
    """The steps as they stand now, asked for again while they move."""
    return _shown(request, who, session, service.get(session, who.workspace_id, chain_id), "chains/_live.html")


@router.get("/chains/{chain_id}/row")
def row(request: Request, who: Reader, session: ReadSession, chain_id: str) -> Response:
    """A line of the list, asked for again while the chain moves."""
    chain = service.get(session, who.workspace_id, chain_id)
    return page(request, "chains/_row.html", who, line=views.lines(session, [chain])[0])


def _shown(request: Request, who: Principal, session: Session, chain: Chain, template: str, problem: str = "", typed: str = "") -> Response:
    context = {"line": views.lines(session, [chain])[0], "may_change": who.role in _WRITERS, "problem": problem, "typed": typed}
    return page(request, template, who, status=422 if problem else 200, **context)


@router.post("/chains/{chain_id}/cancel")
def cancel(request: Request, who: Writer, session: WriteSession, chain_id: str) -> Response:
    """Stop the chain for good, and the run it is at."""
    service.cancel(session, who.workspace_id, chain_id)
    return hx_redirect(request, f"/chains/{chain_id}")


@router.post("/chains/{chain_id}/continue")
def go_on(request: Request, who: Writer, session: WriteSession, chain_id: str, posted: Posted) -> Response:
    """Have a paused chain go on, as it was asked for or with other settings of the step it stopped at."""
    text = posted.get("step", "")
    try:
        step = written.step_from_yaml(session, who.workspace_id, text) if text.strip() else None
        service.go_on(session, who.workspace_id, who.user_id, chain_id, step)
    except StudioError as error:
        if not text.strip() or error.status >= 500:
            raise
        chain = service.get(session, who.workspace_id, chain_id)
        return _shown(request, who, session, chain, "chains/detail.html", error.message, text)
    return hx_redirect(request, f"/chains/{chain_id}")


@router.post("/chains/{chain_id}/delete")
def delete(request: Request, who: Writer, session: WriteSession, chain_id: str) -> Response:
    """Remove a chain that is over; its runs stay."""
    service.delete(session, who.workspace_id, chain_id)
    return hx_redirect(request, "/chains")
