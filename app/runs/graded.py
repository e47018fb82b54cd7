"""Held-out pairs that people graded: how often a run puts the chosen answer first, by grade, and how far people agree. Reads only."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app import methods
from app.database import Base
from app.datasets.tables import Dataset
from app.runs.tables import Run, RunGrade

GRADES = {3: "Much better", 2: "Better", 1: "Slightly better", 0: "No grade"}
MEASURES = {"dpo": "implicit reward", "orpo": "mean log-probability", "reward": "score", "simpo": "mean log-probability"}
"""What is compared between the two answers, by method."""
_PARENTS = 20


@dataclass(frozen=True)
class Origin:
    """The ratings a dataset was made of."""

    project: str
    project_name: str
    snapshot: str
    people: dict[int, dict[str, float]]
    """How often a person takes the side of most others, by grade: `{value, low, high, n}`. Empty where nobody shares an item."""
    there: bool = True
    """Whether the project has not been deleted since."""


@dataclass(frozen=True)
class Line:
    """The pairs of one grade at one step."""

    step: int
    grade: int
    pairs: int
    right: int
    margin: float
    low: float
    high: float

    @property
    def title(self) -> str:
        """The grade in words."""
        return GRADES[self.grade]

    @property
    def accuracy(self) -> float:
        """Share of the pairs whose chosen answer comes first."""
        return self.right / self.pairs


@dataclass(frozen=True)
class Graded:
    """What is known of a run and the ratings it learned from or is measured on."""

    origin: Origin
    measure: str
    writes: bool
    """Whether the run makes a model that writes text, which people can compare."""
    lines: list[Line]
    """Those of the last evaluation, the clearest grade first."""
    every: list[Line]
    """Those of all evaluations, by step."""

    @property
    def step(self) -> int | None:
        """Step of the last evaluation."""
        return self.lines[0].step if self.lines else None

    @property
    def whole(self) -> Line | None:
        """All grades together, where there are several."""
        return _line(self.lines[0].step, 0, self.lines) if len(self.lines) > 1 else None


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % Wilson interval of a share seen in `count` tries."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def level(grade: float | None) -> int:
    """The grade a median of votes stands for: 2.5 is much better; 0 where there is none."""
    return 0 if grade is None else min(3, max(1, math.floor(abs(grade) + 0.5)))


def origin(session: Session, dataset: Dataset | None) -> Origin | None:
    """The ratings a dataset, or the one it was split from, was frozen from; None for all others."""
    for _ in range(_PARENTS):
        lineage = dataset.lineage or {} if dataset is not None else {}
        if lineage.get("kind") == "feedback":
            people = {int(grade): told for grade, told in (lineage.get("people") or {}).items()}
            projects = Base.metadata.tables["feedback_projects"]
            there = session.scalar(select(func.count()).select_from(projects).where(projects.c.id == lineage["project"]))
            return Origin(lineage["project"], lineage.get("project_name") or "ratings", lineage.get("snapshot") or "", people, bool(there))
        if dataset is None or not lineage.get("from"):
            return None
        query = select(Dataset).where(Dataset.id == lineage["from"], Dataset.workspace_id == dataset.workspace_id)
        dataset = session.scalars(query).first()
    return None


def of_run(session: Session, run: Run) -> Graded | None:
    """What a run comes to on held-out pairs; None where neither its rows nor its evaluation rows are ratings.

    Without a line where it was not measured: another method, nothing held out, or not there yet.
    """
    trained, measured = session.get(Dataset, run.dataset_id), session.get(Dataset, run.eval_dataset_id or run.dataset_id)
    found = origin(session, measured) or origin(session, trained)
    if found is None:
        return None
    query = select(RunGrade).where(RunGrade.run_id == run.id).order_by(RunGrade.step, RunGrade.grade.desc())
    every = [_line(row.step, row.grade, [row]) for row in session.scalars(query)]
    objective = methods.registry().get(run.method)
    writes = objective is None or not objective.head
    return Graded(found, MEASURES.get(run.method, "score"), writes, [each for each in every if each.step == every[-1].step], every)


def overall(session: Session, run_ids: list[str]) -> dict[str, Line]:
    """All held-out pairs of each run together, at its last evaluation; runs that were not measured are left out."""
    last: dict[str, list[RunGrade]] = {}
    for row in session.scalars(select(RunGrade).where(RunGrade.run_id.in_(run_ids)).order_by(RunGrade.step)):
        there = last.get(row.run_id)
        last[row.run_id] = [*there, row] if there and there[0].step == row.step else [row]
    return {run_id: _line(rows[0].step, 0, rows) for run_id, rows in last.items()}


def _line(step: int, grade: int, parts: list[Any]) -> Line:
    pairs, right = sum(each.pairs for each in parts), sum(each.right for each in parts)
    low, high = wilson(right / pairs, pairs)
    return Line(step, grade, pairs, right, sum(each.margin * each.pairs for each in parts) / pairs, low, high)


def line_out(line: Line) -> dict[str, Any]:
    """One grade at one step, as REST shows it."""
    return {
        "step": line.step,
        "grade": line.grade or None,
        "title": line.title,
        "pairs": line.pairs,
        "right": line.right,
        "accuracy": line.accuracy,
        "low": line.low,
        "high": line.high,
        "margin": line.margin,
    }


def graded_out(run: Run, found: Graded | None) -> dict[str, Any]:
    """What REST answers; without ratings everything is empty."""
    return {
        "run": run.id,
        "project": found.origin.project if found else None,
        "snapshot": found.origin.snapshot if found else None,
        "measure": found.measure if found else None,
        "people": {str(grade): told for grade, told in found.origin.people.items()} if found else {},
        "data": [line_out(line) for line in found.every] if found else [],
        "has_more": False,
        "next": None,
    }


def as_csv(found: Graded | None) -> Iterator[str]:
    """All evaluations as CSV, with how far people agree beside each line."""
    buffer = io.StringIO()
    out = csv.writer(buffer)
    out.writerow(
        ("step", "grade", "pairs", "right", "accuracy", "low", "high", "margin", "people", "people_low", "people_high", "people_n")
    )
    for line in found.every if found else ():
        people = found.origin.people.get(line.grade, {}) if found else {}
        told = [people.get(name, "") for name in ("value", "low", "high", "n")]
        out.writerow((line.step, line.grade, line.pairs, line.right, line.accuracy, line.low, line.high, line.margin, *told))
    yield buffer.getvalue()
