"""Reckon what a run would take on rows that are no dataset yet, from their number and length. Reads no row and counts no token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.checkpoints import service as checkpoints
from app.methods import service as methods
from app.plans.schemas import Memory
from app.plans.service import _Lengths, _memory, _seconds, _steps  # the same reckoning as for a run that is planned
from app.runs.schemas import RunCreate
from app.tuners.base import total
from app.workers import service as workers


@dataclass(frozen=True)
class Sketch:
    """What such a run would do and take; None is what is not known."""

    steps: int
    tokens: int
    """Tokens that go through the model."""
    memory: Memory | None
    seconds: float | None
    """Training time; evaluating and saving come on top."""
    seconds_basis: Any
    device: str | None


def sketch(
    session: Session,
    workspace_id: str,
    *,
    method: str,
    tuner: str,
    checkpoint: str,
    rows: int,
    mean: float,
    longest: int,
    params: dict[str, Any],
) -> Sketch:
    """What a run on so many training rows would take.

    Args:
        mean: tokens of a row on average, as one sequence of the method has them.
        longest: tokens of the longest row.
        params: settings that differ from the defaults.

    Raises:
        NotFound: there is no such checkpoint.
        Invalid: no such method or tuner, or a setting that cannot be used.
    """
    start = checkpoints.get(session, workspace_id, checkpoint)
    objective, how = methods.objective(method), methods.tuner(tuner)
    settings, tuner_settings = methods.validate(method, tuner, params, {}, None)
    steps = _steps(rows, settings, objective.rows_a_step(settings))
    kept = min(mean, settings["max_length"])
    tokens = round(min(steps * settings["batch_size"], rows * settings["epochs"]) * kept * objective.sequences)
    device = workers.device(session)
    base = checkpoints.base_of(session, start)
    shapes, config = base.shapes or {}, base.config or {}
    trainable = how.trainable(shapes, config, how.params.model_validate(tuner_settings)) if shapes else None
    lengths = _Lengths(False, kept * objective.sequences, min(settings["max_length"], longest))
    needed, _ = _memory(objective, how, shapes, config, trainable, settings, tuner_settings, lengths, device)
    request = RunCreate(method=method, tuner=tuner, checkpoint=checkpoint, dataset="-")
    seconds, basis = _seconds(session, workspace_id, request, total(shapes) if shapes else base.parameters, how, tokens, device)
    return Sketch(steps, tokens, needed, seconds, basis, device["name"] if device else None)
