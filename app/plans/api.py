"""REST of plans: what a run would do and take, before it is started."""

from __future__ import annotations

from typing import Any

from app.plans import service
from app.plans.schemas import Plan
from app.runs.schemas import RunCreate
from app.web import Writer, WriteSession, api_router

router = api_router("runs")


@router.post("/runs/plan", response_model=Plan)
def plan_run(who: Writer, session: WriteSession, body: RunCreate) -> Any:
    """Reckon a run without starting it: weights, steps, tokens, memory, time. Asks for the dataset's tokens to be counted, where they are
    not."""
    return service.plan(session, who.workspace_id, body)
