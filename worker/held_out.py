"""Notes, while a trainer evaluates, how far the chosen answer of each held-out pair lies above the rejected one, and sums up by grade.

The numbers are those the trainer reckons anyway (the implicit reward of DPO, the score of a reward model), so no evaluation takes longer.
Changes no figure, no loss and no order.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.runs.graded import MEASURES, level
from worker import rows
from worker.reporting import Report
from worker.resumable import resumable

log = logging.getLogger(__name__)

GRADE = "grade"
"""Column of the evaluation rows that holds the grade, or nothing."""


def wanted(part: dict[str, Any] | None, method: str) -> bool:
    """Whether these evaluation rows are pairs that people graded, and the method tells how far apart it holds the answers of each."""
    return bool(part and part.get("graded") and part["shape"] == "preference" and method in MEASURES)


def with_grades(dataset: Any, part: dict[str, Any]) -> Any:
    """The evaluation rows with the grade of each, which the source beside a row tells."""
    return dataset.add_column(GRADE, [_grade(record) for record in rows.read(part["path"], part["split"])])


def _grade(record: dict[str, Any]) -> float | None:
    source = record.get("source")
    meta = source.get("meta") if isinstance(source, dict) else None
    grade = meta.get("grade") if isinstance(meta, dict) else None
    return float(grade) if isinstance(grade, int | float) and math.isfinite(grade) else None


def report_to(trainer: Any, report: Report) -> None:
    """Have a trainer made by `noting` send its figures after each evaluation."""

    def tell(step: int, differences: list[float]) -> None:
        grades = trainer.eval_dataset[GRADE]
        report.send("graded", grades=[{"step": step, **each} for each in by_grade(grades, differences)])

    trainer.on_pairs = tell


def by_grade(grades: Sequence[float | None], differences: Sequence[float]) -> list[dict[str, Any]]:
    """For each grade how many pairs there are, in how many the chosen answer comes first, and by how much on average."""
    found: dict[int, list[float]] = defaultdict(list)
    for grade, difference in zip(grades, differences, strict=True):
        found[level(grade)].append(difference)
    return [
        {"grade": grade, "pairs": len(each), "right": sum(value > 0 for value in each), "margin": sum(each) / len(each)}
        for grade, each in sorted(found.items(), reverse=True)
    ]


def noting(kind: type[Any]) -> type[Any]:
    """A resumable subclass of trl's DPOTrainer or RewardTrainer that hands on the difference of each pair after an evaluation."""

    class Noting(resumable(kind)):  # type: ignore[misc]  # a class made at run time
        on_pairs: Callable[[int, list[float]], None] | None = None
        _noted: list[float] | None = None
        """Differences so far, in the order of the rows; None outside of an evaluation, and once they cannot be told."""

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            self._noted = []
            try:
                found: dict[str, float] = super().evaluate(*args, **kwargs)
                if self.on_pairs and self._noted and len(self._noted) == len(self.eval_dataset) and all(map(math.isfinite, self._noted)):
                    self.on_pairs(int(self.state.global_step), self._noted)
            finally:
                self._noted = None
            return found

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if self._noted is None or self.model.training:
                return super().compute_loss(model, inputs, *args, **kwargs)
            pairs = len(inputs["input_ids"]) // 2
            with _gathered(self.accelerator) as seen:
                loss = super().compute_loss(model, inputs, *args, **kwargs)
            differences = _differences(seen, pairs)
            mean = self._metrics["eval"]["rewards/margins"][-1]
            if differences is None or not math.isclose(sum(differences) / pairs, mean, rel_tol=0.02, abs_tol=0.002):
                log.warning("This version of trl does not tell the difference of each pair, so there is no accuracy by grade.")
                self._noted = None
            else:
                self._noted += differences
            return loss

    Noting.__name__ = Noting.__qualname__ = kind.__name__
    return Noting


@contextmanager
def _gathered(accelerator: Any) -> Iterator[list[Any]]:
    """What a trainer gathers from all devices to make its figures of."""
    gather, seen = accelerator.gather, list[Any]()

    def noted(tensor: Any) -> Any:
        seen.append(tensor)
        return gather(tensor)

    accelerator.gather = noted
    try:
        yield seen
    finally:
        accelerator.gather = gather


def _differences(seen: Sequence[Any], pairs: int) -> list[float] | None:
    """The difference of each pair, out of rewards of all answers (chosen ones first), or of chosen and then of rejected ones."""
    flat = [each.detach().float().flatten() for each in seen if hasattr(each, "dim") and each.dim()]
    both = next((each for each in flat if len(each) == 2 * pairs), None)
    sides = list(both.chunk(2)) if both is not None else [each for each in flat if len(each) == pairs][:2]
    return (sides[0] - sides[1]).tolist() if len(sides) == 2 else None
