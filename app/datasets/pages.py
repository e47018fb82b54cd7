"""The pages of datasets: the list, adding one, a dataset with its problems and examples. What they show comes from the services."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import Query, Request, Response
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app import recipes, shapes
from app.accounts.schemas import Principal
from app.datasets import imports, service, tokens, uploads
from app.datasets.schemas import check_mapping, parse_mapping, parse_split
from app.datasets.tables import Dataset, TokenCount
from app.datasets.views import bars, choices, marked, turns
from app.errors import Conflict, StudioError
from app.web import (
    Reader,
    ReadSession,
    Writer,
    database_of,
    download,
    hx_redirect,
    page,
    pages_router,
    see_other,
    settings_of,
    upload,
)

router = pages_router()

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
        versions=service.version_counts(session, who.workspace_id),
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
    counts = service.version_counts(session, who.workspace_id)
    return page(request, "datasets/_row.html", who, dataset=dataset, versions=counts, shapes=shapes.SHAPES)


# --- adding one -----------------------------------------------------------------------------------------------------------


@router.get("/datasets/new")
def add_form(request: Request, who: Writer, name: _Short = "") -> Response:
    """The form that adds data: a file, pasted rows, or a recipe."""
    return _add_page(request, who, name, {}, None)


def _add_page(request: Request, who: Principal, name: str, values: dict[str, Any], error: StudioError | None) -> Response:
    return page(
        request,
        "datasets/new.html",
        who,
        status=error.status if error else 200,
        name=name,
        error=error,
        values=values,
        recipes=[(recipe, choices(recipe.params)) for recipe in recipes.registry().values()],
        max_bytes=settings_of(request).max_upload_bytes,
    )


@router.post("/datasets")
@upload
async def add_upload(who: Writer, request: Request) -> Response:
    """Take an upload or pasted rows."""
    try:
        async with uploads.receive(request, settings_of(request).max_upload_bytes) as received:
            return await run_in_threadpool(_keep_upload, request, who, received)
    except StudioError as error:
        return await run_in_threadpool(_add_page, request, who, "", {}, error)


def _keep_upload(request: Request, who: Principal, received: uploads.Received) -> Response:
    fields = received.fields
    with database_of(request).write() as session:
        dataset = imports.create_upload(
            session,
            who.workspace_id,
            who.user_id,
            received,
            name=fields.get("name", ""),
            mapping=parse_mapping(fields.get("mapping", "")),
            split=parse_split(fields.get("split", ""), fields.get("seed", "")),
        )
        to = f"/datasets/{dataset.id}"
    received.keep()
    return see_other(to)


@router.post("/datasets/recipes/{recipe}")
async def add_by_recipe(who: Writer, request: Request, recipe: str) -> Response:
    """Make data with a recipe."""
    form = await request.form(max_files=0, max_fields=100)
    values = {name: [str(value) for value in form.getlist(name)] for name in form}
    return await run_in_threadpool(_make, request, who, recipe, values)


def _make(request: Request, who: Principal, recipe: str, values: dict[str, list[str]]) -> Response:
    kind = recipes.get(recipe)
    lists = {choice.name for choice in choices(kind.params) if choice.options}
    params = {
        name: found if name in lists else found[-1]
        for name, found in values.items()
        if name in kind.params.model_fields and (name in lists or found[-1].strip())
    }
    name = (values.get("name") or [""])[-1].strip() or recipe
    try:
        with database_of(request).write() as session:
            made = imports.create_from_recipe(session, who.workspace_id, who.user_id, recipe=recipe, name=name, params=params)
            to = f"/datasets/{made[0].id}"
    except StudioError as error:
        return _add_page(request, who, "", {"recipe": recipe, "name": name, **params}, error)
    return see_other(to)


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
) -> Response:
    """One version of a dataset: numbers, problems first, lengths, examples, versions."""
    return _show(request, who, session, service.get(session, who.workspace_id, dataset_id), row=row, view=view, limit=limit)


def _show(
    request: Request,
    who: Principal,
    session: Session,
    dataset: Dataset,
    *,
    row: int = 1,
    view: str = "chat",
    limit: int = 1024,
    error: StudioError | None = None,
) -> Response:
    lineage = dataset.lineage or {}
    return page(
        request,
        "datasets/detail.html",
        who,
        status=error.status if error else 200,
        dataset=dataset,
        error=error,
        shape=shapes.SHAPES.get(dataset.shape or ""),
        unit=_unit(dataset),
        problems=service.problems(session, who.workspace_id, dataset.id, limit=SHOWN_PROBLEMS),
        versions=service.versions(session, dataset),
        used_by=service.used_by(session, dataset),
        lineage=lineage,
        mapping=_mapping_context(dataset, dataset.mapping or shapes.suggest(dataset.columns) or {}),
        may_change=who.role in _WRITERS,
        **_lengths_context(session, who, dataset, limit),
        **_example_context(session, dataset, row, view),
    )


def _unit(dataset: Dataset) -> str:
    return str((dataset.lineage or {}).get("unit", "line"))


@router.get("/datasets/{dataset_id}/progress")
def progress(request: Request, who: Reader, session: ReadSession, dataset_id: str) -> Response:
    """How far an import is; when it has ended, the browser loads the page anew."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    if dataset.status != "importing":
        return hx_redirect(request, f"/datasets/{dataset.id}")
    return page(request, "datasets/_progress.html", who, dataset=dataset)


