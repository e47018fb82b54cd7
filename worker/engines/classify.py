"""Cross-entropy over classes: the trainer of the objective `classify`, and how classifiers are judged. Reads no file but its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainingArguments

from app.checkpoints.heads import CONFUSION_FILE, is_encoder
from worker.classifying import padded, readable, token_ids
from worker.engines.own import OwnTrainer
from worker.tuning import attached

SHOWN_CLASSES = 20
"""With more classes there is no curve for each."""
TOLD_CLASSES = 200
"""With more classes there is no table."""


class ClassifyTrainer(OwnTrainer):
    """Cross-entropy between the head's numbers and the label; with `balance` each class weighs the same."""

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
        labels: Sequence[str],
        balance: bool,
    ) -> None:
        self.labels = tuple(labels)
        numbers = {label: number for number, label in enumerate(self.labels)}
        self._found: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._confusion: dict[str, Any] | None = None
        self.class_weights = torch.tensor(weights([numbers[label] for label in train_dataset["label"]], len(labels))) if balance else None
        model = attached(model, peft_config, args, processing_class)
        self.options = {} if is_encoder(model.config.to_dict()) else {"use_cache": False}
        self.max_length = readable(model, max_length)

        def prepared(rows: Any) -> Any:
            def tokens(row: dict[str, Any]) -> dict[str, Any]:
                return {"input_ids": token_ids(processing_class, row["text"], self.max_length), "target": numbers[row["label"]]}

            return rows.map(tokens, remove_columns=rows.column_names)

        super().__init__(model, args, processing_class, prepared, train_dataset, eval_dataset)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = padded([row["input_ids"] for row in rows], self.processing_class.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask, "target": torch.tensor([row["target"] for row in rows])}

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        """The cross-entropy; in training weighted by class, if asked for."""
        target = inputs["target"]
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **self.options)
        found = outputs.logits.float()
        losses = torch.nn.functional.cross_entropy(found, target, reduction="none")
        if not model.training:
            self._found.append((found.detach().cpu(), target.cpu()))
        elif self.class_weights is not None:
            losses = losses * self.class_weights.to(losses)[target]  # divided by rows, not by weights, so that batches add up
        loss = losses.mean()
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[torch.Tensor, None, None]:
        """The loss of an evaluation batch; what was predicted is kept for `log`."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds how good the predictions of an evaluation were."""
        if "eval_loss" in logs and self._found:
            found, target = (torch.cat(side).numpy() for side in zip(*self._found, strict=True))
            table = confusion(found.argmax(-1), target, len(self.labels))
            logs.update(judged(table, self.labels))
            self._confusion = told(table, self.labels, int(self.state.global_step))
        self._found.clear()
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        write_confusion(Path(output_dir or self.args.output_dir), self._confusion)


def weights(targets: Sequence[int], classes: int) -> list[float]:
    """A weight for each class, so that all weigh the same and a row weighs 1 on average."""
    counts = np.bincount(targets, minlength=classes)
    return [len(targets) / (classes * int(count)) for count in counts]


def confusion(found: np.ndarray[Any, Any], target: np.ndarray[Any, Any], classes: int) -> np.ndarray[Any, Any]:
    """How many rows of each class (first index) were taken for each class (second index)."""
    table = np.zeros((classes, classes), dtype=int)
    np.add.at(table, (target, found), 1)
    return table


def judged(table: np.ndarray[Any, Any], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy, the mean of the F1 of each class that occurs or was predicted, and the share found of each class."""
    right, of_class, taken = np.diag(table), table.sum(1), table.sum(0)
    there = of_class + taken > 0
    f1 = 2 * right[there] / (of_class + taken)[there]
    figures = {"eval_accuracy": float(right.sum() / table.sum()), "eval_macro_f1": float(f1.mean())}
    if len(labels) <= SHOWN_CLASSES:
        shares = zip(labels, right, of_class, strict=True)
        figures |= {f"class_accuracy/{curve(label)}": float(hits / rows) for label, hits, rows in shares if rows}
    return figures


def curve(label: str) -> str:
    """A label as part of the name of a curve."""
    name = " ".join("".join(letter if letter.isprintable() else " " for letter in label).split())
    return name if len(name) <= 60 else f"{name[:59]}…"


def told(table: np.ndarray[Any, Any], labels: Sequence[str], step: int) -> dict[str, Any] | None:
    """The table as it is kept; nothing where it would be too large to look at."""
    return {"step": step, "labels": list(labels), "rows": table.tolist()} if len(labels) <= TOLD_CLASSES else None


def write_confusion(folder: Path, table: dict[str, Any] | None) -> None:
    """Keep the table of the last evaluation beside a checkpoint."""
    if table is not None:
        (folder / CONFUSION_FILE).write_text(json.dumps(table) + "\n", encoding="utf-8")
