"""Which classes a classifier takes for which, by the evaluation rows of its run. Reads the file a trainer left beside the checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass

from app import storage
from app.checkpoints.heads import CONFUSION_FILE
from app.checkpoints.tables import Checkpoint

MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Confusion:
    """A table of counts: a line for each class that rows have, a column for each class they were taken for."""

    step: int
    labels: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]

    def share(self, line: int, column: int) -> float:
        """The part of a class's rows that was taken for another, from 0 to 1."""
        return self.rows[line][column] / (sum(self.rows[line]) or 1)


def of(checkpoint: Checkpoint) -> Confusion | None:
    """The table of a checkpoint; None where it has none that can be read."""
    if not checkpoint.path:
        return None
    file = storage.path(checkpoint.path) / CONFUSION_FILE
    try:
        if file.stat().st_size > MOST_BYTES:
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        labels = tuple(str(each) for each in told["labels"])
        rows = tuple(tuple(int(count) for count in row) for row in told["rows"])
        step = int(told["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    square = len(rows) == len(labels) > 0 and all(len(row) == len(labels) for row in rows)
    return Confusion(step, labels, rows) if square else None