@router.get("/datasets/{dataset_id}/example")
def example(
    request: Request, who: Reader, session: ReadSession, dataset_id: str, row: Annotated[int, Query(ge=1)] = 1, view: _Short = "chat"
) -> Response:
    """One example; without htmx its whole page."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    return page(request, "datasets/_example.html", who, dataset=dataset, **_example_context(session, dataset, row, view))


@router.get("/datasets/{dataset_id}/lines/{line}")
def line(who: Reader, session: ReadSession, dataset_id: str, line: int) -> Response:
    """The example that stood in a line of the source, or the problems where that line is none."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    number = service.number_of_line(dataset, line)
    return see_other(f"/datasets/{dataset.id}?row={number}#example" if number else f"/datasets/{dataset.id}#problems")


def _example_context(session: Session, dataset: Dataset, row: int, view: str) -> dict[str, Any]:
    number = min(row, dataset.rows)
    if dataset.status != "ready" or not number:
        return {"example": None}
    record = service.read_rows(dataset, number - 1, 1)[0]
    count = _ready_count(session, dataset)
    seen = None
    if count and number <= tokens.SHOWN_ROWS:
        seen = tokens.row(session, dataset, count.checkpoint_id, number)
    view = view if view in ("chat", "json", "tokens") and (view != "tokens" or seen) else "chat"
    return {
        "example": {
            "number": number,
            "line": record["line"],
            "unit": _unit(dataset),
            "split": record["split"],
            "view": view,
            "turns": turns(record["row"], dataset.shape or "text"),
            "json": orjson.dumps(record["source"], option=orjson.OPT_INDENT_2).decode(),
            "has_tokens": seen is not None,
            "tokens": [marked(seen[side]) for side in ("tokens", "rejected") if seen[side]] if seen else [],
            "count": len(seen["tokens"]) if seen else 0,
            "trained": sum(token["trained"] for token in seen["tokens"]) if seen else 0,
        }
    }


# --- token lengths --------------------------------------------------------------------------------------------------------


def _ready_count(session: Session, dataset: Dataset) -> TokenCount | None:
    return next((count for count in tokens.counts(session, dataset.id) if count.status == "ready"), None)


def _lengths_context(session: Session, who: Principal, dataset: Dataset, limit: int) -> dict[str, Any]:
    counts = tokens.counts(session, dataset.id)
    count = next((each for each in counts if each.status == "ready"), counts[0] if counts else None)
    context: dict[str, Any] = {"count": count, "limit": limit, "limits": sorted({*LIMITS, limit}), "summary": None, "bars": None}
    context["tokenizers"] = tokens.tokenizers(session, who.workspace_id) if dataset.status == "ready" else []
    if count and count.status == "ready":
        context["summary"] = tokens.summary(session, dataset.id, count.checkpoint_id, limit)
        context["whole"] = tokens.summary(session, dataset.id, count.checkpoint_id)
        context["bars"] = bars(*tokens.histogram(count), limit)
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
    except Conflict as error:
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


@router.post("/datasets/{dataset_id}/delete")
def delete(who: Writer, request: Request, dataset_id: str) -> Response:
    """Delete a version, or say what needs it."""

    def remove(session: Session) -> str:
        service.delete(session, who.workspace_id, dataset_id)
        return "/datasets"

    return _change(request, who, dataset_id, remove)


def _mapping_context(dataset: Dataset, mapping: dict[str, str]) -> dict[str, Any]:
    preview: list[dict[str, Any]] = (dataset.lineage or {}).get("preview") or []
    found: list[dict[str, Any]] = []
    form = None
    for source in preview:
        row = shapes.mapped(source, mapping)
        form = shapes.detect(row)
        if form is None:
            break
        try:
            found.append({"turns": turns(shapes.read(row, form).row, shapes.FORMS[form].shape), "problem": None})
        except shapes.Wrong as wrong:
            found.append({"turns": [], "problem": wrong.message})
    title = shapes.SHAPES[shapes.FORMS[form].shape].title if form else None
    return {"chosen": mapping, "targets": shapes.FIELDS, "preview": found, "form": form, "shape": title, "source": preview}


def _asked_mapping(fields: Any) -> dict[str, str]:
    return {target: str(fields.get(f"map.{target}", ""))[:200] for target in shapes.TARGETS if fields.get(f"map.{target}")}


@router.get("/datasets/{dataset_id}/map")
def preview_mapping(request: Request, who: Reader, session: ReadSession, dataset_id: str) -> Response:
    """What the first rows become under a mapping."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    mapping = _mapping_context(dataset, _asked_mapping(request.query_params))
    return page(request, "datasets/_mapped.html", who, dataset=dataset, mapping=mapping)


@router.post("/datasets/{dataset_id}/map")
async def map_columns(who: Writer, request: Request, dataset_id: str) -> Response:
    """Read the file again under a mapping."""
    mapping = check_mapping(_asked_mapping(await request.form(max_files=0, max_fields=50)))
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
    text = "".join(service.problem_report(session, who.workspace_id, dataset.id))
    return download(iter([text]), f"{dataset.name}-{dataset.version}-problems.csv", service.EXPORTS["csv"])
