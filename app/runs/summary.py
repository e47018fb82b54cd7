"""What a run that has ended leaves to say: how it went in one line, and which checkpoint to go on with. Reads only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app import methods
from app.checkpoints.tables import Checkpoint
from app.metrics import service as metrics
from app.runs.tables import Run


@dataclass(frozen=True)
class Summary:
    """How a finished run went."""

    best_eval: float | None
    best_step: int | None
    """Step of the best evaluation."""
    first_eval: float | None
    first_loss: float | None
    last_loss: float | None
    seconds: float | None
    tokens: float | None
    checkpoint: str | None
    """Id of the best committed checkpoint by evaluation loss, else of the last."""
    checkpoint_step: int | None
    is_best: bool
    """Whether that checkpoint was chosen by its evaluation loss, among several."""
    writes: bool
    """Whether its checkpoints write text, rather than give numbers or classes."""
    before: str | None
    """Id of what the model it started from had been trained from, where that was a run: a fine-tune on top of another, or its undoing."""


def summary(session: Session, run: Run) -> Summary | None:
    """The summary of a run that is over and has something to show; None for others."""
    if run.status not in ("succeeded", "cancelled") or not run.step:
        return None
    evals = _finite(metrics.series(session, run.id, ["eval_loss"], points=10**9), "eval_loss")
    losses = [value for _, value in run.spark]  # the small curve keeps the first point and the last, without reading a million
    best = min(evals, key=lambda each: each[1], default=None)
    rows = session.execute(_committed([run.id])).all()
    scored = [(value, row.id, row.step) for row in rows if isinstance(value := (row.metrics or {}).get("eval_loss"), int | float)]
    chosen = min(scored)[1:] if scored else (rows[0].id, rows[0].step) if rows else (None, None)
    method = methods.registry().get(run.method)
    seconds, tokens = run.latest.get("elapsed_seconds"), run.latest.get("tokens")
    return Summary(
        best_eval=best[1] if best else None,
        best_step=best[0] if best else None,
        first_eval=evals[0][1] if len(evals) > 1 else None,
        first_loss=losses[0] if len(losses) > 1 else None,
        last_loss=losses[-1] if losses else None,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        tokens=float(tokens) if isinstance(tokens, int | float) else None,
        checkpoint=chosen[0],
        checkpoint_step=chosen[1],
        is_best=len(scored) > 1,
        writes=method is None or method.produces == "policy",
        before=_trained_from(session, run.checkpoint_id),
    )


def _trained_from(session: Session, checkpoint_id: str) -> str | None:
    """Id of the checkpoint that the run started from which made this one."""
    made = select(Checkpoint.run_id).where(Checkpoint.id == checkpoint_id).scalar_subquery()
    return session.scalar(select(Run.checkpoint_id).where(Run.id == made))


def best_checkpoint(session: Session, run_ids: list[str]) -> dict[str, str]:
    """Id of the best committed checkpoint of each run by evaluation loss, else of the last; runs without one are left out."""
    best: dict[str, tuple[float, str]] = {}
    found: dict[str, str] = {}
    for row in session.execute(_committed(run_ids)):
        value = (row.metrics or {}).get("eval_loss")
        loss = float(value) if isinstance(value, int | float) else math.inf
        rank = (loss, row.id if loss < math.inf else "")
        if row.run_id not in best or rank < best[row.run_id]:
            best[row.run_id], found[row.run_id] = rank, row.id
    return found


def _committed(run_ids: list[str]) -> Select[Any]:
    return (
        select(Checkpoint.run_id, Checkpoint.id, Checkpoint.step, Checkpoint.metrics)
        .where(Checkpoint.run_id.in_(run_ids), Checkpoint.status == "ready")
        .order_by(Checkpoint.step.desc())
    )


def _finite(found: dict[str, metrics.Series], name: str) -> list[tuple[int, float]]:
    if name not in found:
        return []
    steps, values = found[name]
    return [(step, value) for step, value in zip(steps.tolist(), values.tolist(), strict=True) if math.isfinite(value)]
