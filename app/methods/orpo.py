"""Odds ratio preference optimisation: learn good answers, and to prefer them, in one go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from app.methods.base import RATINGS, Objective, TrainingJob, TrainingParams

PREFERENCE = "Preference"


class OrpoParams(TrainingParams):
    """Settings of odds ratio preference optimisation."""

    beta: float = Field(1.0, ge=0, le=100, title="Beta", json_schema_extra={"group": PREFERENCE})
    """How much the preference counts beside learning the chosen answer (λ in the paper, which takes 0.1 to 0.25). More moves the rejected
    answer away faster; with few steps of an adapter 0.1 taught hardly any preference in our trials, and 1 did."""


class Orpo(Objective):
    """Learns the chosen answer as supervised fine-tuning does, and at the same time raises its odds over those of the rejected one (Hong et
    al. 2024, arXiv 2403.07691).

    Take it to go from a base model and pairs to an assistant in one run: it needs no fine-tuning before and no reference model, so it
    takes less memory than DPO. The chosen answers have to be worth learning word for word. As in the authors' code the likelihood part
    counts the prompt too. Its log-probabilities and rewards are means over the tokens of an answer, so they cannot be set beside those
    of DPO. By TRL's experimental ORPOTrainer, which switches dropout off.
    """

    name = "orpo"
    title = "Odds ratio preference optimisation"
    summary = "Learn good answers and to prefer them over bad ones in one run, without fine-tuning before."
    avoid = "Not when the chosen answers are only the lesser evil: they are learned word for word."
    group = RATINGS
    consumes = ("preference",)
    params = OrpoParams
    engine = "worker.engines.pairs:mended"
    sequences = 2
    answer = "chosen"
    refuses: ClassVar[Mapping[str, str]] = {
        "soft": "The library loses count of its virtual tokens here. Take dpo with it, or another tuner."
    }

    def learning_rate(self, family: str) -> float:
        """3e-4 for adapters (in our trials), 8e-6 for whole models (TRL's example)."""
        return 3e-4 if family == "adapter" else 8e-6

    def build_trainer(self, params: OrpoParams, job: TrainingJob) -> Any:
        """TRL's ORPOTrainer, mended."""
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return job.trainer(job.engine(ORPOTrainer))(
            model=job.model,
            args=ORPOConfig(**job.arguments, max_length=params.max_length, beta=params.beta),
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
