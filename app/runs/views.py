"""What the pages of runs show, worked out from rows: names, shares, time left, before and after. Renders nothing, writes nothing."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.checkpoints.tables import Checkpoint
from app.database import Base
from app.datasets.tables import Dataset
from app.metrics import service as metrics
from app.rendering import NOTHING, bytes_, compact, number
from app.runs import graded as gradings
from app.runs import service
from app.runs.graded import Graded, wilson
from app.runs.schemas import ENDED
from app.runs.summary import Summary, summary
from app.runs.tables import Run, RunSample
from app.settings import get_settings
from app.workers import service as workers

MEAN_OF = 50
"""Steps that the mean below the training loss is taken over."""


@dataclass(frozen=True)
class Row:
    """One line of the list."""

    run: Run
    dataset: str
    model: str
    place: int | None

    @property
    def share(self) -> float:
        """Done part of the steps, 0 to 1."""
        return share_of(self.run)

    @property
    def seconds(self) -> float | None:
        """Time spent so far."""
        return spent(self.run)


@dataclass(frozen=True)
class Kpi:
    """One of the five numbers."""

    label: str
    value: str
    unit: str = ""
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Measured:
    """A share of right answers with its 95 % Wilson interval."""

    step: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """Exact match before training and now, on the same held-out prompts."""

    before: Measured
    after: Measured
    prompts: int | None

    @property
    def gain(self) -> float:
        """Points gained (of 100)."""
        return 100 * (self.after.value - self.before.value)


@dataclass(frozen=True)
class ChainPlace:
    """Which step of which chain a run is."""

    id: str
    name: str
    number: int
    count: int


@dataclass(frozen=True)
class Live:
    """Everything the live block of a run shows."""

    run: Run
    place: int | None
    left: float | None
    epoch: float | None
    kpis: list[Kpi]
    words: tuple[str, str] | None
    """Reason of the status: its first sentence, and the rest."""
    waits_for: str | None
    """Why nothing happens although the run waits, such as no worker."""
    outcome: Outcome | None
    graded: Graded | None = None
    summary: Summary | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """Done part of the steps, 0 to 1."""
        return share_of(self.run)

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.run.status in ENDED


def share_of(run: Run) -> float:
    """Done part of a run's steps, 0 to 1."""
    return min(1.0, run.step / run.total_steps) if run.total_steps else 0.0


def spent(run: Run) -> float | None:
    """Seconds of training so far, over all attempts; None before the first."""
    elapsed = run.latest.get("elapsed_seconds")
    if isinstance(elapsed, int | float):
        return float(elapsed)
    if run.started_at is None or not run.step:
        return None
    return (run.finished_at or time.time()) - run.started_at


def rows(session: Session, runs: list[Run]) -> list[Row]:
    """Lines of the list for some runs, in their order."""
    named = select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_({run.checkpoint_id for run in runs}))
    names = {id: name for id, name in session.execute(named)}
    sets = {
        id: f"{name} v{version}" if version > 1 else name
        for id, name, version in session.execute(
            select(Dataset.id, Dataset.name, Dataset.version).where(Dataset.id.in_({run.dataset_id for run in runs}))
        )
    }
    places = service.queue_places(session) if any(run.status == "queued" for run in runs) else {}
    return [Row(run, sets.get(run.dataset_id, ""), names.get(run.checkpoint_id, ""), places.get(run.id)) for run in runs]


def sentences(text: str) -> tuple[str, str]:
    """A reason cut after its first sentence."""
    first, dot, rest = text.partition(". ")
    return (first + dot.strip(), rest.strip())


def live(session: Session, run: Run) -> Live:
    """The live block of a run."""
    elapsed = run.latest.get("elapsed_seconds")
    left = None
    if run.status == "running" and run.total_steps and run.step and isinstance(elapsed, int | float):
        left = elapsed / run.step * (run.total_steps - run.step)
    epoch = run.latest.get("epoch")
    return Live(
        run=run,
        place=service.queue_place(session, run),
        left=left,
        epoch=float(epoch) if isinstance(epoch, int | float) else None,
        kpis=_kpis(session, run),
        words=sentences(run.reason) if run.reason else None,
        waits_for=_waits_for(session, run),
        outcome=outcome(session, run),
        graded=gradings.of_run(session, run),
        summary=summary(session, run),
        counts={
            "samples": session.scalar(select(func.count(func.distinct(RunSample.step))).where(RunSample.run_id == run.id)) or 0,
            "checkpoints": session.scalar(select(func.count()).where(Checkpoint.run_id == run.id, Checkpoint.status == "ready")) or 0,
        },
    )


def _waits_for(session: Session, run: Run) -> str | None:
    if run.status != "queued":
        return None
    there = [worker for worker in workers.alive(session, get_settings().lease_seconds) if "device" in worker.lanes]
    able = [worker for worker in there if not worker.problem]
    if not there:
        return "No worker is running, so nothing starts. Start one with `luthier up`, or with `luthier worker` beside the web server."
    if not able:
        return there[0].problem
    if run.not_before and run.not_before > time.time():
        return "The last attempt ended without anything new, so the next one waits a little longer."
    return None


