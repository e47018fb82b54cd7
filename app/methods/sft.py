"""Supervised fine-tuning: learn to give the answers of the rows."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from app.methods.base import ANSWERS, BATCH, Objective, TrainingJob, TrainingParams


class SftParams(TrainingParams):
    """Settings of supervised fine-tuning."""

    group_by_length: bool = Field(True, title="Group by length", json_schema_extra={"group": BATCH, "advanced": True})
    """Put rows of like length into one batch, so that little is reckoned on padding: up to 1.4 times as fast when lengths differ."""


class Sft(Objective):
    """Trains the model to continue each prompt with its answer; only the answer's tokens count, not the prompt's.

    The first method to take: it teaches format, style and tasks from examples of good answers, and is the usual start for preference
    training. Rows are conversations, whose last answer is learned, or prompts with completions. Instruction tuning as in InstructGPT
    (arXiv 2203.02155), by TRL's SFTTrainer.
    """

    name = "sft"
    title = "Supervised fine-tuning"
    summary = "Learn from examples of good answers. The first method to take."
    avoid = "Not when it is easier to say which of two answers is better than to write the best one."
    group = ANSWERS
    consumes = ("chat", "prompt_completion")
    params = SftParams
    mixes = True

    def learning_rate(self, family: str) -> float:
        """2e-4 for adapters (QLoRA, arXiv 2305.14314), 2e-5 for whole models (Alpaca; TRL's default)."""
        return 2e-4 if family == "adapter" else 2e-5

    def build_trainer(self, params: SftParams, job: TrainingJob) -> Any:
        """TRL's SFTTrainer on prompts and completions."""
        from trl import SFTConfig, SFTTrainer

        arguments = SFTConfig(
            **job.arguments,
            max_length=params.max_length,
            completion_only_loss=True,
            train_sampling_strategy="group_by_length" if params.group_by_length else "random",
        )
        return job.trainer(SFTTrainer)(
            model=job.model,
            args=arguments,
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
