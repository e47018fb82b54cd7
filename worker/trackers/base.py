"""What a tracker is: it is told of one run, row by row, only what a committed checkpoint has made final. Sends nothing itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

PROJECT = "luthier"


@dataclass
class Row:
    """The metrics of one step."""

    step: int
    at: float
    """When it was, in seconds since 1970: the run's start and the training time until then."""
    values: dict[str, float]


@dataclass
class Story:
    """What a tracker is told of a run before its first row."""

    run_id: str
    name: str
    url: str
    config: dict[str, Any]
    """Settings, flat: `params.learning_rate`, `tuner_params.r`, `method` …"""
    tags: list[str] = field(default_factory=list)
    started_at: float = 0.0


class Tracker:
    """One service that curves are sent to. A file of this package with a subclass is all it takes."""

    name: ClassVar[str]
    title: ClassVar[str]
    package: ClassVar[str]
    """What has to be installed."""
    environment: ClassVar[tuple[str, ...]]
    """Beginnings of the variables it reads; no other secret of the worker reaches its process."""

    def open(self, story: Story, folder: Path) -> int:
        """Begin, or go on with, the record of a run; the last step it holds already, -1 when it holds none.

        Args:
            folder: where files of its own may be kept with the run.
        """
        raise NotImplementedError

    def write(self, rows: list[Row]) -> None:
        """Send rows, in the order of their steps."""
        raise NotImplementedError

    def close(self, status: str) -> None:
        """End the record: succeeded, failed, cancelled, or another status when the run will go on."""
        raise NotImplementedError


def plain(value: Any) -> Any:
    """A setting as trackers take it: text, number or truth value."""
    if isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return "" if value is None else str(value)
