"""Reward: the answer has the length that is wanted."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from app.rewards.base import Answered, Reward, RewardParams


class LengthParams(RewardParams):
    """How near the answer is to a length, in words, characters or tokens."""

    model_config = ConfigDict(title="Length")

    kind: Literal["length"] = "length"
    unit: Literal["words", "characters", "tokens"] = Field("words", title="Counted in")
    """What is counted. Tokens are those of the model, the end of the answer included."""
    target: int | None = Field(None, ge=1, le=1_000_000, title="Target")
    """The best length: 1 there, less the further away, 0 at nothing and at twice as much."""
    minimum: int | None = Field(None, ge=1, le=1_000_000, title="Minimum")
    """The shortest length that is fully good; half of it gives a half."""
    maximum: int | None = Field(None, ge=1, le=1_000_000, title="Maximum")
    """The longest length that is fully good; half as much again gives a half, twice as much nothing."""

    @model_validator(mode="after")
    def _says_which(self) -> LengthParams:
        if self.target is None and self.minimum is None and self.maximum is None:
            raise ValueError("Say which length is good: set target, or minimum, maximum or both")
        if self.target is not None and (self.minimum is not None or self.maximum is not None):
            raise ValueError("A target does not go with a minimum or maximum. Set the one or the other")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"The minimum ({self.minimum}) is more than the maximum ({self.maximum}). Lower it, or raise the maximum")
        return self


class Length(Reward):
    """1 where the answer has the wanted length, and less in even steps the further away it is.

    Take it beside another reward, to stop answers from growing or shrinking while that one is learned.
    """

    name = "length"
    title = "Length"
    summary = "How near the answer is to a length, in words, characters or tokens."
    params = LengthParams

    def score(self, params: LengthParams, answered: Answered) -> float:
        """0 to 1."""
        text = answered.text
        count = {"words": len(text.split()), "characters": len(text), "tokens": answered.tokens}[params.unit]
        low, high = params.target or params.minimum, params.target or params.maximum
        if low is not None and count < low:
            return count / low
        if high is not None and count > high:
            return max(0.0, 1 - (count - high) / high)
        return 1.0
