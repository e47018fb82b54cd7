"""REST from ratings to training data: what a snapshot would hold, making one, listing them, and rows as trl takes them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from app.feedback import answering, projects, snapshots
from app.feedback.rules import RowShape, Sheet
from app.web import After, Limit, Page, Reader, ReadSession, Writer, WriteSession, api_router, database_of, download, idempotent, paged

router = api_router("feedback")


class SnapshotIn(BaseModel):
    """A snapshot to be made, or looked at before it is made."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    shape: RowShape | None = None
    """Default: the usual one for the project's question. A shape in `rules` must be the same."""
    rules: dict[str, Any] = Field(default_factory=dict)
    """As `Rules`; what is left out keeps its default."""
    checkpoint: str | None = Field(None, max_length=200)
    """Id of the model to be trained, to tell how many of the answers are its own."""


class SnapshotOut(BaseModel):
    """Ratings frozen into a dataset."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    project: str
    dataset: str | None
    """Dataset it was frozen into; null once that is deleted."""
    dataset_name: str | None
    dataset_version: int | None
    shape: str
    method: str
    """Method that trains on it."""
    rules: dict[str, Any]
    counts: dict[str, Any]
    """The preflight sheet as it was."""
    sha256: str
    """Of the rows in order with their sides; the dataset has the same."""
    up_to: str
    """The last event it takes in."""
    created_at: str | None
    runs: list[TrainedRun]
    """Runs on this dataset, newest first."""


class TrainedRun(BaseModel):
    """A run that learns, or learned, from a snapshot."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str
    status: str
    method: str
    checkpoint: str | None
    """Best committed checkpoint by evaluation loss, else the last; null before there is one."""
    joined: bool
    """Whether that checkpoint has answered in this project."""


class AnswersIn(BaseModel):
    """A checkpoint that is to answer prompts of a project, so that people compare it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    checkpoint: str = Field(max_length=200)
    """Id or name."""
    prompts: answering.Which | None = None
    """held_out or all. Default: the held-out ones, or all where nothing was held out. Those it has answered are left out."""
    against: list[str] | None = Field(None, max_length=answering.MOST_OTHERS)
    """Checkpoints (id or name) that answer beside it. Default: what it was trained from."""
    limit: int = Field(200, ge=1, le=10_000)
    """Prompts at most."""
    sampling: dict[str, Any] | None = None
    """As a candidate's; default: as the others answered before."""


@router.post("/feedback/projects/{project_id}/preflight", response_model=Sheet)
def preflight(who: Writer, session: ReadSession, project_id: str, body: SnapshotIn) -> Any:
    """What a snapshot would hold: rows, what is left out and why, biases, split, what to look at. Changes nothing."""
    project = projects.get(session, who.workspace_id, project_id)
    return snapshots.preflight(session, project, snapshots.read_rules(project, body.shape, body.rules), body.checkpoint)


@router.post("/feedback/projects/{project_id}/snapshots", response_model=SnapshotOut, status_code=201)
def make_snapshot(who: Writer, request: Request, project_id: str, body: SnapshotIn) -> JSONResponse:
    """Freeze the ratings into a dataset that a run can train on at once. The same ratings and rules give the same snapshot."""
    database = database_of(request)
    with database.read() as session:
        project = projects.get(session, who.workspace_id, project_id)
        prepared = snapshots.prepare(session, project, snapshots.read_rules(project, body.shape, body.rules))
    try:
        with database.write() as session:

            def do() -> dict[str, Any]:
                project = projects.get(session, who.workspace_id, project_id, lock=True)
                return snapshots.detail(session, snapshots.freeze(session, project, prepared.rules, who.user_id, prepared))

            return idempotent(request, session, who, body, do)
    finally:
        prepared.discard()


@router.get("/feedback/projects/{project_id}/snapshots")
def list_snapshots(who: Reader, session: ReadSession, project_id: str, limit: Limit = 50, after: After = None) -> Page[SnapshotOut]:
    """Snapshots of a project, newest first."""
    project = projects.get(session, who.workspace_id, project_id)
    found = snapshots.listed(session, project, limit + 1, after)
    return paged([SnapshotOut.model_validate(each) for each in snapshots.details(session, project, found)], limit)


@router.post("/feedback/projects/{project_id}/answers", status_code=202)
def let_answer(who: Writer, session: WriteSession, request: Request, project_id: str, body: AnswersIn) -> JSONResponse:
    """Have a checkpoint answer prompts of a project beside others. The new items are rated like all, and it joins the leaderboard."""

    def do() -> dict[str, Any]:
        project = projects.get(session, who.workspace_id, project_id)
        asked = body.model_dump(exclude={"checkpoint"})
        job = answering.ask(session, project, body.checkpoint, **asked, created_by=who.user_id)
        return {"job": job.id, "prompts": len(job.payload["texts"]), "candidates": job.payload["candidates"]}

    return idempotent(request, session, who, body, do, status=202)


@router.get("/feedback/projects/{project_id}/export", response_class=StreamingResponse)
def export_rows(
    who: Reader,
    session: ReadSession,
    project_id: str,
    shape: Annotated[RowShape | None, Query(description="Default: the usual one for the project's question.")] = None,
    combine: Annotated[str, Query(description="majority, unanimous or every", max_length=20)] = "majority",
    min_grade: Annotated[int, Query(ge=1, le=3, description="Pairs: the least grade.")] = 1,
    meta: Annotated[bool, Query(description="Adds votes, agreement and models of each row as `meta`.")] = False,
) -> StreamingResponse:
    """The rows a snapshot would hold, in the columns trl's trainers take, as JSONL."""
    project = projects.get(session, who.workspace_id, project_id)
    rules = snapshots.read_rules(project, shape, {"combine": combine, "min_grade": min_grade, "held_out": 0})
    pieces = snapshots.export(session, project, rules, with_meta=meta)
    return download(pieces, f"{project.name}-{rules.shape}.jsonl", "application/jsonl")