def _kpis(session: Session, run: Run) -> list[Kpi]:
    latest = run.latest
    return [
        _loss(session, run),
        _second(session, run),
        Kpi(
            "Throughput",
            number(latest.get("tokens_per_second")) if latest.get("tokens_per_second") is not None else NOTHING,
            "tok/s" if latest.get("tokens_per_second") is not None else "",
            f"{compact(latest['tokens'])} tokens seen" if isinstance(latest.get("tokens"), int | float) else "",
        ),
        Kpi("Learning rate", _value(latest.get("learning_rate")), note=_schedule(run)),
        _memory(session, run),
    ]


def _value(value: Any) -> str:
    return number(float(value)) if isinstance(value, int | float) else number(value)


def _tone(value: Any) -> str:
    return "bad" if isinstance(value, str) else ""


def _loss(session: Session, run: Run) -> Kpi:
    value = run.latest.get("loss")
    note = ""
    if run.step > MEAN_OF:
        found = metrics.series(session, run.id, ["loss"], run.step - MEAN_OF).get("loss")
        finite = [each for each in found[1].tolist() if math.isfinite(each)] if found else []
        note = f"mean of last {MEAN_OF} steps: {number(sum(finite) / len(finite))}" if finite else ""
    return Kpi("Train loss", _value(value), note=note, tone=_tone(value))


def _second(session: Session, run: Run) -> Kpi:
    """What the run is judged by besides its training loss."""
    if "rewards/accuracies" in run.latest and "eval_loss" not in run.latest:
        margin = run.latest.get("rewards/margins")
        return Kpi(
            "Reward accuracy", _value(run.latest["rewards/accuracies"]), note=f"margin {_value(margin)}" if margin is not None else ""
        )
    value = run.latest.get("eval_loss")
    found = metrics.series(session, run.id, ["eval_loss"]).get("eval_loss") if value is not None else None
    finite = [each for each in found[1].tolist() if math.isfinite(each)] if found else []
    return Kpi("Eval loss", _value(value), note=f"best {number(min(finite))}" if finite else "", tone=_tone(value))


def _schedule(run: Run) -> str:
    name, warmup = run.params.get("scheduler"), run.params.get("warmup")
    if not isinstance(name, str):
        return ""
    if not isinstance(warmup, int | float) or not warmup:
        return name.replace("_", " ")
    return f"{name.replace('_', ' ')}, {f'{100 * warmup:g} %' if warmup < 1 else f'{warmup:g} steps'} warm-up"


def _memory(session: Session, run: Run) -> Kpi:
    used = run.latest.get("memory_bytes")
    if not isinstance(used, int | float):
        return Kpi("Memory", NOTHING)
    value, _, unit = bytes_(used).partition(" ")
    device = workers.device(session) or {}
    total = device.get("total")
    return Kpi("GPU memory" if device.get("kind") == "cuda" else "Memory", value, unit, f"of {bytes_(total)}" if total else "")


def outcome(session: Session, run: Run) -> Outcome | None:
    """Exact match at step 0 and at its last step; None when it was not measured before training."""
    if "exact_match" not in run.latest:
        return None
    steps, values = metrics.series(session, run.id, ["exact_match"]).get("exact_match", ([], []))
    if len(steps) < 2 or int(steps[0]) != 0:
        return None
    count = held_out(session, run)

    def measured(index: int) -> Measured:
        value = float(values[index])
        low, high = wilson(value, count) if count else (value, value)
        return Measured(int(steps[index]), value, low, high)

    return Outcome(measured(0), measured(-1), count)


def held_out(session: Session, run: Run) -> int | None:
    """How many held-out prompts exact match was measured on."""
    dataset = session.get(Dataset, run.eval_dataset_id or run.dataset_id)
    if dataset is None:
        return None
    there = dataset.rows if run.eval_dataset_id and not dataset.eval_rows else dataset.eval_rows
    asked = run.params.get("answer_check_rows")
    return (min(there, asked) if isinstance(asked, int) else there) or None


def chain_of(session: Session, run: Run) -> ChainPlace | None:
    """Where in a chain a run stands; None where it is of none. Chains lie above runs, so their tables are known by name here."""
    steps, chains = Base.metadata.tables.get("chain_steps"), Base.metadata.tables.get("chains")
    if steps is None or chains is None:
        return None
    query = select(chains.c.id, chains.c.name, chains.c.steps, steps.c.number).join(steps, steps.c.chain_id == chains.c.id)
    row = session.execute(query.where(steps.c.run_id == run.id).limit(1)).first()
    return ChainPlace(row.id, row.name, row.number, len(row.steps)) if row else None


def may(run: Run) -> dict[str, bool]:
    """Which actions the status allows."""
    return {
        "pause": run.status in ("queued", "preparing", "running"),
        "resume": run.status in ("paused", "failed", "cancelled"),
        "cancel": run.status in ("queued", "preparing", "running", "pausing", "paused"),
        "delete": run.status in ENDED,
    }
