"""What comes in and goes out about chains, as REST and pages see it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.chains.tables import Chain
from app.database import iso
from app.runs.schemas import RunCreate, Status
from app.runs.tables import Run

OVER = ("succeeded", "cancelled")
"""Statuses of chains that start nothing any more."""
LEAST, MOST = 2, 20
"""Steps a chain may have."""
ChainStatus = Literal["running", "paused", "succeeded", "cancelled"]


class ChainCreate(BaseModel):
    """Runs to be started one after the other."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str | None = Field(None, max_length=200)
    """Name for people; made from the methods when left out."""
    steps: list[RunCreate] = Field(min_length=LEAST, max_length=MOST)
    """The runs, in order, each as `POST /runs` takes it. Where a checkpoint is asked for (`checkpoint`, and settings such as
    `params.rewards[0].checkpoint`), `$1` is the last checkpoint of the first step, `$2` that of the second."""


class ChainContinue(BaseModel):
    """How a paused chain goes on."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    step: RunCreate | None = None
    """Other settings for the step it stopped at, which is then started anew. Empty: its run is resumed, or started as it was asked for."""


class ChainStepOut(BaseModel):
    """One step of a chain."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    number: int
    """From 1; `$1` in later steps is its last checkpoint."""
    status: Status | Literal["waiting", "deleted"]
    """That of its run; `waiting` before it is started, `deleted` when its run is gone."""
    run: str | None
    """Id of its run, once it is started."""
    request: dict[str, Any]
    """What was asked for; what was left at its default is left out."""


class ChainOut(BaseModel):
    """A chain, as REST shows it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str
    status: ChainStatus
    reason: str | None
    """Why it is paused, with what to do."""
    reason_code: str | None
    """`run_failed`, `run_cancelled`, `run_paused`, `run_deleted`; `refused` when the next step could not be started, `error` when that
    failed for a reason of the studio's own."""
    step: int
    """Number of the step it is at."""
    steps: list[ChainStepOut]
    created_at: str | None
    finished_at: str | None


def requests(chain: Chain) -> list[RunCreate]:
    """The steps of a chain as they were asked for."""
    return [RunCreate.model_validate(each) for each in chain.steps]


def kept(request: RunCreate) -> dict[str, Any]:
    """A step as it is kept and shown: without what it leaves at its default."""
    return request.model_dump(exclude_defaults=True, exclude_none=True)


def chain_out(chain: Chain, started: list[Run | None], status: str, reason: str | None, code: str | None) -> dict[str, Any]:
    """The fields of `ChainOut`, ready for JSON.

    Args:
        started: runs of the steps that have been started, in order; None for one that was deleted.
    """
    steps = []
    for number, request in enumerate(chain.steps, 1):
        run = started[number - 1] if number <= len(started) else None
        said = run.status if run else "deleted" if number <= len(started) else "waiting"
        steps.append({"number": number, "status": said, "run": run.id if run else None, "request": request})
    return {
        "id": chain.id,
        "name": chain.name,
        "status": status,
        "reason": reason,
        "reason_code": code,
        "step": max(1, len(started)),
        "steps": steps,
        "created_at": iso(chain.created_at),
        "finished_at": iso(chain.finished_at),
    }
