"""What a run on the rows of a sheet would take, with the usual tuner. Reckons nothing itself: plans do."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app import methods, tuners
from app.errors import StudioError
from app.feedback.rules import Cost, Sheet
from app.plans import sketch

TUNER = "lora"
"""Chosen where the page of a new run is opened."""


def cost(session: Session, workspace_id: str, sheet: Sheet, checkpoint_id: str) -> Cost | None:
    """Steps, time and memory of a run that starts from a checkpoint; None where there is no such checkpoint or nothing to train on."""
    if not sheet.train_rows or sheet.method not in methods.registry() or TUNER not in tuners.registry():
        return None
    try:
        found = sketch.sketch(
            session,
            workspace_id,
            method=sheet.method,
            tuner=TUNER,
            checkpoint=checkpoint_id,
            rows=sheet.train_rows,
            mean=sheet.mean_tokens,
            longest=sheet.most_tokens,
            params=sheet.suggested,
        )
    except StudioError:
        return None
    return Cost(
        tuner=TUNER,
        steps=found.steps,
        tokens=found.tokens,
        seconds=found.seconds,
        seconds_basis=found.seconds_basis,
        memory=found.memory.total if found.memory else None,
        device_memory=found.memory.device_total if found.memory else None,
        fits=found.memory.fits if found.memory else None,
        device=found.device,
    )
