"""Several runs side by side: what differs in their settings, how they ended, what they answered. Reads only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.errors import Invalid
from app.metrics import service as metrics
from app.runs import listing
from app.runs.schemas import ENDED
from app.runs.tables import Run, RunSample

LEAST, MOST = 2, 8
Direction = Literal["down", "up"]
BEST_EVAL = "best_eval_loss"
"""The lowest evaluation loss a run has had; its last one is `eval_loss`."""
_DOWN = ("loss", "memory_bytes", "perplexity", "mse")
_UP = ("exact_match", "rewards/margins", "reward", "tokens_per_second", "macro_f1", "spearman")
_LEFT_OUT = ("epoch", "num_tokens", "total_flos", "train_loss", "train_runtime", "logits/", "logps/", "system/")
_FIRST = ("loss", "eval_loss", BEST_EVAL, "exact_match", "rewards/accuracies", "rewards/margins")
_LAST = ("grad_norm", "learning_rate", "tokens_per_second", "tokens", "memory_bytes", "elapsed_seconds")


@dataclass(frozen=True)
class ConfigRow:
    """One setting of all the runs; None where a run has no such setting."""

    name: str
    values: list[Any]

    @property
    def differs(self) -> bool:
        """Whether the runs do not agree on it."""
        return any(value != self.values[0] or type(value) is not type(self.values[0]) for value in self.values)


@dataclass(frozen=True)
class MetricRow:
    """The last value of one metric in all the runs: a number, the name of what is no number, or None."""

    name: str
    direction: Direction | None
    values: list[float | str | None]

    @property
    def best(self) -> int | None:
        """Place of the best run; None where nothing is better, or all are the same."""
        finite = {place: value for place, value in enumerate(self.values) if isinstance(value, int | float)}
        if self.direction is None or len(finite) < 2 or len(set(finite.values())) < 2:
            return None
        pick = min if self.direction == "down" else max
        return pick(finite, key=lambda place: finite[place])

    def change(self, place: int, base: int) -> tuple[float, bool | None] | None:
        """Share by which a run differs from the baseline, and whether that is better; None where it cannot be told."""
        mine, other = self.values[place], self.values[base]
        if place == base or not isinstance(mine, int | float) or not isinstance(other, int | float) or not other or mine == other:
            return None
        better = None if self.direction is None else (mine < other) == (self.direction == "down")
        return (mine - other) / abs(other), better


def chosen(text: str) -> list[str]:
    """Ids of a list separated by commas, each once.

    Raises:
        Invalid: there are too many.
    """
    ids = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(ids) > MOST:
        raise Invalid(f"At most {MOST} runs can be compared at a time; {len(ids)} are named.", field="runs")
    return ids


def direction(name: str) -> Direction | None:
    """Whether less or more of a metric is better; None where neither is."""
    if name == "eval_kl":  # how far from the teacher; in training a KL is how far from the start, and neither way is better
        return "down"
    bare = name.removeprefix("eval_")
    if bare in _UP or bare.endswith(("accuracy", "accuracies")):
        return "up"
    return "down" if bare.endswith(_DOWN) else None


def config(session: Session, runs: list[Run]) -> list[ConfigRow]:
    """Every setting that one of the runs has, in the order of the form."""
    facts = [_settings(session, run) for run in runs]
    names = list(dict.fromkeys(name for each in facts for name in each))
    return [ConfigRow(name, [each.get(name) for each in facts]) for name in sorted(names, key=_group)]


def _group(name: str) -> int:
    return 2 if name.startswith("params.") else 1 if name.startswith("tuner_params.") else 0


def _settings(session: Session, run: Run) -> dict[str, Any]:
    data = {
        each.id: f"{each.name} v{each.version}"
        for each in session.scalars(select(Dataset).where(Dataset.id.in_([run.dataset_id, run.eval_dataset_id])))
    }
    model = session.scalar(select(Checkpoint.name).where(Checkpoint.id == run.checkpoint_id))
    facts = {
        "method": run.method,
        "tuner": run.tuner,
        "checkpoint": model,
        "dataset": data.get(run.dataset_id),
        "eval_dataset": data.get(run.eval_dataset_id) if run.eval_dataset_id else None,
        "seed": run.seed,
    }
    facts |= {f"tuner_params.{name}": value for name, value in run.tuner_params.items()}
    facts |= {f"params.{name}": value for name, value in run.params.items()}
    return facts | {f"adjustments.{name}": value for name, value in run.adjustments.items()}


def final_metrics(session: Session, runs: list[Run]) -> list[MetricRow]:
    """The last values of the metrics that say how a run went."""
    last = [dict(run.latest) for run in runs]
    for run, values in zip(runs, last, strict=True):
        found = metrics.series(session, run.id, ["eval_loss"], points=10**9).get("eval_loss") if "eval_loss" in values else None
        finite = [value for value in found[1].tolist() if math.isfinite(value)] if found else []
        if finite:
            values[BEST_EVAL] = min(finite)
    names = {name for values in last for name in values if not name.removeprefix("eval_").startswith(_LEFT_OUT)}
    return [MetricRow(name, direction(name), [values.get(name) for values in last]) for name in sorted(names, key=_place)]


def _place(name: str) -> tuple[int, int, str]:
    if name in _FIRST:
        return 0, _FIRST.index(name), name
    return (2, _LAST.index(name), name) if name in _LAST else (1, 0, name)


@dataclass(frozen=True)
class Answers:
    """What the runs answered to one prompt; None where a run was not asked."""

    prompt: str
    expected: str | None
    texts: list[str | None]


def samples(session: Session, runs: list[Run], step: int | None = None) -> tuple[list[int], list[int | None], list[Answers]]:
    """Answers to the same prompts.

    Args:
        step: the step asked for; each run shows its answers at its last step up to it. None: at its last.

    Returns:
        All steps there are, the step shown of each run, and the answers by prompt.
    """
    rows = session.execute(select(RunSample.run_id, RunSample.step).where(RunSample.run_id.in_([run.id for run in runs])).distinct()).all()
    at = {
        run.id: max((row.step for row in rows if row.run_id == run.id and (step is None or row.step <= step)), default=None) for run in runs
    }
    prompts: dict[str, Answers] = {}
    for place, run in enumerate(runs):
        if at[run.id] is None:
            continue
        found = session.scalars(
            select(RunSample).where(RunSample.run_id == run.id, RunSample.step == at[run.id]).order_by(RunSample.number)
        )
        for sample in found:
            answers = prompts.setdefault(sample.prompt, Answers(sample.prompt, sample.expected, [None] * len(runs)))
            answers.texts[place] = sample.text
    shared = sorted(prompts.values(), key=lambda each: each.texts.count(None))
    return sorted({row.step for row in rows}), [at[run.id] for run in runs], shared


def facts(session: Session, workspace_id: str, text: str) -> dict[str, Any]:
    """Everything about some runs as REST tells it; runs that do not exist (any more) are listed under `gone`.

    Raises:
        Invalid: fewer than two or more than eight runs are named.
    """
    ids = chosen(text)
    if len(ids) < LEAST:
        raise Invalid(f"Name {LEAST} to {MOST} runs, separated by commas.", field="runs")
    runs = listing.existing(session, workspace_id, ids)
    known = {run.id for run in runs}
    return {
        "runs": [
            {
                "id": run.id,
                "name": run.name,
                "status": run.status,
                "method": run.method,
                "tuner": run.tuner,
                "step": run.step,
                "total_steps": run.total_steps,
                "is_over": run.status in ENDED,
            }
            for run in runs
        ],
        "gone": [each for each in ids if each not in known],
        "config": [{"name": row.name, "values": row.values, "differs": row.differs} for row in config(session, runs)],
        "metrics": [
            {
                "name": row.name,
                "direction": row.direction,
                "values": [None if isinstance(value, str) else value for value in row.values],
                "best": row.best,
            }
            for row in final_metrics(session, runs)
        ],
    }
