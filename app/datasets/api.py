"""REST of datasets and of the recipes that make them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from app import recipes
from app.accounts.schemas import Principal
from app.datasets import exporting, imports, service, tokens, uploads
from app.datasets.schemas import (
    DatasetDetail,
    DatasetOut,
    OverlapOut,
    ProblemOut,
    RecipeOut,
    RowOut,
    SearchOut,
    Split,
    TokenRow,
    TokenSummary,
    check_mapping,
    dataset_out,
    parse_mapping,
    parse_split,
    problem_out,
)
from app.datasets.tables import Dataset
from app.web import (
    After,
    Limit,
    Page,
    Reader,
    ReadSession,
    Writer,
    WriteSession,
    api_router,
    database_of,
    download,
    idempotent,
    paged,
    settings_of,
    upload,
)

router = api_router("datasets")

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "JSONL, JSON, CSV or Parquet, by its ending; UTF-8."},
                        "text": {"type": "string", "description": "Rows as text (JSONL, JSON or CSV; recognised), instead of a file."},
                        "name": {"type": "string", "description": "An existing name gets a new version. Empty: the file's name."},
                        "mapping": {
                            "type": "string",
                            "description": 'JSON: target field → column, such as {"prompt": "question", "completion": "answer"}.',
                        },
                        "split": {"type": "string", "description": 'JSON {"eval": 0.1, "seed": 42}; none unless asked for.'},
                    },
                }
            }
        },
    }
}


@router.post("/datasets", status_code=201, response_model=DatasetOut, openapi_extra=_FORM)
@upload
async def upload_dataset(who: Writer, request: Request) -> Response:
    """Upload a dataset as multipart form; a worker parses it. With an `Idempotency-Key` the same key answers the first result."""
    async with uploads.receive(request, settings_of(request).max_upload_bytes) as received:
        return await run_in_threadpool(_keep_upload, request, who, received)


def _keep_upload(request: Request, who: Principal, received: uploads.Received) -> Response:
    fields = received.fields
    mapping, split = parse_mapping(fields.get("mapping", "")), parse_split(fields.get("split", ""), fields.get("seed", ""))
    asked = {"name": fields.get("name", ""), "mapping": mapping, "split": split, "sha256": received.sha256, "file": received.file_name}
    made = False
    with database_of(request).write() as session:

        def create() -> dict[str, Any]:
            nonlocal made
            dataset = imports.create_upload(
                session, who.workspace_id, who.user_id, received, name=fields.get("name", ""), mapping=mapping, split=split
            )
            session.refresh(dataset)
            made = True
            return dataset_out(dataset)

        answer = idempotent(request, session, who, asked, create)
    if made:
        received.keep()
    return answer


@router.get("/datasets", response_model=Page[DatasetOut])
def list_datasets(
    who: Reader, session: ReadSession, limit: Limit = 50, after: After = None, q: str | None = None, latest: bool = False
) -> Any:
    """Datasets of the workspace, newest first; `latest` leaves out older versions."""
    found = service.list_datasets(session, who.workspace_id, limit=limit + 1, after=after, q=q, latest=latest)
    piece = paged(found, limit)
    return {"data": [dataset_out(dataset) for dataset in piece.data], "has_more": piece.has_more, "next": piece.next}


@router.get("/datasets/{dataset_id}", response_model=DatasetDetail)
def get_dataset(who: Reader, session: ReadSession, dataset_id: str) -> Any:
    """One version of a dataset; `id@3` is version 3 of the same name."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    totals = [
        {"checkpoint": count.checkpoint_id, "status": count.status, "tokens": count.tokens, "trained_tokens": count.trained_tokens}
        for count in tokens.counts(session, dataset.id)
    ]
    return {**dataset_out(dataset), "tokens": totals}


@router.delete("/datasets/{dataset_id}", status_code=204)
def delete_dataset(who: Writer, session: WriteSession, dataset_id: str) -> Response:
    """Remove a version that no run uses, with its files."""
    service.delete(session, who.workspace_id, dataset_id)
    return Response(status_code=204)


@router.post("/datasets/{dataset_id}/leave-out", status_code=201, response_model=DatasetOut)
def leave_out(who: Writer, session: WriteSession, request: Request, dataset_id: str) -> Any:
    """Make a new version without the lines that have errors."""
    return idempotent(
        request, session, who, {}, lambda: _fresh(session, imports.leave_out(session, who.workspace_id, who.user_id, dataset_id))
    )


class NewSplit(BaseModel):
    """How to split."""

    split: Split | None
    """The share for evaluation and its seed; null: nothing is kept for evaluation."""


@router.post("/datasets/{dataset_id}/split", status_code=201, response_model=DatasetOut)
def split_dataset(who: Writer, session: WriteSession, request: Request, dataset_id: str, body: NewSplit) -> Any:
    """Make a new version with another share kept for evaluation."""
    return idempotent(
        request,
        session,
        who,
        body,
        lambda: _fresh(session, imports.resplit(session, who.workspace_id, who.user_id, dataset_id, body.split)),
    )


class Mapping(BaseModel):
    """Which column is what."""

    mapping: dict[str, str]


@router.post("/datasets/{dataset_id}/map", status_code=201, response_model=DatasetOut)
def map_columns(who: Writer, session: WriteSession, request: Request, dataset_id: str, body: Mapping) -> Any:
    """Read the same file under another mapping: in place where the import failed, else as a new version."""
    mapping = check_mapping(body.mapping)
    return idempotent(
        request, session, who, body, lambda: _fresh(session, imports.remap(session, who.workspace_id, who.user_id, dataset_id, mapping))
    )


