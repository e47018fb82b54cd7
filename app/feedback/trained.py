"""Runs that learned from the ratings of a project, and whether what they made answers in it. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import methods
from app.feedback.tables import Item, Project, Response
from app.runs import graded
from app.runs.graded import Line
from app.runs.summary import best_checkpoint
from app.runs.tables import Run

MOST_RUNS = 200


@dataclass(frozen=True)
class Trained:
    """A run on a snapshot."""

    run: Run
    checkpoint: str | None
    """Its best checkpoint; None before there is one."""
    can_answer: bool
    """Whether that writes text, so that people can compare it."""
    joined: bool
    """Whether it has answered in the project."""
    held_out: Line | None
    """All held-out pairs together, at the last evaluation."""


def runs_of(session: Session, project: Project, dataset_ids: Sequence[str]) -> dict[str, list[Trained]]:
    """Runs on these datasets by dataset, newest first."""
    query = select(Run).where(Run.workspace_id == project.workspace_id, Run.dataset_id.in_(dataset_ids))
    runs = list(session.scalars(query.order_by(Run.id.desc()).limit(MOST_RUNS)))
    best = best_checkpoint(session, [run.id for run in runs])
    there = select(Response.checkpoint_id).join(Item, Item.id == Response.item_id).where(Item.project_id == project.id)
    joined = set(session.scalars(there.where(Response.checkpoint_id.in_(list(best.values()))).distinct())) if best else set()
    shares = graded.overall(session, [run.id for run in runs])
    found: dict[str, list[Trained]] = defaultdict(list)
    for run in runs:
        made, objective = best.get(run.id), methods.registry().get(run.method)
        writes = objective is None or not objective.head
        found[run.dataset_id].append(Trained(run, made, bool(made) and writes, made in joined, shares.get(run.id)))
    return found


def run_out(each: Trained) -> dict[str, Any]:
    """A run on a snapshot, as REST shows it."""
    run = each.run
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "method": run.method,
        "checkpoint": each.checkpoint,
        "joined": each.joined,
    }
