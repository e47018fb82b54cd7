"""REST of feedback: projects, items, what a rater does, raters, and the raw votes."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Body, Header, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import NotFound
from app.feedback import api_judges, api_quality, api_train, raters, raw, service, slots
from app.feedback.schemas import (
    Gold,
    ItemIn,
    ProjectChange,
    ProjectCreate,
    Task,
    Vote,
    done_out,
    item_out,
    project_brief,
    project_out,
    rater_out,
    task_out,
)
from app.feedback.tables import Item, Project, Rater
from app.web import (
    After,
    Limit,
    Person,
    Reader,
    ReadSession,
    Writer,
    WriteSession,
    api_router,
    database_of,
    download,
    idempotent,
    paged,
    unrecorded,
)

router = api_router("feedback")

Key = Annotated[str | None, Header(alias="Idempotency-Key", description="The same key again changes nothing and answers the same.")]


class ItemsIn(BaseModel):
    """Items to add."""

    model_config = ConfigDict(extra="forbid")

    items: list[ItemIn] = Field(min_length=1, max_length=10_000)


class GoldIn(Gold):
    """The right answer of an item."""

    practice: bool = False
    """Whether it is for the practice round, whose raters are told the answer after theirs."""


class Next(BaseModel):
    """Which item is asked for."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    ahead: int = Field(0, ge=0, le=9)
    """0: the one to judge now. n: the n-th after it, kept for two minutes."""


class Reason(BaseModel):
    """Why an item is left."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(max_length=100)


class RaterChange(BaseModel):
    """What becomes of a rater."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    status: str = Field(pattern="^(active|paused|removed)$")
    """active, paused or removed; what they said stays."""
    reason: str = Field("", max_length=500)


# --- projects -------------------------------------------------------------------------------------------------------------


@router.post("/feedback/projects", status_code=201)
def create_project(who: Writer, session: WriteSession, request: Request, body: ProjectCreate) -> Response:
    """Make a project. With candidates, answers are generated at once. With an `Idempotency-Key` the same key answers the first result."""

    def _create() -> dict[str, Any]:
        project = service.create_project(session, who.workspace_id, body, who.user_id)
        if body.candidates:
            _generate(session, project, body, who)
        return project_out(project)

    return idempotent(request, session, who, body, _create)


def _generate(session: Session, project: Project, body: ProjectCreate, who: Principal) -> None:
    from app.feedback import generation

    generation.start(
        session,
        project,
        dataset=body.prompts,
        prompt_texts=body.prompt_texts,
        candidates=body.candidates,
        limit=body.limit,
        seed=body.seed,
        created_by=who.user_id,
    )


@router.get("/feedback/projects")
def list_projects(who: Person, session: ReadSession) -> dict[str, Any]:
    """Projects of the workspace, newest first; for a rater those that can be rated, without anything about where answers come from."""
    found = service.list_projects(session, who.workspace_id)
    if who.role == "rater":
        out = set(session.scalars(select(Rater.project_id).where(Rater.who == raters.key_of(who), Rater.status == "removed")))
        there = [project for project in found if project.status == "open" and project.id not in out]
        data = [project_brief(project) for project in there if who.project_id in (None, project.id)]
    else:
        data = [project_out(project) for project in found]
    return {"data": data, "has_more": False, "next": None}


@router.get("/feedback/projects/{project_id}")
def get_project(who: Reader, session: ReadSession, project_id: str) -> dict[str, Any]:
    """One project with its counters, and how its generation stands."""
    project = service.get_project(session, who.workspace_id, project_id)
    from app.feedback import generation

    return {**project_out(project), "generation": generation.progress(session, project)}


@router.patch("/feedback/projects/{project_id}")
def change_project(who: Writer, session: WriteSession, project_id: str, body: ProjectChange) -> dict[str, Any]:
    """Change a project at any time; more or less overlap adds or closes slots, and no vote is lost."""
    project = service.get_project(session, who.workspace_id, project_id)
    return project_out(service.change_project(session, project, body))


@router.delete("/feedback/projects/{project_id}", status_code=204)
def delete_project(who: Writer, session: WriteSession, project_id: str) -> Response:
    """Remove a project with its items and votes. Datasets made from it stay."""
    service.delete_project(session, service.get_project(session, who.workspace_id, project_id), by=who)
    return Response(status_code=204)


# --- items ----------------------------------------------------------------------------------------------------------------


