"""REST of judges: models that judge the items of a project. People's figures never count them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from app.database import iso
from app.feedback import judge_report, judges, projects
from app.feedback.judges import JudgeIn
from app.feedback.tables_judges import Judgement
from app.web import After, Limit, Page, Reader, ReadSession, Writer, WriteSession, api_router, idempotent, paged

router = api_router("feedback")


class Progress(BaseModel):
    """How the newest job of a judge stands."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    job: str
    status: str
    """queued, running, succeeded, failed or cancelled."""
    reason: str | None
    done: float | None
    total: float | None
    text: str | None


class JudgeOut(BaseModel):
    """A judge of a project."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    project: str
    name: str
    kind: str
    """reward: by the numbers it gives; model: by what it answers when asked."""
    checkpoint: str | None
    """Null once that is deleted; its verdicts stay."""
    principles: list[str]
    questions: list[str]
    """What it is asked of every item, word for word; empty where it gives numbers."""
    limit: int
    tie: float
    done: int
    """Items it has judged."""
    progress: Progress | None
    created_at: str | None


class JudgementOut(BaseModel):
    """What a judge says of an item."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    item: str
    preference: int | None
    """Pairs, as in a rating: -3 (the first answer of the data much better) to 3 (the second)."""
    score: float | None
    ranking: list[list[str]] | None
    lean: float | None
    """Pairs: probability that the second answer is picked. Single: the number before it became a score, or the reward."""
    questions: int
    flips: int
    """Questions that the two orders answered differently."""
    mass: float | None
    """Probability of the letters it could answer with."""
    own: bool
    """An answer of the item is by the judge's own checkpoint."""
    problem: str | None
    detail: dict[str, Any]
    """What the model gave: rewards, or what it answered to each principle in each order."""
    at: str | None


class GoOn(BaseModel):
    """How a judge goes on."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    limit: int | None = Field(None, ge=1, le=judges.MOST_ITEMS)
    """How many items it judges at most, those it has judged counted. None: as before."""


@router.post("/feedback/projects/{project_id}/judges", response_model=JudgeOut, status_code=201)
def add_judge(who: Writer, session: WriteSession, request: Request, project_id: str, body: JudgeIn) -> JSONResponse:
    """Have a checkpoint judge the items of a project. It is never counted as a person; with an `Idempotency-Key` it is added once."""
    project = projects.get(session, who.workspace_id, project_id)
    return idempotent(request, session, who, body, lambda: judges.judge_out(session, judges.add(session, project, body, who.user_id)))


@router.get("/feedback/projects/{project_id}/judges")
def list_judges(who: Reader, session: ReadSession, project_id: str) -> Page[JudgeOut]:
    """Judges of a project, the first one first."""
    project = projects.get(session, who.workspace_id, project_id)
    data = [JudgeOut.model_validate(judges.judge_out(session, judge)) for judge in judges.listed(session, project)]
    return Page(data=data, has_more=False, next=None)


@router.get("/feedback/projects/{project_id}/judges/{judge_id}")
def get_judge(who: Reader, session: ReadSession, project_id: str, judge_id: str) -> dict[str, Any]:
    """A judge with `report`: how far it agrees with people, next to people among each other, its flips and leanings, and warnings."""
    project = projects.get(session, who.workspace_id, project_id)
    judge = judges.get(session, project, judge_id)
    report = judge_report.report_out(judge_report.report(session, project, judge))
    return {**judges.judge_out(session, judge), "report": report}


@router.get("/feedback/projects/{project_id}/judges/{judge_id}/judgements")
def list_judgements(
    who: Reader,
    session: ReadSession,
    project_id: str,
    judge_id: str,
    limit: Limit = 50,
    after: After = None,
    item: Annotated[str | None, Query(max_length=100, description="Only what it says of this item.")] = None,
) -> Page[JudgementOut]:
    """What a judge says of each item, with what its model gave for it."""
    judge = judges.get(session, projects.get(session, who.workspace_id, project_id), judge_id)
    query = select(Judgement).where(Judgement.judge_id == judge.id).order_by(Judgement.item_id).limit(limit + 1)
    if after:
        query = query.where(Judgement.item_id > after)
    if item:
        query = query.where(Judgement.item_id == item)
    names = ("preference", "score", "ranking", "lean", "questions", "flips", "mass", "problem", "detail")
    data = [
        JudgementOut(item=one.item_id, own=one.is_own, at=iso(one.at), **{name: getattr(one, name) for name in names})
        for one in session.scalars(query)
    ]
    return paged(data, limit, lambda one: one.item)


@router.post("/feedback/projects/{project_id}/judges/{judge_id}/cancel", response_model=JudgeOut)
def cancel_judge(who: Writer, session: WriteSession, project_id: str, judge_id: str) -> dict[str, Any]:
    """Stop a judge; its verdicts stay, and it can go on."""
    judge = judges.get(session, projects.get(session, who.workspace_id, project_id), judge_id)
    judges.cancel(session, judge)
    return judges.judge_out(session, judge)


@router.post("/feedback/projects/{project_id}/judges/{judge_id}/resume", response_model=JudgeOut)
def resume_judge(
    who: Writer, session: WriteSession, project_id: str, judge_id: str, body: Annotated[GoOn | None, Body()] = None
) -> dict[str, Any]:
    """Let a judge go on that was stopped or failed, or judge items that came since. No item is judged twice."""
    project = projects.get(session, who.workspace_id, project_id)
    judge = judges.get(session, project, judge_id)
    judges.go_on(session, project, judge, body.limit if body else None)
    return judges.judge_out(session, judge)


@router.delete("/feedback/projects/{project_id}/judges/{judge_id}", status_code=204)
def delete_judge(who: Writer, session: WriteSession, project_id: str, judge_id: str) -> Response:
    """Remove a judge with all it said."""
    judges.delete(session, judges.get(session, projects.get(session, who.workspace_id, project_id), judge_id))
    return Response(status_code=204)
