"""Proximal policy optimisation: learn from rewards, token by token, with a value for each place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from app.methods.base import BATCH, OPTIMISER, TrainingJob
from app.methods.rewarded import ANSWERS, REWARDS, Rewarded, RewardedParams


class PpoParams(RewardedParams):
    """Settings of proximal policy optimisation."""

    batch_size: int = Field(8, ge=1, le=4096, title="Batch size", json_schema_extra={"group": BATCH})
    """Answers that go through the model at once."""
    gradient_accumulation: int = Field(4, ge=1, le=4096, title="Gradient accumulation", json_schema_extra={"group": BATCH})
    """Batches of each step: a step learns from batch size × this answers, one to each prompt."""
    ppo_epochs: int = Field(4, ge=1, le=32, title="Uses of answers", json_schema_extra={"group": ANSWERS})
    """How often each answer is learned from before new ones are written. 4 as TRL's PPO trainer had it; clipping keeps more
    from doing harm."""
    minibatches: int = Field(1, ge=1, le=256, title="Steps of answers", json_schema_extra={"group": ANSWERS, "advanced": True})
    """Answers of so many steps are written at once, and drawn from in a new order for each use."""
    beta: float = Field(0.05, ge=0, le=100, title="Beta", json_schema_extra={"group": REWARDS})
    """How strongly the model is held to what it was: this times the KL of each token is taken off what it earns. 0.05 as TRL's PPO
    trainer had it; InstructGPT took 0.02. 0 switches it off, and no reference is kept."""
    clip: float = Field(0.2, gt=0, lt=1, title="Clipping", json_schema_extra={"group": REWARDS, "advanced": True})
    """How far one set of answers may change the chance of a token (arXiv 1707.06347)."""
    value_clip: float = Field(0.2, gt=0, le=1000, title="Clipping of values", json_schema_extra={"group": REWARDS, "advanced": True})
    """How far one set of answers may move a value. Raise it where rewards are far larger than 1."""
    value_weight: float = Field(0.1, ge=0, le=100, title="Weight of values", json_schema_extra={"group": REWARDS, "advanced": True})
    """How much the error of the values counts beside the policy loss; 0.1 as TRL's PPO trainer had it."""
    value_learning_rate: float = Field(
        1e-3, gt=0, le=1, title="Learning rate of values", json_schema_extra={"group": OPTIMISER, "advanced": True}
    )
    """That of the value head, a single linear layer that begins at zero; it follows the same schedule."""
    gamma: float = Field(1.0, gt=0, le=1, title="Discount", json_schema_extra={"group": REWARDS, "advanced": True})
    """How much what comes later counts at each token. 1: the reward of the whole answer counts fully from its first token on."""
    gae_lambda: float = Field(0.95, ge=0, le=1, title="GAE lambda", json_schema_extra={"group": REWARDS, "advanced": True})
    """Between trusting the values (0) and what answers really earned (1); 0.95 as in the paper on it (arXiv 1506.02438)."""


class Ppo(Rewarded):
    """Has the model write an answer to each prompt and makes tokens likelier that led to more reward than expected at their place, by
    clipped steps (Schulman et al. 2017, arXiv 1707.06347); the last stage of InstructGPT (arXiv 2203.02155).

    Take it to follow the classic way of learning from a reward model, or where one answer to a prompt is all you can afford; RLOO and GRPO
    have fewer settings and learn about as well. What is expected comes from a value head on the model's last layer. By our own engine,
    since TRL has none any more; dropout is switched off.
    """

    name = "ppo"
    title = "Proximal policy optimisation"
    summary = "Learn from rewards token by token, with a value head: the classic of learning from a reward model."
    avoid = "Not first: it has more to set and holds more in memory than GRPO or RLOO, which often do as well."
    params = PpoParams
    engine = "worker.engines.ppo:PpoTrainer"
    refuses: ClassVar[Mapping[str, str]] = {
        **Rewarded.refuses,
        "soft": "The virtual tokens of a soft prompt have no place in answers that are rewarded token by token. Take LoRA.",
        "prefix": "The answers of a model with a prefix cannot be rewarded token by token. Take LoRA.",
    }

    def learning_rate(self, family: str) -> float:
        """1e-4 for adapters (with the 1e-5 of TRL's examples nothing was learned in our trials), 1e-6 for whole models."""
        return 1e-4 if family == "adapter" else 1e-6

    def build_trainer(self, params: PpoParams, job: TrainingJob) -> Any:
        """Our own trainer; the answers of several steps are written at once."""
        from transformers import TrainingArguments

        self.ready(params, job)
        assert job.engine is not None
        together = params.batch_size * params.gradient_accumulation * params.minibatches
        accumulation = job.arguments["gradient_accumulation_steps"]
        return job.trainer(job.engine)(
            model=job.model,
            args=TrainingArguments(**job.arguments, remove_unused_columns=False),
            together=together,
            batches=accumulation * params.minibatches * params.ppo_epochs,
            settings=params,
            others=job.others,
            reference=job.reference,
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
