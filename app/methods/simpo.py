"""Simple preference optimisation: learn from pairs without a reference model, by the mean log-probability of a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from app.methods.base import RATINGS, Objective, TrainingJob, TrainingParams

PREFERENCE = "Preference"


class SimpoParams(TrainingParams):
    """Settings of simple preference optimisation."""

    beta: float = Field(2.0, gt=0, le=100, title="Beta", json_schema_extra={"group": PREFERENCE})
    """How steeply the preference counts: 2 to 2.5 in the paper; the authors often found up to 10 better still."""
    gamma_ratio: float = Field(0.5, ge=0, le=10, title="Target margin", json_schema_extra={"group": PREFERENCE})
    """By how much the chosen answer should win, in units of the mean log-probability of a token: γ/β, for which the authors advise 0.5 to
    begin with, and to try 0 to 1."""
    cpo_alpha: float = Field(
        0.0, ge=0, le=100, title="Weight of the chosen answer", json_schema_extra={"group": PREFERENCE, "advanced": True}
    )
    """How much learning to give the chosen answer counts beside the comparison: 0 is SimPO, more is CPO-SimPO (arXiv 2401.08417), which
    is steadier."""


class Simpo(Objective):
    """Raises the mean log-probability of a token of the chosen answer over that of the rejected one, by a margin (Meng, Xia and Chen 2024,
    arXiv 2405.14734).

    Take it after supervised fine-tuning, in place of DPO where its answers grow too long or memory is short: it needs no reference model,
    and an answer does not win by its length. Nothing holds the model to what it was, so the learning rate matters more than with DPO:
    too high, and answers fall apart or repeat themselves. Rewards are β times the mean log-probability of a token. By TRL's experimental
    CPOTrainer, which switches dropout off.
    """

    name = "simpo"
    title = "Simple preference optimisation"
    summary = "Learn from pairs without a reference model: less memory than DPO, and long answers have no advantage."
    avoid = "Not with few or noisy pairs: nothing holds the model to what it was. DPO does."
    group = RATINGS
    consumes = ("preference",)
    params = SimpoParams
    engine = "worker.engines.pairs:mended"
    sequences = 2
    answer = "chosen"
    refuses: ClassVar[Mapping[str, str]] = {
        "soft": "The library loses count of its virtual tokens here. Take dpo with it, or another tuner."
    }

    def learning_rate(self, family: str) -> float:
        """2e-4 for adapters (in our trials), 5e-7 for whole models (the authors advise 3e-7, 5e-7 and 1e-6)."""
        return 2e-4 if family == "adapter" else 5e-7

    def build_trainer(self, params: SimpoParams, job: TrainingJob) -> Any:
        """TRL's CPOTrainer with the loss of SimPO, mended."""
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        arguments = CPOConfig(
            **job.arguments,
            max_length=params.max_length,
            loss_type="simpo",
            beta=params.beta,
            simpo_gamma=params.gamma_ratio * params.beta,
            cpo_alpha=params.cpo_alpha,
        )
        return job.trainer(job.engine(CPOTrainer))(
            model=job.model,
            args=arguments,
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
