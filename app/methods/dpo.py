"""Direct preference optimisation: learn from pairs of a better and a worse answer."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from app.methods.base import RATINGS, Objective, TrainingJob, TrainingParams

PREFERENCE = "Preference"


class DpoParams(TrainingParams):
    """Settings of direct preference optimisation."""

    beta: float = Field(0.1, gt=0, le=100, title="Beta", json_schema_extra={"group": PREFERENCE})
    """How closely the model stays to what it was: 0.1 as in the paper; higher stays closer, lower follows the preferences further."""
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = Field("sigmoid", title="Loss", json_schema_extra={"group": PREFERENCE})
    """`sigmoid` is DPO; `ipo` (arXiv 2310.12036) overfits less; `hinge` is SLiC (arXiv 2305.10425); `robust` (arXiv 2403.00409) expects
    some wrong labels."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, title="Wrong labels", json_schema_extra={"group": PREFERENCE, "advanced": True})
    """Share of pairs taken to be the wrong way round; `robust` needs one, such as 0.1."""
    sft_weight: float = Field(0.0, ge=0, le=100, title="Weight of the chosen answer", json_schema_extra={"group": PREFERENCE})
    """How much learning to give the chosen answer, as in supervised fine-tuning, counts beside the comparison. 0: not at all. 1, as in
    arXiv 2404.19733, keeps good answers from becoming less likely together with the bad ones."""
    precompute_reference: bool = Field(False, title="Precompute the reference", json_schema_extra={"group": PREFERENCE, "advanced": True})
    """Score all pairs with the untrained model once before training: pays from the second epoch on, and saves the memory of a second
    model in full tuning."""

    @model_validator(mode="after")
    def _robust_needs_a_share(self) -> DpoParams:
        if self.loss == "robust" and self.label_smoothing == 0:
            raise ValueError("The robust loss needs the share of wrong labels: set label_smoothing, such as 0.1")
        return self


class Dpo(Objective):
    """Raises the chance of the chosen answer over the rejected one, measured against the model before training (Rafailov et al. 2023,
    arXiv 2305.18290).

    Take it after supervised fine-tuning, when it is easier to say which of two answers is better than to write the best one. It needs no
    reward model and no sampling. Its loss begins at ln 2 (0.693) and its reward margin should rise. By TRL's DPOTrainer, which switches
    dropout off.
    """

    name = "dpo"
    title = "Direct preference optimisation"
    summary = "Learn from pairs of a better and a worse answer. Best after supervised fine-tuning."
    avoid = "Not before the model can do the task at all: start with supervised fine-tuning."
    group = RATINGS
    consumes = ("preference",)
    params = DpoParams
    sequences = 2
    compares = True
    answer = "chosen"

    def learning_rate(self, family: str) -> float:
        """1e-4 for adapters (at 5e-6, a common advice, they learned nothing in our trials), 1e-6 for whole models (TRL's default)."""
        return 1e-4 if family == "adapter" else 1e-6

    def build_trainer(self, params: DpoParams, job: TrainingJob) -> Any:
        """TRL's DPOTrainer; the reference is the model with its adapter switched off, or the base loaded a second time."""
        from trl import DPOConfig, DPOTrainer

        arguments = DPOConfig(
            **job.arguments,
            max_length=params.max_length,
            beta=params.beta,
            loss_type=[params.loss, "sft"] if params.sft_weight else [params.loss],
            loss_weights=[1.0, params.sft_weight] if params.sft_weight else None,
            label_smoothing=params.label_smoothing,
            precompute_ref_log_probs=params.precompute_reference,
        )
        return job.trainer(DPOTrainer)(
            model=job.model,
            ref_model=job.reference,
            args=arguments,
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
