"""REINFORCE leave-one-out: learn from rewards, each measured against the other answers to the same prompt."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from app.methods.base import BATCH, TrainingJob
from app.methods.rewarded import ANSWERS, REWARDS, Grouped, RewardedParams


class RlooParams(RewardedParams):
    """Settings of REINFORCE leave-one-out."""

    batch_size: int = Field(8, ge=1, le=4096, title="Batch size", json_schema_extra={"group": BATCH})
    """Answers that go through the model at once."""
    gradient_accumulation: int = Field(4, ge=1, le=4096, title="Gradient accumulation", json_schema_extra={"group": BATCH})
    """Batches of each step. Their answers are written together: batch size × this, divided by the answers to a prompt, is the number of
    prompts a step asks."""
    num_generations: int = Field(4, ge=2, le=1024, title="Answers to a prompt", json_schema_extra={"group": ANSWERS})
    """The reward of an answer is measured against the mean of the others to its prompt. 4 as in the paper's larger setting; 2 is enough."""
    beta: float = Field(0.05, ge=0, le=100, title="Beta", json_schema_extra={"group": REWARDS})
    """How strongly the model is held to what it was: this times the KL of an answer is taken off its reward. 0.05 is TRL's default; 0
    switches it off."""
    normalize_advantages: bool = Field(False, title="Normalise", json_schema_extra={"group": REWARDS, "advanced": True})
    """Divide what answers earn more or less than the others by its spread over the batch: steadier where rewards are large or small."""
    num_iterations: int = Field(1, ge=1, le=16, title="Uses of answers", json_schema_extra={"group": REWARDS, "advanced": True})
    """Steps made with the same answers. 1 is plain REINFORCE."""
    epsilon: float = Field(0.2, gt=0, lt=1, title="Clipping", json_schema_extra={"group": REWARDS, "advanced": True})
    """How far one set of answers may change the chance of an answer. Matters where answers are used more than once."""
    mask_truncated: bool = Field(False, title="Leave out cut answers", json_schema_extra={"group": ANSWERS, "advanced": True})
    """Learn nothing from answers that reached the longest length without an end."""


class Rloo(Grouped):
    """Has the model write a few answers to each prompt and makes those likelier that earn more than the mean of the others (Ahmadian et
    al. 2024, arXiv 2402.14740).

    Take it to learn from a reward model: it treats an answer as one action, holds the model to what it was by the KL, and needs no value
    model, so it is lighter than PPO and about as good. By TRL's RLOOTrainer; dropout is switched off.
    """

    name = "rloo"
    title = "REINFORCE leave-one-out"
    summary = "Learn from rewards, each measured against other answers to the same prompt. A light alternative to PPO."
    avoid = "Not where a group of answers is nearly always equally good or bad: nothing is learned from those."
    params = RlooParams

    def build_trainer(self, params: RlooParams, job: TrainingJob) -> Any:
        """TRL's RLOOTrainer with the studio's rewards."""
        from trl import RLOOConfig, RLOOTrainer

        return self.trainer(params, job, RLOOConfig, RLOOTrainer, normalize_advantages=params.normalize_advantages)
