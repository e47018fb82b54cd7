"""Regression on ratings: the trainer of the objective `score`. Reads no file; the rows come as trl's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainingArguments

from worker.rewards import token_ids

WITHIN = 0.5
"""A rating counts as hit when the number is no further away than this."""


class ScoreTrainer(Trainer):
    """Least squares between the head's number and the rating, both in units of the ratings' spread."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train_dataset: Any,
        eval_dataset: Any,
        processing_class: Any,
        peft_config: Any,
        max_length: int,
        mean: float,
        spread: float,
    ) -> None:
        self.mean, self.spread = mean, spread
        self._found: list[tuple[torch.Tensor, torch.Tensor]] = []

        def prepared(rows: Any) -> Any:
            if rows is None:
                return None

            def tokens(row: dict[str, Any]) -> dict[str, Any]:
                return {
                    "input_ids": token_ids(processing_class, row["prompt"], row["completion"]),
                    "target": (row["score"] - mean) / spread,
                }

            return rows.map(tokens, remove_columns=rows.column_names).filter(lambda row: len(row["input_ids"]) <= max_length)

        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        if args.gradient_checkpointing and hasattr(model, "peft_config"):
            model.enable_input_require_grads()
        model.config.get_text_config().pad_token_id = processing_class.pad_token_id
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collate,
            train_dataset=prepared(train_dataset),
            eval_dataset=prepared(eval_dataset),
            processing_class=processing_class,
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch, so accumulated batches are averaged
        self.can_return_loss = True
        self.label_names: list[str] = []

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        pad = self.processing_class.pad_token_id
        return {
            "input_ids": torch.tensor([row["input_ids"] + [pad] * (longest - len(row["input_ids"])) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]),
            "target": torch.tensor([row["target"] for row in rows], dtype=torch.float32),
        }

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["input_ids", "target"]

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The squared error, in units of the spread of the training rows."""
        target = inputs["target"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        found = outputs.logits.squeeze(-1).float()
        if not model.training:
            self._found.append((found.detach().cpu(), target.cpu()))
        loss = torch.nn.functional.mse_loss(found, target)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[torch.Tensor, None, None]:
        """The loss of an evaluation batch; what was predicted is kept for `log`."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds how good the predictions of an evaluation were."""
        if "eval_loss" in logs and self._found:
            found, target = (torch.cat(side).double().numpy() * self.spread + self.mean for side in zip(*self._found, strict=True))
            logs.update({f"eval_{name}": value for name, value in judged(found, target).items()})
        self._found.clear()
        super().log(logs, *args, **kwargs)


def judged(found: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> dict[str, float]:
    """Squared error, rank correlation (where both vary) and the share within half a point, on the scale of the ratings."""
    told = {"mse": float(np.mean((found - target) ** 2)), "accuracy": float(np.mean(np.abs(found - target) <= WITHIN))}
    if len(found) > 1 and np.ptp(found) > 0 and np.ptp(target) > 0:
        told["spearman"] = float(np.corrcoef(_ranks(found), _ranks(target))[0, 1])
    return told


def _ranks(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    found: np.ndarray[Any, Any] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return found
