"""REST of what may be concluded from ratings: the quality of the votes, and the leaderboard."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query

from app.feedback import leaderboard, projects, quality
from app.web import Reader, ReadSession, api_router

router = api_router("feedback")


@router.get("/feedback/projects/{project_id}/quality")
def get_quality(who: Reader, session: ReadSession, project_id: str) -> dict[str, Any]:
    """Agreement with 95 % intervals and counts, biases, gold, time, drift, each rater; automatic raters apart from people."""
    project = projects.get(session, who.workspace_id, project_id)
    return quality.report_out(quality.report(session, project))


@router.get("/feedback/projects/{project_id}/leaderboard")
def get_leaderboard(
    who: Reader,
    session: ReadSession,
    project_id: str,
    adjusted: Annotated[bool, Query(description="At equal length, headings, lists and bold text.")] = False,
) -> dict[str, Any]:
    """Bradley-Terry ratings in Elo points with intervals, rank ranges, and wins, ties and both-bad of every two models."""
    project = projects.get(session, who.workspace_id, project_id)
    return leaderboard.board_out(leaderboard.board(session, project, adjusted=adjusted))
