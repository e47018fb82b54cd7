"""What tests of methods that learn from rewards share: a toy (write one letter), and a look at what its rewards were shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.rewards.base import Answered
from tests.methods import child, toys

LETTERS = "aaaaaa"


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Prompts without a meaning, and always the same answer."""
    return [{"prompt": prompt, "completion": LETTERS} for prompt in toys.prompts(count, seed)]


def toy(folder: Path, method: str, tuner: str = "full", **params: Any) -> dict[str, Any]:
    """Write one letter: an answer earns the share of it in what it says, which at first is 1 in 259."""
    settings = {
        "rewards": [{"kind": "similarity", "measure": "characters"}],
        "max_completion_length": 6,
        "batch_size": 32,
        "gradient_accumulation": 1,
        "learning_rate": 4e-3,
        "scheduler": "constant_with_warmup",
        "eval_steps": 1000,
        "save_steps": 1000,
        **params,
    }
    job = child.spec(folder, method, tuner, held_out=1, params=settings)
    toys.write(Path(job["train"]["path"]), rows(128, 1), rows(32, 2))
    return job


def varied(folder: Path, method: str, tuner: str, count: int = 20, **params: Any) -> dict[str, Any]:
    """Few rows, several epochs, two rewards."""
    settings = {
        "rewards": [{"kind": "length", "unit": "characters", "target": 4}, {"kind": "similarity", "weight": 0.5, "measure": "characters"}],
        "max_completion_length": 6,
        "batch_size": 4,
        "gradient_accumulation": 2,
        "max_steps": 6,
        "save_steps": 1,
        **params,
    }
    extra = {"dropout": 0.2} if tuner == "lora" else {}
    return child.spec(folder, method, tuner, count=count, params=settings, tuner_params=extra)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[Answered]]:
    """All answers that rules were shown, batch by batch."""
    from worker.engines.rewarding import ScoredByRule

    seen: list[list[Answered]] = []
    real: Callable[..., Any] = ScoredByRule.__call__

    def look(self: Any, answers: Any) -> Any:
        seen.append(list(answers))
        return real(self, answers)

    monkeypatch.setattr(ScoredByRule, "__call__", look)
    return seen
