"""Online preference optimisation: DPO on answers the model writes itself, ranked by rewards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.methods.base import BATCH, TrainingJob
from app.methods.rewarded import REWARDS, Rewarded, RewardedParams


class OnlineDpoParams(RewardedParams):
    """Settings of online preference optimisation."""

    batch_size: int = Field(4, ge=1, le=4096, title="Batch size", json_schema_extra={"group": BATCH})
    """Prompts that go through the model at once, with two answers each."""
    gradient_accumulation: int = Field(4, ge=1, le=4096, title="Gradient accumulation", json_schema_extra={"group": BATCH})
    """Batches of each step: a step learns from batch size × this pairs."""
    beta: float = Field(0.1, gt=0, le=100, title="Beta", json_schema_extra={"group": REWARDS})
    """How closely the model stays to what it was: 0.1 as in DPO; higher stays closer, lower follows the rewards further."""
    loss: Literal["sigmoid", "ipo"] = Field("sigmoid", title="Loss", json_schema_extra={"group": REWARDS, "advanced": True})
    """`sigmoid` is DPO; `ipo` (arXiv 2310.12036) overfits less."""


class OnlineDpo(Rewarded):
    """Has the model write two answers to each prompt, takes the one that earns more as the chosen one, and learns from the pair as DPO does
    (Guo et al. 2024, arXiv 2402.04792).

    Take it where rewards say well which of two answers is better but their size means little, as with a judge: only the order counts. Pairs
    that earn the same teach nothing (watch frac_reward_zero_std). Against DPO on collected pairs, the answers are always the model's own
    of now. By our own engine, since TRL's experimental one neither evaluates nor averages accumulated batches; dropout is switched off.
    """

    name = "online_dpo"
    title = "Online preference optimisation"
    summary = "DPO on pairs of the model's own answers, ranked by rewards while it learns."
    avoid = "Not when a rating of every answer says more than which of two is better: take GRPO."
    params = OnlineDpoParams
    engine = "worker.engines.online_dpo:OnlineDpoTrainer"
    # A batch counts prompts, each with two answers.
    sequences = 2
    refuses: ClassVar[Mapping[str, str]] = {
        **Rewarded.refuses,
        "soft": "Virtual tokens before the prompt have not been made to learn from pairs of their own answers. Take LoRA or prefix tuning.",
    }

    def learning_rate(self, family: str) -> float:
        """As DPO: 1e-4 for adapters, 1e-6 for whole models."""
        return 1e-4 if family == "adapter" else 1e-6

    def build_trainer(self, params: OnlineDpoParams, job: TrainingJob) -> Any:
        """Our own trainer; the answers of a step are written at once."""
        from transformers import TrainingArguments

        self.ready(params, job)
        assert job.engine is not None
        return job.trainer(job.engine)(
            model=job.model,
            args=TrainingArguments(**job.arguments, remove_unused_columns=False),
            together=params.batch_size * params.gradient_accumulation,
            batches=job.arguments["gradient_accumulation_steps"],
            settings=params,
            others=job.others,
            reference=job.reference,
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
