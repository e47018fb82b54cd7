"""The experiment trackers there are beside TensorBoard. Every file of this package that declares one is found by itself."""

from __future__ import annotations

from app.registry import declared
from worker.trackers.base import Tracker


def registry() -> dict[str, Tracker]:
    """All trackers by name; each makes its own connections, so one process follows one run with it."""
    return declared(__name__, __path__, Tracker)
