"""What comes in and goes out about webhooks. Touches no database."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.accounts.schemas import Moment

Event = Literal["run.succeeded", "run.failed", "run.cancelled", "dataset.ready", "dataset.failed"]
EVENTS: dict[str, str] = {
    "run.succeeded": "A run has done all its steps.",
    "run.failed": "A run has failed for good.",
    "run.cancelled": "Somebody cancelled a run.",
    "dataset.ready": "A dataset was read and can be used.",
    "dataset.failed": "A dataset could not be read.",
}
TEST = "test"


class WebhookCreate(BaseModel):
    """An address that is to be told when something ends."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)

    url: str = Field(max_length=2_000)
    """Where messages are posted, such as `https://example.org/hooks/luthier`."""
    events: list[Event] = Field(default_factory=list, max_length=20)
    """Which events are sent; all of them, when left out."""


class WebhookOut(BaseModel):
    """A webhook without its secret."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    url: str
    events: list[str]
    disabled_reason: str | None
    created_at: Moment


class WebhookMade(WebhookOut):
    """A webhook just made: the only answer that holds its secret."""

    secret: str


class DeliveryOut(BaseModel):
    """One message to a webhook, and how it went."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    event: str
    status: str
    attempts: int
    answered: int | None
    error: str | None
    body: str
    created_at: Moment
    tried_at: Moment | None
    next_at: Moment | None


def message(event: str, data: dict[str, Any]) -> str:
    """The body of a message, after Standard Webhooks: type, time and what it is about."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"type": event, "timestamp": at, "data": data}, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def run_facts(run: Any, url: str) -> dict[str, Any]:
    """What a message says about a run, named as in REST."""
    latest: dict[str, Any] = run.latest or {}
    return {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "reason": run.reason,
        "reason_code": run.reason_code,
        "method": run.method,
        "tuner": run.tuner,
        "step": run.step,
        "total_steps": run.total_steps,
        "metrics": {name: value for name, value in latest.items() if isinstance(value, int | float) and math.isfinite(value)},
        "nonfinite": {name: value for name, value in latest.items() if isinstance(value, str)},
        "url": f"{url}/runs/{run.id}",
    }


def dataset_facts(dataset: Any, url: str) -> dict[str, Any]:
    """What a message says about a dataset, named as in REST."""
    return {
        "id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "status": dataset.status,
        "reason": dataset.reason,
        "shape": dataset.shape,
        "rows": dataset.rows,
        "problems": {"errors": dataset.errors, "warnings": dataset.warnings},
        "url": f"{url}/datasets/{dataset.id}",
    }


def run_mail(run: Any, url: str) -> tuple[str, str]:
    """Subject and text of the e-mail about a run that ended."""
    of = f" of {run.total_steps}" if run.total_steps else ""
    shown = [f"{name}: {value:.4g}" if isinstance(value, int | float) else f"{name}: {value}" for name, value in _main(run.latest or {})]
    lines = [f"Run “{run.name}” has {run.status} at step {run.step}{of}."]
    if run.reason:
        lines += ["", str(run.reason)]
    if shown:
        lines += ["", *shown]
    lines += ["", f"{url}/runs/{run.id}", ""]
    subject = f"{run.status.capitalize()}: {run.name}"
    return "".join(character if character.isprintable() else " " for character in subject)[:200], "\n".join(lines)


def _main(latest: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, latest[name]) for name in ("loss", "eval_loss", "exact_match") if name in latest]
