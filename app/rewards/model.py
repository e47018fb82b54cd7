"""Reward: the number a reward or score model gives."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from app.references import RewardId
from app.rewards.base import Reward, RewardParams


class ModelParams(RewardParams):
    """The number that a finished reward or score run gives."""

    model_config = ConfigDict(title="Reward model")

    kind: Literal["model"] = "model"
    checkpoint: RewardId = Field(min_length=1, title="Reward model")
    """A checkpoint of a reward or a score run."""


class Model(Reward):
    """The number that a reward model (or a score model, on the scale of its ratings) gives the prompt with its answer.

    Take it when people's preferences are to be learned that no rule tells: train a reward model on them first (InstructGPT, arXiv
    2203.02155). It is held in memory beside the model that learns. A reward model can be outwitted: watch the answers, keep beta above 0.
    """

    name = "model"
    title = "Reward model"
    summary = "The number that a finished reward or score run gives."
    params = ModelParams
    engine = "worker.engines.rewarding:ScoredByModel"
