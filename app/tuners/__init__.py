"""The tuners there are: which weights a run may change. Every file of this package that declares one is found by itself."""

from __future__ import annotations

from app.registry import declared
from app.tuners.base import Tuner


def registry() -> dict[str, Tuner]:
    """All tuners by name."""
    return declared(__name__, __path__, Tuner)
