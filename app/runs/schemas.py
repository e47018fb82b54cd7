"""What comes in and goes out about runs, as REST and pages see it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.database import iso
from app.runs.tables import Run, RunEvent, RunLog, RunSample

STATUSES = ("queued", "preparing", "running", "pausing", "paused", "stopping", "succeeded", "failed", "cancelled")
ACTIVE = ("preparing", "running", "pausing", "stopping")
"""Statuses in which a worker holds the run."""
ENDED = ("succeeded", "failed", "cancelled")
Status = Literal["queued", "preparing", "running", "pausing", "paused", "stopping", "succeeded", "failed", "cancelled"]


class RunCreate(BaseModel):
    """A run to be queued, or planned."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str | None = Field(None, max_length=200)
    """Name for people; made from method, model and dataset when left out."""
    method: str = Field(max_length=60)
    """Objective, such as `sft` (see `GET /methods`)."""
    tuner: str = Field("lora", max_length=60)
    """Which weights may change, such as `lora` (see `GET /tuners`)."""
    checkpoint: str = Field(max_length=200)
    """Id of the checkpoint to start from."""
    dataset: str = Field(max_length=200)
    """Id of the dataset; `id@3` names version 3."""
    eval_dataset: str | None = Field(None, max_length=200)
    """Dataset to evaluate on; without it the eval part of `dataset`, where it has one."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Settings of the method; what is left out keeps its default."""
    tuner_params: dict[str, Any] = Field(default_factory=dict)
    """Settings of the tuner."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Seed of shuffling, dropout and new weights."""
    priority: int = Field(0, ge=-100, le=100)
    """Higher ones start first."""
    parent_run: str | None = Field(None, max_length=200)
    """Run this one continues or varies."""
    tags: list[str] = Field(default_factory=list, max_length=20)
    notes: str = Field("", max_length=10_000)


class RunUpdate(BaseModel):
    """Edits of a person; what is left out stays."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    version: int | None = None
    """Version that was seen; when somebody changed the run since, the answer is 409."""
    name: str | None = Field(None, min_length=1, max_length=200)
    tags: list[str] | None = Field(None, max_length=20)
    notes: str | None = Field(None, max_length=10_000)
    priority: int | None = Field(None, ge=-100, le=100)


class RunOut(BaseModel):
    """A run, as REST shows it."""

    id: str
    name: str
    status: Status
    reason: str | None
    reason_code: str | None
    queue_place: int | None
    phase: str | None
    method: str
    tuner: str
    checkpoint: str
    dataset: str
    eval_dataset: str | None
    params: dict[str, Any]
    tuner_params: dict[str, Any]
    seed: int
    priority: int
    parent_run: str | None
    tags: list[str]
    notes: str
    step: int
    total_steps: int | None
    committed_step: int | None
    attempt: int
    metrics: dict[str, float | None]
    nonfinite: dict[str, str]
    version: int
    created_at: str | None
    started_at: str | None
    finished_at: str | None
    updated_at: str | None
    seq: int


class RunDetail(RunOut):
    """A run with everything as it was really used."""

    resolved: dict[str, Any] | None
    adjustments: dict[str, Any]


class ComparedRun(BaseModel):
    """One of the runs of a comparison."""

    id: str
    name: str
    status: Status
    method: str
    tuner: str
    step: int
    total_steps: int | None
    is_over: bool


class ComparedSetting(BaseModel):
    """One setting of all the runs, in their order; null where a run has no such setting."""

    name: str
    values: list[Any]
    differs: bool


class ComparedMetric(BaseModel):
    """The last value of one metric in all the runs, in their order; null where there is none, or none that is a number."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    direction: Literal["down", "up"] | None
    """Whether less or more is better."""
    values: list[float | None]
    best: int | None
    """Place of the best run, from 0; null where none is better."""


class Comparison(BaseModel):
    """Several runs side by side."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    runs: list[ComparedRun]
    gone: list[str]
    """Ids that were asked for and do not exist (any more)."""
    config: list[ComparedSetting]
    metrics: list[ComparedMetric]


def run_out(run: Run, queue_place: int | None = None) -> dict[str, Any]:
    """The fields of `RunOut` of a run, ready for JSON."""
    latest = run.latest or {}
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "reason_code": run.reason_code,
        "queue_place": queue_place,
        "phase": run.phase,
        "method": run.method,
        "tuner": run.tuner,
        "checkpoint": run.checkpoint_id,
        "dataset": run.dataset_id,
        "eval_dataset": run.eval_dataset_id,
        "params": run.params,
        "tuner_params": run.tuner_params,
        "seed": run.seed,
        "priority": run.priority,
        "parent_run": run.parent_run_id,
        "tags": run.tags,
        "notes": run.notes,
        "step": run.step,
        "total_steps": run.total_steps,
        "committed_step": run.committed_step,
        "attempt": run.attempt,
        "metrics": {name: None if isinstance(value, str) else value for name, value in latest.items()},
        "nonfinite": {name: value for name, value in latest.items() if isinstance(value, str)},
        "version": run.version,
        "created_at": iso(run.created_at),
        "started_at": iso(run.started_at),
        "finished_at": iso(run.finished_at),
        "updated_at": iso(run.updated_at),
        "seq": run.seq,
    }


def run_detail(run: Run, queue_place: int | None = None) -> dict[str, Any]:
    """The fields of `RunDetail`."""
    return {**run_out(run, queue_place), "resolved": run.resolved, "adjustments": run.adjustments}


def event_out(event: RunEvent) -> dict[str, Any]:
    """One line of a run's history."""
    return {
        "seq": event.seq,
        "at": iso(event.at),
        "attempt": event.attempt,
        "kind": event.kind,
        "message": event.message,
        "data": event.data,
    }


def log_out(line: RunLog) -> dict[str, Any]:
    """One line of a run's log; `cursor` goes into `?after=`."""
    return {"cursor": f"{line.seq}.{line.number}", "at": iso(line.at), "attempt": line.attempt, "level": line.level, "text": line.text}


def sample_out(sample: RunSample) -> dict[str, Any]:
    """One answer to a fixed prompt."""
    return {"step": sample.step, "number": sample.number, "prompt": sample.prompt, "text": sample.text, "expected": sample.expected}