@router.post("/feedback/projects/{project_id}/items", status_code=201)
def add_items(who: Writer, session: WriteSession, request: Request, project_id: str, body: ItemsIn) -> Response:
    """Add items with their responses, all or none; answers `{count, filtered: {reason: count}}`."""
    project = service.get_project(session, who.workspace_id, project_id)

    def _add() -> dict[str, Any]:
        added = service.add_items(session, project, body.items)
        return {"count": added.count, "filtered": added.filtered}

    return idempotent(request, session, who, body, _add)


@router.get("/feedback/projects/{project_id}/items")
def list_items(
    who: Reader,
    session: ReadSession,
    project_id: str,
    limit: Limit = 50,
    after: After = None,
    status: str | None = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
) -> dict[str, Any]:
    """Items with their responses and sources, in the order they came in.

    `status` is open, filtered, flagged, removed, gold or practice; proposed lists, at once, those that could be gold: three people or more
    say the same of them, strongly, and nobody anything else. `q` is a text of the prompt.
    """
    project = service.get_project(session, who.workspace_id, project_id)
    if status == "proposed":
        could = {each.item_id: each for each in service.proposed_gold(session, project)}
        found = service.some_items(session, project, list(could))
        answers = service.responses_of(session, list(could))
        data = [{**item_out(item, answers[item.id]), "proposed": could[item.id].gold.model_dump(exclude_none=True)} for item in found]
        return {"data": data, "has_more": False, "next": None}
    piece = paged(service.page_items(session, project, after, limit + 1, status, q), limit)
    there = service.responses_of(session, [item.id for item in piece.data])
    return {"data": [item_out(item, there[item.id]) for item in piece.data], "has_more": piece.has_more, "next": piece.next}


@router.delete("/feedback/projects/{project_id}/items/{item_id}", status_code=204)
def remove_item(who: Writer, session: WriteSession, project_id: str, item_id: str) -> Response:
    """Take an item out: nobody is asked about it any more. What was said of it stays in the log."""
    service.remove_item(session, service.get_project(session, who.workspace_id, project_id), item_id)
    return Response(status_code=204)


@router.put("/feedback/projects/{project_id}/items/{item_id}/gold")
def mark_gold(who: Writer, session: WriteSession, project_id: str, item_id: str, body: GoldIn) -> dict[str, Any]:
    """Make an item gold, or one for practice, or change its answer. Votes it had stay in the log and count no longer."""
    project = service.get_project(session, who.workspace_id, project_id)
    gold = Gold.model_validate(body.model_dump(exclude={"practice"}))
    item = service.mark_gold(session, project, item_id, gold, practice=body.practice)
    return item_out(item, service.responses_of(session, [item.id])[item.id])


@router.delete("/feedback/projects/{project_id}/items/{item_id}/gold")
def unmark_gold(who: Writer, session: WriteSession, project_id: str, item_id: str) -> dict[str, Any]:
    """Make a gold item an ordinary one again; all votes on it count then."""
    item = service.unmark_gold(session, service.get_project(session, who.workspace_id, project_id), item_id)
    return item_out(item, service.responses_of(session, [item.id])[item.id])


# --- rating ---------------------------------------------------------------------------------------------------------------


@router.post("/feedback/projects/{project_id}/next")
@unrecorded
def next_item(who: Person, session: WriteSession, project_id: str, body: Annotated[Next | None, Body()] = None) -> Response:
    """What the caller judges now, kept for them until `deadline`; 204 when nothing is left. Nothing in it tells where an answer is from."""
    project, rater = service.enter(session, who, project_id)
    return _task(service.claim(session, project, rater, ahead=body.ahead if body else 0))


@router.post("/feedback/projects/{project_id}/undo")
@unrecorded
def undo(who: Person, session: WriteSession, project_id: str, key: Key = None) -> Response:
    """Take back the caller's last vote, skip or flag, up to 20 in a row; answers the item with the old vote, or 204."""
    project = service.get_project(session, who.workspace_id, project_id)
    return _task(service.undo(session, project, service.rater_for(session, project, who), key or _fresh()))


