"""The objectives there are: what a run can learn. Every file of this package that declares one is found by itself."""

from __future__ import annotations

from app.methods.base import Objective
from app.registry import declared


def registry() -> dict[str, Objective]:
    """All objectives by name."""
    return declared(__name__, __path__, Objective)