def _fresh(session: Any, dataset: Dataset) -> dict[str, Any]:
    session.flush()
    session.refresh(dataset)
    return dataset_out(dataset)


@router.get("/datasets/{dataset_id}/rows", response_model=Page[RowOut])
def list_rows(who: Reader, session: ReadSession, dataset_id: str, limit: Limit = 50, after: Annotated[int, Query(ge=0)] = 0) -> Any:
    """Usable rows in order, in canonical fields and as they were in the source."""
    found = service.rows(session, who.workspace_id, dataset_id, limit=limit + 1, after=after)
    return paged(found, limit, cursor=lambda row: str(row["number"]))


@router.get("/datasets/{dataset_id}/search", response_model=SearchOut)
def search_rows(
    who: Reader,
    session: ReadSession,
    dataset_id: str,
    q: Annotated[str, Query(min_length=1, max_length=200, description="Text that the rows hold, whatever its case.")],
    limit: Limit = 20,
    after: Annotated[int, Query(ge=0)] = 0,
) -> Any:
    """Rows that hold a text. In a large dataset a search ends after a while; `next` is where to go on (`after`)."""
    found = service.search(service.get(session, who.workspace_id, dataset_id), q, after, limit)
    return {"data": [{**row, "excerpt": "".join(row["excerpt"])} for row in found.rows], "next": found.next}


@router.get("/datasets/{dataset_id}/overlap", response_model=OverlapOut)
def overlap(
    who: Reader,
    session: ReadSession,
    dataset_id: str,
    other: Annotated[str, Query(alias="with", max_length=100, description="Id of the other dataset.")],
    limit: Limit = 50,
) -> Any:
    """Rows whose prompt another dataset holds too, but for case and spaces: what an evaluation on the other would not ask anew."""
    dataset, against = service.get(session, who.workspace_id, dataset_id), service.get(session, who.workspace_id, other)
    found = service.overlap(dataset, against, limit)
    return {"with": against.id, "count": found.count, "rows": [{"row": row, "other": place} for row, place in found.rows]}


@router.get("/datasets/{dataset_id}/problems", response_model=Page[ProblemOut])
def list_problems(
    who: Reader,
    session: ReadSession,
    dataset_id: str,
    limit: Limit = 50,
    after: Annotated[int, Query(ge=0)] = 0,
    severity: str | None = None,
) -> Any:
    """What is wrong with lines of the source, errors first; at most 1,000 of each severity are kept."""
    found = service.problems(session, who.workspace_id, dataset_id, limit=limit + 1, after=after, severity=severity)
    return paged([problem_out(problem) for problem in found], limit, cursor=lambda problem: str(problem["number"]))


@router.get("/datasets/{dataset_id}/tokens", response_model=TokenRow | TokenSummary)
def dataset_tokens(
    who: Reader,
    session: ReadSession,
    dataset_id: str,
    checkpoint: str,
    row: Annotated[int | None, Query(ge=1)] = None,
    max_length: Annotated[int | None, Query(ge=1)] = None,
) -> Any:
    """Lengths under the tokenizer of a checkpoint, or one row token by token (`row`, of the first that are kept so)."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    tokens.checkpoint_of(session, who.workspace_id, checkpoint)
    if row is not None:
        return tokens.row(session, dataset, checkpoint, row, max_length)
    return {"checkpoint": checkpoint, **tokens.summary(session, dataset.id, checkpoint, max_length)}


@router.post("/datasets/{dataset_id}/tokens", status_code=202, response_model=TokenSummary)
def count_tokens(who: Writer, session: WriteSession, dataset_id: str, checkpoint: str) -> Any:
    """Have the tokens counted under the tokenizer of a checkpoint."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    tokens.request(session, dataset, tokens.checkpoint_of(session, who.workspace_id, checkpoint))
    return {"checkpoint": checkpoint, **tokens.summary(session, dataset.id, checkpoint)}


@router.get("/datasets/{dataset_id}/export", response_class=StreamingResponse)
def export_dataset(
    who: Reader, session: ReadSession, dataset_id: str, format: Annotated[str, Query(description="jsonl, csv or parquet")] = "jsonl"
) -> StreamingResponse:
    """The usable rows as a download."""
    dataset = service.get(session, who.workspace_id, dataset_id)
    return download(exporting.export(dataset, format), f"{dataset.name}-{dataset.version}.{format}", exporting.EXPORTS[format])


# --- recipes --------------------------------------------------------------------------------------------------------------


@router.get("/recipes", response_model=list[RecipeOut], tags=["recipes"])
def list_recipes(who: Reader) -> Any:
    """Ways to make data, with their settings as JSON Schema."""
    return [
        {
            "name": each.name,
            "title": each.title,
            "summary": each.summary,
            "produces": each.produces,
            "params": each.params.model_json_schema(),
        }
        for each in recipes.registry().values()
    ]


@router.post("/recipes/{recipe}/runs", status_code=201, tags=["recipes"])
def run_recipe(who: Writer, session: WriteSession, request: Request, recipe: str, body: dict[str, Any]) -> Any:
    """Make data: the recipe's settings, and `name` for the dataset. Answers the datasets that are being made, the one to train on first."""
    params = dict(body)
    name = params.pop("name", None)

    def create() -> dict[str, Any]:
        made = imports.create_from_recipe(session, who.workspace_id, who.user_id, recipe=recipe, name=str(name or recipe), params=params)
        return {"id": made[0].id, "datasets": [_fresh(session, dataset) for dataset in made]}

    return idempotent(request, session, who, body, create)
