"""The pages that add data: a file, pasted rows, a recipe; with a look at the first rows before anything is kept."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app import recipes, shapes
from app.accounts.schemas import Principal
from app.checkpoints import service as checkpoints
from app.checkpoints.references import unfit
from app.datasets import glance, imports, service, uploads
from app.datasets.schemas import check_mapping, format_of, parse_mapping, parse_split
from app.datasets.views import Choice, choices
from app.errors import Invalid, StudioError
from app.recipes.base import WrittenRecipe
from app.web import Writer, database_of, page, pages_router, see_other, settings_of, unrecorded, upload

router = pages_router()

_Short = Annotated[str, Query(max_length=200)]


def asked_mapping(fields: Any) -> dict[str, str]:
    """The mapping that the selects of a form say; empty where none is chosen."""
    return {target: str(fields.get(f"map.{target}", ""))[:200] for target in shapes.TARGETS if fields.get(f"map.{target}")}


@router.get("/datasets/new")
def add_form(request: Request, who: Writer, name: _Short = "") -> Response:
    """The form that adds data: a file, pasted rows, or a recipe."""
    return _add_page(request, who, name, {}, None)


def _add_page(request: Request, who: Principal, name: str, values: dict[str, Any], error: StudioError | None) -> Response:
    every = sorted(recipes.registry().values(), key=lambda recipe: isinstance(recipe, WrittenRecipe))  # what needs no model comes first
    shown = [(recipe, choices(recipe.params)) for recipe in every]
    return page(
        request,
        "datasets/new.html",
        who,
        status=error.status if error else 200,
        name=name,
        error=error,
        values=values,
        recipes=shown,
        listed=_listed(request, who, [field for _, fields in shown for field in fields]),
        endpoint=bool(settings_of(request).writer_url and settings_of(request).writer_model),
        max_bytes=settings_of(request).max_upload_bytes,
        head_bytes=glance.HEAD_BYTES,
    )


def _listed(request: Request, who: Principal, fields: list[Choice]) -> dict[tuple[str, ...], list[tuple[str, str]]]:
    """Checkpoints and datasets that fields can name, id and name each, by what fits there."""
    with database_of(request).read() as session:
        models = checkpoints.list_checkpoints(session, who.workspace_id, limit=500, status="ready")
        data = service.list_datasets(session, who.workspace_id, limit=500, latest=True)
        found: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        for field in fields:
            if field.kind == "checkpoint":
                found[field.fits] = [(each.id, each.name) for each in models if not unfit(each, field.fits)]
            elif field.kind == "dataset":
                found[field.fits] = [(each.id, each.name) for each in data if each.status == "ready" and each.shape in field.fits]
        return found


@router.post("/datasets/preview")
@unrecorded
async def preview(who: Writer, request: Request) -> Response:
    """What the beginning of a file or of pasted text would be read as; keeps nothing."""
    form = await request.form(max_files=0, max_fields=50, max_part_size=8 * glance.HEAD_BYTES)
    fields = {name: str(value) for name, value in form.items()}
    return await run_in_threadpool(_preview, request, who, fields)


def _preview(request: Request, who: Principal, fields: dict[str, str]) -> Response:
    text, file, asked = fields.get("head", "")[: 2 * glance.HEAD_BYTES], fields.get("file", ""), asked_mapping(fields)
    found, problem = None, ""
    try:
        kind = format_of(file) if file else None
        if text.strip() or kind == "parquet":
            mapping = (check_mapping(asked) or {}) if "mapped" in fields else None
            found = glance.look(text, kind, cut=bool(fields.get("cut")), mapping=mapping)
    except Invalid as error:
        problem = error.message
    return page(request, "datasets/_glance.html", who, glance=found, problem=problem, targets=shapes.FIELDS)


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
            mapping=parse_mapping(fields.get("mapping", "")) or check_mapping(asked_mapping(fields)),
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
    fields = {choice.name: choice for choice in choices(kind.params)}
    typed = {name: found if fields[name].kind == "ticks" else found[-1] for name, found in values.items() if name in fields}
    name = (values.get("name") or [""])[-1].strip() or recipe
    try:
        read = {name: fields[name].read(found) for name, found in values.items() if name in fields}
        params = {name: value for name, value in read.items() if value is not None}
        with database_of(request).write() as session:
            made = imports.create_from_recipe(session, who.workspace_id, who.user_id, recipe=recipe, name=name, params=params)
            to = f"/datasets/{made[0].id}"
    except StudioError as error:
        return _add_page(request, who, "", {"recipe": recipe, "name": name, **typed}, error)
    return see_other(to)
