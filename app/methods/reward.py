"""Reward model: learn to give the better answer of a pair the higher number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from app.methods.base import RATINGS, Objective, TrainingJob, TrainingParams

REWARD = "Reward"
_NAMES = {
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "min_reward": "rewards/min",
    "mean_reward": "rewards/mean",
    "max_reward": "rewards/max",
}
"""What TRL's reward trainer calls its figures, and what its other trainers (and so the charts) call the same."""


class RewardParams(TrainingParams):
    """Settings of a reward model."""

    center_rewards_coefficient: float = Field(0.01, ge=0, le=10, title="Centring", json_schema_extra={"group": REWARD})
    """How strongly rewards are held around zero, so that those of different prompts can be compared (arXiv 2312.09244). 0 switches this
    off."""
    use_margin: bool = Field(True, title="Use margins", json_schema_extra={"group": REWARD})
    """Where rows have a `margin`, the better answer must win by at least so much, as in Llama 2 (arXiv 2307.09288). Rows without one count
    as margin 0."""


class Reward(Objective):
    """Puts a head on the model that gives one number for a prompt with its answer, and trains both so that the better answer of each pair
    gets the higher one (Bradley-Terry loss, as in InstructGPT, arXiv 2203.02155).

    Take it to rank answers, to choose the best of several, or as the reward of reinforcement learning. The checkpoint gives numbers and no
    answers: it cannot be talked to. A pair longer than the maximum length is left out, since half an answer is not what was rated. By TRL's
    RewardTrainer, which switches dropout off.
    """

    name = "reward"
    title = "Reward model"
    summary = "Learn to score answers from pairs of a better and a worse one. The result gives numbers, not answers."
    avoid = "Not to get a model that answers: the result only scores."
    group = RATINGS
    consumes = ("preference",)
    produces = "reward"
    params = RewardParams
    sequences = 2
    answer = "chosen"
    head = True
    drops_long = True
    refuses: ClassVar[Mapping[str, str]] = {
        "experts": "A mixture of experts is made of models that write text.",
        "mixture": "Its adapters write text.",
    }

    def learning_rate(self, family: str) -> float:
        """3e-4 for adapters (held-out pair accuracy 0.83 from 207 pairs in our trials), 1e-5 for whole models."""
        return 3e-4 if family == "adapter" else 1e-5

    def build_trainer(self, params: RewardParams, job: TrainingJob) -> Any:
        """TRL's RewardTrainer on a model that has its head."""
        from trl import RewardConfig, RewardTrainer

        arguments = RewardConfig(
            **job.arguments,
            max_length=params.max_length,
            center_rewards_coefficient=params.center_rewards_coefficient or None,
        )

        class Trainer(RewardTrainer):
            def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                pairs = len(inputs["input_ids"]) // 2
                loss = super().compute_loss(model, inputs, *args, **kwargs)
                told = self._metrics["train" if self.model.training else "eval"]
                for name, ours in _NAMES.items():  # by the pair: the last batch of an evaluation may be smaller
                    told[ours].extend(value for value in told.pop(name, []) for _ in range(pairs))
                return loss

        Trainer.__name__ = RewardTrainer.__name__

        def rows(found: Any) -> Any:
            return found if found is None or params.use_margin else found.remove_columns("margin")

        return job.trainer(Trainer)(
            model=job.model,
            args=arguments,
            train_dataset=rows(job.train),
            eval_dataset=rows(job.evaluation),
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
