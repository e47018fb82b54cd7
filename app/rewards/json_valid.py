"""Reward: the answer is JSON."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import ConfigDict, Field

from app.rewards.base import LONGEST, Answered, Lines, Reward, RewardParams

_FENCE = re.compile(r"\A```(?:json)?[ \t]*\n(.*)\n```\Z", re.DOTALL)


class JsonValidParams(RewardParams):
    """1 where the answer is JSON and has the keys asked for, else less."""

    model_config = ConfigDict(title="Valid JSON")

    kind: Literal["json_valid"] = "json_valid"
    keys: Lines = Field(default_factory=list, max_length=50, title="Keys")
    """Keys that an object must have; each missing one takes an equal share off. Empty: any JSON will do."""
    fenced: bool = Field(True, title="Code fence allowed")
    """Whether the JSON may stand between lines of ```."""


class JsonValid(Reward):
    """1 where the answer is JSON and nothing else, else 0; with keys, the share of them that the object has.

    Take it to teach a model to answer in a form that programs read. An answer longer than 20,000 characters gives 0.
    """

    name = "json_valid"
    title = "Valid JSON"
    summary = "1 where the answer is JSON and has the keys asked for, else less."
    params = JsonValidParams

    def score(self, params: JsonValidParams, answered: Answered) -> float:
        """0 to 1."""
        text = answered.text.strip()
        if len(text) > LONGEST:
            return 0.0
        inside = _FENCE.match(text) if params.fenced else None
        try:
            found = json.loads(inside.group(1) if inside else text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        if not params.keys:
            return 1.0
        return sum(key in found for key in params.keys) / len(params.keys) if isinstance(found, dict) else 0.0


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
