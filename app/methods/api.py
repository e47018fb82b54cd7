"""REST of what a run can be made of: methods and tuners with their settings as JSON Schema, and presets of both."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from app import methods, presets, tuners
from app.methods import service
from app.web import Reader, api_router

router = api_router("methods")


@router.get("/methods")
def list_methods(who: Reader) -> list[dict[str, Any]]:
    """Objectives: what a run can learn, the rows each takes, its settings."""
    return [service.describe(each) for each in methods.registry().values()]


@router.get("/tuners")
def list_tuners(who: Reader) -> list[dict[str, Any]]:
    """Tuners: which weights a run may change, and their settings."""
    return [service.describe(each) for each in tuners.registry().values()]


@router.get("/presets")
def list_presets(who: Reader) -> list[dict[str, Any]]:
    """Ready-made combinations of method, tuner and settings, each with the source of its values."""
    return [asdict(each) for each in presets.registry().values() if each.method in methods.registry()]