@router.get("/feedback/projects/{project_id}/history")
def history(who: Person, session: ReadSession, project_id: str, limit: Limit = 50) -> dict[str, Any]:
    """What the caller did in a project, newest first."""
    raters.refuse_elsewhere(who, project_id)
    project = service.get_project(session, who.workspace_id, project_id)
    mine = session.scalars(select(Rater).where(Rater.project_id == project.id, Rater.who == raters.key_of(who))).first()
    data = service.history(session, project, mine, limit) if mine is not None else []
    return {"data": data, "has_more": False, "next": None}


@router.post("/feedback/slots/{slot}/rate")
@unrecorded
def rate(who: Person, session: WriteSession, slot: str, body: Vote, key: Key = None) -> dict[str, Any]:
    """Vote. It is taken whenever it comes: where the slot is filled already, `is_extra` is true."""
    project, rater = _at(session, who, slot)
    return done_out(service.rate(session, project, rater, slot, body, key or _fresh()))


@router.post("/feedback/slots/{slot}/skip")
@unrecorded
def skip(who: Person, session: WriteSession, slot: str, body: Reason, key: Key = None) -> dict[str, Any]:
    """Leave an item to others: cannot_judge, needs_expert, broken, duplicate or other."""
    project, rater = _at(session, who, slot)
    return done_out(service.skip(session, project, rater, slot, body.reason, key or _fresh()))


@router.post("/feedback/slots/{slot}/flag")
@unrecorded
def flag(who: Person, session: WriteSession, slot: str, body: Reason, key: Key = None) -> dict[str, Any]:
    """Say that an item should not be used: unsafe, personal, leak or cut."""
    project, rater = _at(session, who, slot)
    return done_out(service.flag(session, project, rater, slot, body.reason, key or _fresh()))


@router.post("/feedback/slots/{slot}/renew")
@unrecorded
def renew(who: Person, session: WriteSession, slot: str) -> dict[str, Any]:
    """Keep an item a while longer; 409 when somebody else has it now."""
    _, rater = _at(session, who, slot)
    return {"deadline": service.renew(session, rater, slot)}


@router.post("/feedback/slots/{slot}/release", status_code=204)
@unrecorded
def release(who: Person, session: WriteSession, slot: str) -> Response:
    """Give an item back, so that others need not wait."""
    _, rater = _at(session, who, slot)
    service.release(session, rater, slot)
    return Response(status_code=204)


def _at(session: Session, who: Principal, slot: str) -> tuple[Project, Rater]:
    """Project and rater of a slot's name; the slot itself may be gone."""
    item_id, _ = slots.parts_of(slot)
    project_id = session.scalar(select(Item.project_id).where(Item.id == item_id))
    if project_id is None:
        raise NotFound("There is no such item any more.")
    return service.enter(session, who, project_id, voting=True)


def _task(task: Task | None) -> Response:
    return Response(status_code=204) if task is None else JSONResponse(task_out(task))


def _fresh() -> str:
    return f"made-{secrets.token_hex(16)}"


# --- raters and votes -----------------------------------------------------------------------------------------------------


@router.get("/feedback/projects/{project_id}/raters")
def list_raters(who: Reader, session: ReadSession, project_id: str) -> dict[str, Any]:
    """Raters of a project, with what they did and how often they were right where the answer is known."""
    project = service.get_project(session, who.workspace_id, project_id)
    return {"data": [rater_out(rater) for rater in service.list_raters(session, project)], "has_more": False, "next": None}


@router.patch("/feedback/projects/{project_id}/raters/{rater_id}")
def change_rater(who: Writer, session: WriteSession, project_id: str, rater_id: str, body: RaterChange) -> dict[str, Any]:
    """Pause a rater, let one go on, or take one out; nothing they said is deleted."""
    rater = service.get_rater(session, service.get_project(session, who.workspace_id, project_id), rater_id)
    if body.status == "active":
        service.resume_rater(session, rater)
    elif body.status == "paused":
        service.pause_rater(session, rater, body.reason)
    else:
        service.remove_rater(session, rater)
    return rater_out(rater)


@router.get("/feedback/projects/{project_id}/votes", response_class=StreamingResponse)
def votes(who: Reader, session: ReadSession, request: Request, project_id: str) -> StreamingResponse:
    """All items with their responses and every vote on them as JSON Lines, streamed; one item a line."""
    project = service.get_project(session, who.workspace_id, project_id)
    return download(raw.lines(database_of(request), project.id), f"{project.id}-votes.jsonl", "application/x-ndjson")


router.routes.extend([*api_quality.router.routes, *api_judges.router.routes, *api_train.router.routes])
