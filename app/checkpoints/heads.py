"""Checkpoints that give a number for an answer, and no text: rewards and scores. What marks them, and where they may not be used."""

from __future__ import annotations

from sqlalchemy import ColumnElement, or_

from app.checkpoints.tables import Checkpoint
from app.errors import Invalid

HEAD_FILE = "head.json"
"""In the folder of such a checkpoint: its task, and for ratings the scale of its numbers."""
HEADED = ("reward", "score")
"""Tasks of checkpoints that give a number."""


def task_of(checkpoint: Checkpoint) -> str:
    """What a checkpoint does: `policy` writes text, `reward` and `score` give a number."""
    task = (checkpoint.config or {}).get("task")
    return str(task) if task in HEADED else "policy"


def writes() -> ColumnElement[bool]:
    """Condition of a query: checkpoints that write text."""
    task = Checkpoint.config["task"].as_string()
    return or_(task.is_(None), task.not_in(HEADED))


def must_write(checkpoint: Checkpoint, field: str) -> None:
    """Refuse a checkpoint that gives numbers where text is needed.

    Raises:
        Invalid: it is a reward or score model.
    """
    task = task_of(checkpoint)
    if task != "policy":
        raise Invalid(f"“{checkpoint.name}” is a {task} model: it gives numbers and writes no text. Take another.", field=field)
