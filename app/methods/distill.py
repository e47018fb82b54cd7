"""Distillation: learn from the probabilities of a better model."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from app.methods.base import TEACHER, Objective, TrainingJob, TrainingParams
from app.references import PolicyId

DISTILLATION = "Teacher"


class DistillParams(TrainingParams):
    """Settings of distillation."""

    teacher: PolicyId = Field(min_length=1, title="Teacher", json_schema_extra={"group": DISTILLATION})
    """The checkpoint to learn from. It needs the same vocabulary as the model to train, as models of one family have, and room in memory
    beside it."""
    on_policy: float = Field(0.0, ge=0, le=1, title="Own answers", json_schema_extra={"group": DISTILLATION})
    """Share of the batches for which the model writes the answers itself, and learns what the teacher would have said at each place. 0
    takes the answers of the rows and is by far the fastest; 1 needs prompts only. 0.5 and more mend mistakes that the model makes when
    it is on its own."""
    beta: float = Field(0.0, ge=0, le=1, title="Beta", json_schema_extra={"group": DISTILLATION})
    """Which divergence: at 0 (forward, as in arXiv 1503.02531) the model covers all the teacher might say, at 1 (reverse) it keeps to what
    the teacher is surest of, which suits small models and own answers. Between them it is the generalised Jensen-Shannon divergence, whose
    gradients are smaller: take a higher learning rate with it."""
    temperature: float = Field(1.0, ge=0.01, le=100, title="Temperature", json_schema_extra={"group": DISTILLATION, "advanced": True})
    """Flattens the probabilities of both before they are compared, and those the model's own answers are drawn from."""
    max_new_tokens: int = Field(128, ge=1, le=65_536, title="Length of own answers", json_schema_extra={"group": DISTILLATION})
    """Tokens of an answer that the model writes itself; with its prompt it is never longer than the maximum length."""


class Distill(Objective):
    """Trains the model to give each next token the probability that a teacher gives it: on the answers of the rows, on answers of its own,
    or on both (generalised knowledge distillation, Agarwal et al. 2024, arXiv 2306.13649).

    Take it to get most of a large model into a small one of the same family, or to fetch back what fine-tuning has spoilt. A token says
    more than an answer does, since the teacher tells its whole opinion; a teacher of another family can only teach by answers that are
    learned with supervised fine-tuning. Figures: `kl` is how far the model is from the teacher (forward divergence, nats a token),
    whatever divergence is learned. Dropout is off. Our own trainer: TRL's either learn from own answers only, or divide the loss of own
    answers by the length of those of the rows.
    """

    name = "distill"
    title = "Distillation"
    summary = "Learn from the probabilities of a larger model of the same family."
    avoid = "Not from a model of another family: let that one write answers, and take supervised fine-tuning."
    group = TEACHER
    consumes = ("chat", "prompt_completion", "prompt")
    params = DistillParams
    engine = "worker.engines.distill:DistillTrainer"

    def learning_rate(self, family: str) -> float:
        """As for supervised fine-tuning, whose gradients are of the same size: 2e-4 for adapters, 2e-5 for whole models."""
        return 2e-4 if family == "adapter" else 2e-5

    def build_trainer(self, params: DistillParams, job: TrainingJob) -> Any:
        """Our own trainer, with the teacher beside the model."""
        from transformers import TrainingArguments

        return job.trainer(job.engine)(
            model=job.model,
            args=TrainingArguments(**job.arguments),
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
            teacher=job.others[params.teacher],
            precision=params.precision,
            max_length=params.max_length,
            on_policy=params.on_policy,
            beta=params.beta,
            temperature=params.temperature,
            max_new_tokens=params.max_new_tokens,
        )
