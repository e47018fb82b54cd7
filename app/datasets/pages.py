"""The pages of datasets: the list, adding one, a dataset with its problems and examples. What they show comes from the services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import shapes
from app.accounts.schemas import Principal
from app.datasets import exporting, glance, imports, pages_add, service, tokens
from app.datasets.examples import example_context, unit_of
from app.datasets.pages_add import asked_mapping
from app.datasets.schemas import check_mapping, parse_split
from app.datasets.tables import Dataset
from app.datasets.views import bars
from app.errors import Conflict, Invalid, StudioError
from app.web import (
    Reader,
    ReadSession,
    Writer,
    database_of,
    download,
    hx_redirect,
    is_partial,
    page,
    pages_router,
    see_other,
)

router = pages_router()
router.routes.extend(pages_add.router.routes)  # before the pages of one dataset, whose address would take theirs for an id

PAGE_ROWS = 50
SHOWN_PROBLEMS = 50
LIMITS = (256, 512, 1024, 2048, 4096, 8192)
_WRITERS = ("admin", "engineer")
_Short = Annotated[str, Query(max_length=200)]


# --- the list -------------------------------------------------------------------------------------------------------------


@router.get("/datasets")
def list_datasets(request: Request, who: Reader, session: ReadSession, q: _Short = "", after: _Short = "") -> Response:
    """The newest version of every dataset, newest first."""
    found = service.list_datasets(session, who.workspace_id, limit=PAGE_ROWS + 1, after=after or None, q=q.strip(), latest=True)
    shown = found[:PAGE_ROWS]
    return page(
        request,
        "datasets/list.html",
        who,
        datasets=shown,
        beside=service.beside(session, shown),
        shapes=shapes.SHAPES,
        older=shown[-1].id if len(found) > PAGE_ROWS else None,
        q=q,
        after=after,
        may_change=who.role in _WRITERS,
    )


@router.get("/datasets/{dataset_id}/row")
def list_row(request: Request, who: Reader, session: ReadSession, dataset_id: str) -> Response:
    """A line of the list, asked for again while its import goes on."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    return page(request, "datasets/_row.html", who, dataset=dataset, beside=service.beside(session, [dataset]), shapes=shapes.SHAPES)


# --- one dataset ----------------------------------------------------------------------------------------------------------


