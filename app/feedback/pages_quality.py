"""Pages of what may be concluded from ratings: quality, leaderboard, and the items somebody has to decide. Reckons nothing itself."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.errors import StudioError
from app.feedback import adjudication, disputes, form, items, kept, leaderboard, projects, quality, verdicts, views
from app.feedback.tables import Project
from app.forms import posted_form
from app.web import Reader, ReadSession, Writer, WriteSession, hx_redirect, page, pages_router

router = pages_router()

Posted = Annotated[dict[str, str], Depends(posted_form)]
AT_ONCE = 5
"""Disputed items on one page."""
_POINTS = {"1": "1 very bad", "2": "2 bad", "3": "3 fair", "4": "4 good", "5": "5 very good"}
_GRADES = {
    "-3": "1 much better",
    "-2": "1 better",
    "-1": "1 slightly",
    "0": "About the same",
    "1": "2 slightly",
    "2": "2 better",
    "3": "2 much better",
    "both_good": "Both good",
    "both_bad": "Both bad",
}


def _context(who: Principal, project: Project, tab: str) -> dict[str, Any]:
    may_change = who.role in ("admin", "engineer")
    return {"project": project, "tab": tab, "may_change": may_change, "kind": form.KINDS[project.kind]}


@router.get("/feedback/{project_id}/quality")
def show_quality(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """Agreement, biases and raters, each with its interval and what it rests on."""
    project = projects.get(session, who.workspace_id, project_id)
    return page(
        request,
        "feedback/quality.html",
        who,
        report=quality.report(session, project),
        waiting=kept.kept(("waiting", project.id), project.seq, lambda: adjudication.waiting(session, project)),
        references=verdicts.REFERENCES,
        few=verdicts.FEW_ITEMS,
        **_context(who, project, "quality"),
    )


@router.get("/feedback/{project_id}/leaderboard")
def show_leaderboard(
    request: Request, who: Reader, session: ReadSession, project_id: str, adjusted: Annotated[str, Query(max_length=5)] = ""
) -> Response:
    """Which checkpoint people prefer, and how sure that is."""
    project = projects.get(session, who.workspace_id, project_id)
    return page(
        request,
        "feedback/leaderboard.html",
        who,
        board=leaderboard.board(session, project, adjusted=adjusted == "1"),
        features=leaderboard.FEATURES,
        **_context(who, project, "leaderboard"),
    )


@router.get("/feedback/{project_id}/adjudicate")
def show_disputed(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """Items whose votes settle nothing, and what was said of them."""
    return _disputed(request, who, session, projects.get(session, who.workspace_id, project_id))


def _disputed(request: Request, who: Principal, session: Session, project: Project, error: StudioError | None = None) -> Response:
    found = adjudication.queue(session, project, AT_ONCE)
    words = {
        (said.rating.item_id, said.rating.rater_id): views.words_of(project, said.rating, each.responses)
        for each in found
        for said in each.opinions
    }
    choices = _GRADES if project.kind == "pair" else {"0": "Bad", "1": "Good"} if project.scale == "thumbs" else _POINTS
    return page(
        request,
        "feedback/adjudicate.html",
        who,
        status=error.status if error else 200,
        error=error,
        disputed=found,
        waiting=adjudication.waiting(session, project),
        words=words,
        choices={} if project.kind == "rank" else choices,
        middles=_middles(found) if project.kind == "rank" else {},
        fresh=lambda: secrets.token_hex(16),
        **_context(who, project, "quality"),
    )


def _middles(found: list[adjudication.Disputed]) -> dict[str, dict[str, int]]:
    """Ranks that the form of each item begins with: the mean of what people said, or the order of the data."""
    made = {}
    for each in found:
        rankings = [said.rating.ranking for said in each.opinions if said.rating.ranking and said.rater.kind == "person"]
        there = [response for response in each.responses if response.finish != "edited"]
        made[each.item.id] = {response.id: number for number, response in enumerate(there, 1)} | disputes.middle(rankings)
    return made


@router.post("/feedback/{project_id}/adjudicate/{item_id}")
def decide(request: Request, who: Writer, session: WriteSession, project_id: str, item_id: str, posted: Posted) -> Response:
    """Decide a disputed item: `preference` of a pair or a single answer, `rank.ID` of each answer of a ranking. The next one follows."""
    project = projects.get(session, who.workspace_id, project_id)
    item = items.get(session, project, item_id)
    decision = _order(posted) if project.kind == "rank" else posted.get("preference", "")[:10]
    try:
        adjudication.decide(
            session, project, item, who, decision, posted.get("key", "")[:100] or secrets.token_hex(16), posted.get("comment", "")
        )
    except StudioError as error:
        if error.status not in (409, 422):
            raise
        return _disputed(request, who, session, project, error)
    return hx_redirect(request, f"/feedback/{project.id}/adjudicate")


def _order(posted: dict[str, str]) -> list[list[str]]:
    """Ids of answers by the ranks that were chosen, equal ones together."""
    ranks: dict[int, list[str]] = {}
    for name, value in posted.items():
        if name.startswith("rank.") and value.isdecimal() and len(value) < 3:
            ranks.setdefault(int(value), []).append(name.removeprefix("rank."))
    return [ranks[rank] for rank in sorted(ranks)]
