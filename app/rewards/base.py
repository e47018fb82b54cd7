"""What a reward declares: its settings, and a number for an answer where a rule gives one. Loads no model; a worker does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

LONGEST = 20_000
"""Characters of an answer that rules look at; what comes after is cut off, so that none takes long."""


def _lines(value: Any) -> Any:
    """Texts typed into a form: a list in JSON, or one in each line."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return [line.strip() for line in value.splitlines() if line.strip()]


Lines = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], BeforeValidator(_lines)]
"""A few texts; a setting of this type can also be given as lines."""


class RewardParams(BaseModel):
    """Settings every reward has; a subclass adds `kind`, a literal that is the reward's name."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    weight: float = Field(1.0, ge=-1000, le=1000, title="Weight")
    """How much it counts where there are several: the rewards, each times its weight, are added up. Below 0 it punishes; with 0 it is
    only shown."""


@dataclass(frozen=True)
class Answered:
    """An answer of the model, and what it answers."""

    prompt: str | Sequence[Mapping[str, str]]
    """Messages, or text where the model has no chat template."""
    text: str
    tokens: int
    """Length of the answer, its end included."""
    expected: str | None = None
    """The answer the row gives; None where rows hold prompts only."""

    @property
    def cut(self) -> str:
        """As much of the text as rules look at."""
        return self.text[:LONGEST]

    @property
    def wanted(self) -> str:
        """The expected answer; empty where there is none."""
        return (self.expected or "")[:LONGEST]


class Reward:
    """What gives an answer a number. A subclass with a `name` in a file of this package is found by itself."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    params: ClassVar[type[RewardParams]]
    expects: ClassVar[bool] = False
    """Whether it compares with the answer of the row, which rows of prompts do not have."""
    engine: ClassVar[str | None] = None
    """Dotted path (`module:name`) below `worker/` of what scores, where that takes a model; None where `score` is a rule."""

    def score(self, params: Any, answered: Answered) -> float:
        """A number for one answer: higher is better. Rules give 0 to 1."""
        raise NotImplementedError