@router.get("/datasets/{dataset_id}")
def show(
    request: Request,
    who: Reader,
    session: ReadSession,
    dataset_id: str,
    row: Annotated[int, Query(ge=1)] = 1,
    view: _Short = "chat",
    limit: Annotated[int, Query(ge=1, le=1_000_000)] = 1024,
    q: _Short = "",
    after: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """One version of a dataset: numbers, problems first, lengths, examples, versions."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    return _show(request, who, session, dataset, row=row, view=view, limit=limit, q=q, after=after)


def _show(
    request: Request,
    who: Principal,
    session: Session,
    dataset: Dataset,
    *,
    row: int = 1,
    view: str = "chat",
    limit: int = 1024,
    q: str = "",
    after: int = 0,
    error: StudioError | None = None,
) -> Response:
    lineage = dataset.lineage or {}
    parent = session.get(Dataset, dataset.parent_id) if dataset.parent_id else None
    return page(
        request,
        "datasets/detail.html",
        who,
        status=error.status if error else 200,
        dataset=dataset,
        error=error,
        shape=shapes.SHAPES.get(dataset.shape or ""),
        unit=unit_of(dataset),
        checks=dataset.checks or {},
        parent=parent,
        others=service.comparable(session, dataset) if dataset.status == "ready" else [],
        problems=service.problems(session, who.workspace_id, dataset.id, limit=SHOWN_PROBLEMS),
        versions=service.versions(session, dataset),
        used_by=service.used_by(session, dataset),
        lineage=lineage,
        mapping=_mapping_context(dataset, dataset.mapping or shapes.suggest(dataset.columns) or {}),
        may_change=who.role in _WRITERS,
        **_lengths_context(session, who, dataset, limit),
        **example_context(session, dataset, row, view, q, after),
    )


@router.get("/datasets/{dataset_id}/progress")
def progress(request: Request, who: Reader, session: ReadSession, dataset_id: str) -> Response:
    """How far an import is; when it has ended, the browser loads the page anew."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    if dataset.status != "importing":
        return hx_redirect(request, f"/datasets/{dataset.id}")
    return page(request, "datasets/_progress.html", who, dataset=dataset)


@router.get("/datasets/{dataset_id}/example")
def example(
    request: Request,
    who: Reader,
    session: ReadSession,
    dataset_id: str,
    row: Annotated[int, Query(ge=1)] = 1,
    view: _Short = "chat",
    q: _Short = "",
    after: Annotated[int, Query(ge=0)] = 0,
) -> Response:
    """One example, and the rows that hold a text; without htmx the whole page around it."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    if not is_partial(request):
        return _show(request, who, session, dataset, row=row, view=view, q=q, after=after)
    return page(request, "datasets/_example.html", who, dataset=dataset, **example_context(session, dataset, row, view, q, after))


@router.get("/datasets/{dataset_id}/lines/{line}")
def line(who: Reader, session: ReadSession, dataset_id: str, line: int) -> Response:
    """The example that stood in a line of the source, or the problems where that line is none."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    number = service.number_of_line(dataset, line)
    return see_other(f"/datasets/{dataset.id}?row={number}#example" if number else f"/datasets/{dataset.id}#problems")


# --- token lengths --------------------------------------------------------------------------------------------------------


def _lengths_context(session: Session, who: Principal, dataset: Dataset, limit: int) -> dict[str, Any]:
    counts = tokens.counts(session, dataset.id)
    count = next((each for each in counts if each.status == "ready"), counts[0] if counts else None)
    context: dict[str, Any] = {
        "count": count,
        "limit": limit,
        "limits": sorted({*LIMITS, limit}),
        "summary": None,
        "bars": None,
        "letters": None,
    }
    context["tokenizers"] = tokens.tokenizers(session, who.workspace_id) if dataset.status == "ready" else []
    if count and count.status == "ready":
        context["summary"] = tokens.summary(session, dataset.id, count.checkpoint_id, limit)
        context["whole"] = tokens.summary(session, dataset.id, count.checkpoint_id)
        context["bars"] = bars(*tokens.histogram(count), limit)
    elif counted := (dataset.checks or {}).get("characters"):
        context["bars"] = bars(counted["width"], counted["counts"], None)
        context["letters"] = counted
    return context


@router.get("/datasets/{dataset_id}/lengths")
def lengths(
    request: Request, who: Reader, session: ReadSession, dataset_id: str, limit: Annotated[int, Query(ge=1, le=1_000_000)] = 1024
) -> Response:
    """The token lengths, asked for again while they are counted."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    context = _lengths_context(session, who, dataset, limit)
    if request.headers.get("hx-request") and context["summary"] and "limit" not in request.query_params:
        return hx_redirect(request, f"/datasets/{dataset.id}")  # counted by now: the five numbers change too
    return page(request, "datasets/_lengths.html", who, dataset=dataset, may_change=who.role in _WRITERS, **context)


@router.post("/datasets/{dataset_id}/tokens")
async def count_tokens(who: Writer, request: Request, dataset_id: str) -> Response:
    """Have the tokens counted."""
    form = await request.form(max_files=0, max_fields=10)

    def ask(session: Session) -> str:
        dataset = service.get(session, who.workspace_id, dataset_id)
        tokens.request(session, dataset, tokens.checkpoint_of(session, who.workspace_id, str(form.get("checkpoint", ""))))
        return f"/datasets/{dataset.id}"

    return await run_in_threadpool(_change, request, who, dataset_id, ask)


# --- changes --------------------------------------------------------------------------------------------------------------


def _change(request: Request, who: Principal, dataset_id: str, do: Callable[[Session], str]) -> Response:
    """Do something in one transaction and go where it says; a refusal is shown on the dataset's page."""
    try:
        with database_of(request).write() as session:
            to = do(session)
    except (Conflict, Invalid) as error:
        with database_of(request).read() as session:
            return _show(request, who, session, service.get(session, who.workspace_id, dataset_id), error=error)
    return hx_redirect(request, to)


@router.post("/datasets/{dataset_id}/leave-out")
def leave_out(who: Writer, request: Request, dataset_id: str) -> Response:
    """Make a version without the lines that have errors."""
    return _change(
        request,
        who,
        dataset_id,
        lambda session: f"/datasets/{imports.leave_out(session, who.workspace_id, who.user_id, dataset_id).id}",
    )


@router.post("/datasets/{dataset_id}/split")
async def split(who: Writer, request: Request, dataset_id: str) -> Response:
    """Make a version with another share kept for evaluation."""
    form = await request.form(max_files=0, max_fields=10)
    asked = parse_split(str(form.get("share", "")), str(form.get("seed", "")))
    return await run_in_threadpool(
        _change,
        request,
        who,
        dataset_id,
        lambda session: f"/datasets/{imports.resplit(session, who.workspace_id, who.user_id, dataset_id, asked).id}",
    )


@router.get("/datasets/{dataset_id}/overlap")
def overlap(
    request: Request, who: Reader, session: ReadSession, dataset_id: str, other: Annotated[str, Query(alias="with", max_length=100)]
) -> Response:
    """Which prompts another dataset holds too."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    against = service.get(session, who.workspace_id, other)
    context: dict[str, Any] = {"dataset": dataset, "against": against, "found": None, "refusal": None}
    try:
        context["found"] = service.overlap(dataset, against)
    except Conflict as error:
        context["refusal"] = error.message
    template = "datasets/_overlap.html" if is_partial(request) else "datasets/overlap.html"
    return page(request, template, who, others=service.comparable(session, dataset), **context)


@router.post("/datasets/{dataset_id}/delete")
def delete(who: Writer, request: Request, dataset_id: str) -> Response:
    """Delete a version, or say what needs it."""

    def remove(session: Session) -> str:
        service.delete(session, who.workspace_id, dataset_id)
        return "/datasets"

    return _change(request, who, dataset_id, remove)


def _mapping_context(dataset: Dataset, mapping: dict[str, str]) -> dict[str, Any]:
    """What the first rows of the source become under a mapping."""
    sources: list[dict[str, Any]] = (dataset.lineage or {}).get("preview") or []
    if dataset.status == "ready":
        sources = [record["source"] for record in service.read_rows(dataset, 0, glance.SHOWN_ROWS)]
    return {"chosen": mapping, "targets": shapes.FIELDS, "seen": glance.preview(sources, mapping), "source": sources}


@router.get("/datasets/{dataset_id}/map")
def preview_mapping(request: Request, who: Reader, session: ReadSession, dataset_id: str) -> Response:
    """What the first rows become under a mapping."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    mapping = _mapping_context(dataset, asked_mapping(request.query_params))
    return page(request, "datasets/_mapped.html", who, dataset=dataset, mapping=mapping)


@router.post("/datasets/{dataset_id}/map")
async def map_columns(who: Writer, request: Request, dataset_id: str) -> Response:
    """Read the file again under a mapping."""
    mapping = check_mapping(asked_mapping(await request.form(max_files=0, max_fields=50)))
    return await run_in_threadpool(
        _change,
        request,
        who,
        dataset_id,
        lambda session: f"/datasets/{imports.remap(session, who.workspace_id, who.user_id, dataset_id, mapping).id}",
    )


@router.get("/datasets/{dataset_id}/problems.csv")
def report(who: Reader, session: ReadSession, dataset_id: str) -> Response:
    """The problems as a file."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    text = "".join(exporting.problem_report(session, who.workspace_id, dataset.id))
    return download(iter([text]), f"{dataset.name}-{dataset.version}-problems.csv", exporting.EXPORTS["csv"])
