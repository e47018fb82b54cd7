"""Regression on ratings: the trainer of the objective `score`. Reads no file; the rows come as trl's columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from worker.engines.own import OwnTrainer
from worker.rewards import token_ids
from worker.tuning import attached

WITHIN = 0.5
"""A rating counts as hit when the number is no further away than this."""


class ScoreTrainer(OwnTrainer):
    """Least squares between the head's number and the rating, both in units of the ratings' spread."""

    columns = ("input_ids", "target")

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
            def tokens(row: dict[str, Any]) -> dict[str, Any]:
                return {
                    "input_ids": token_ids(processing_class, row["prompt"], row["completion"]),
                    "target": (row["score"] - mean) / spread,
                }

            return rows.map(tokens, remove_columns=rows.column_names).filter(lambda row: len(row["input_ids"]) <= max_length)

        model = attached(model, peft_config, args, processing_class)
        super().__init__(model, args, processing_class, prepared, train_dataset, eval_dataset)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        pad = self.processing_class.pad_token_id
        return {
            "input_ids": torch.tensor([row["input_ids"] + [pad] * (longest - len(row["input_ids"])) for row in rows]),
            "attention_mask": torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]),
            "target": torch.tensor([row["target"] for row in rows], dtype=torch.float32),
        }

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
