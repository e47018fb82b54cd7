"""Continued pretraining: learn from plain text, every token of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from app.methods.base import BATCH, TEXT, Objective, TrainingJob, TrainingParams


class PretrainParams(TrainingParams):
    """Settings of continued pretraining."""

    max_length: int = Field(1024, ge=8, le=1_048_576, title="Maximum length", json_schema_extra={"group": BATCH})
    """Tokens that go through the model as one row. Longer texts become several rows, and nothing of them is left away."""
    packing: bool = Field(True, title="Packing", json_schema_extra={"group": BATCH})
    """Put several short texts into one row, so that nothing is reckoned on padding. They do not see each other: each is learned as if it
    stood alone."""


class Pretrain(Objective):
    """Trains the model to continue plain text, as it was trained in the first place; every token counts, and each text ends with the
    end-of-sequence token.

    Take it to teach a model a language, a field or a style from documents nobody has turned into questions and answers (Gururangan et al.
    2020, arXiv 2004.10964). It makes no assistant, and a tuned one answers worse afterwards: take the base model, and supervised
    fine-tuning after it. It is judged by the perplexity of texts it has not seen, that is, among how many tokens it hesitates; watch that
    of other texts too, for what the model forgets. By TRL's SFTTrainer.
    """

    name = "pretrain"
    title = "Continued pretraining"
    summary = "Learn a language, a field or a style from plain text."
    avoid = "Not to learn how to answer: that takes prompts with answers, and supervised fine-tuning."
    group = TEXT
    consumes = ("text",)
    params = PretrainParams
    answer = "text"
    splits_long = True

    def learning_rate(self, family: str) -> float:
        """1e-4 for adapters, 2e-5 for whole models: those of fine-tuning or a little lower, so that less is forgotten."""
        return 1e-4 if family == "adapter" else 2e-5

    def problems(self, params: PretrainParams) -> Iterator[tuple[str, str]]:
        """Plain text asks nothing, so no answer can be checked."""
        if params.answer_check != "none":
            yield "params.answer_check", "Plain text has no prompts, so no answers can be checked. Set it to none."

    def build_trainer(self, params: PretrainParams, job: TrainingJob) -> Any:
        """TRL's SFTTrainer on texts that are tokenised and split here, since it would cut long ones."""
        from trl import SFTConfig, SFTTrainer

        class Trainer(SFTTrainer):
            _seen: tuple[float, int] = (0.0, 0)
            """Sum of the losses of all tokens of an evaluation so far, and how many they are."""

            def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                if self.model.training and "attention_mask" not in inputs:  # rows are packed, and have no padding
                    self.tokens_seen += inputs["input_ids"].numel()
                loss = super().compute_loss(model, inputs, *args, **kwargs)
                if not self.model.training:
                    learned = int((inputs["labels"][:, 1:] != -100).sum())
                    self._seen = (self._seen[0] + float(loss) * learned, self._seen[1] + learned)
                return loss

            def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
                if "eval_loss" in logs and self._seen[1]:  # by the token: batches hold unlike numbers of them
                    logs["eval_loss"] = self._seen[0] / self._seen[1]
                    self._seen = (0.0, 0)
                for prefix in ("", "eval_"):
                    if logs.get(f"{prefix}loss", math.inf) < 100:
                        logs[f"{prefix}perplexity"] = math.exp(logs[f"{prefix}loss"])
                super().log(logs, *args, **kwargs)

        Trainer.__name__ = SFTTrainer.__name__

        def rows(found: Any) -> Any:
            return None if found is None else _split(found, job.tokenizer, params.max_length)

        train = rows(job.train)
        trainer = job.trainer(Trainer)(
            model=job.model,
            args=SFTConfig(**job.arguments, max_length=params.max_length, packing=params.packing, packing_strategy="bfd"),
            train_dataset=train,
            eval_dataset=rows(job.evaluation),
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
        trainer.prepared = {"texts": len(job.train), "pieces": len(train), "rows": len(trainer.train_dataset)}
        return trainer


def _split(rows: Any, tokenizer: Any, longest: int) -> Any:
    def tokens(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found: list[list[int]] = []
        for ids in tokenizer(batch["text"])["input_ids"]:
            ended = ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]
            found += pieces(ended, longest)
        return {"input_ids": found}

    return rows.map(tokens, batched=True, remove_columns=rows.column_names)


def pieces(tokens: list[int], longest: int) -> Iterator[list[int]]:
    """A text in pieces of at most `longest` tokens. Each begins with the last token of the one before, so that every token but the very
    first is predicted once."""
    for start in range(0, max(1, len(tokens) - 1), longest - 1):
        yield tokens[start : start + longest]
