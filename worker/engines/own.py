"""What trainers of our own share that learn from rows: how rows come in, and how their loss is averaged. Reckons no loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from transformers import Trainer, TrainingArguments


class OwnTrainer(Trainer):
    """A trainer with a loss of its own; a subclass has `columns`, `_collate` and `compute_loss`."""

    columns: ClassVar[tuple[str, ...]]
    """Columns of the prepared rows that are collated."""

    def __init__(
        self, model: Any, args: TrainingArguments, tokenizer: Any, prepared: Callable[[Any], Any], train_dataset: Any, eval_dataset: Any
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            data_collator=self._collate,
            train_dataset=prepared(train_dataset),
            eval_dataset=None if eval_dataset is None else prepared(eval_dataset),
            processing_class=tokenizer,
        )
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch, so accumulated batches are averaged
        self.can_return_loss = True
        self.label_names: list[str] = []

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.columns)

    def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        raise NotImplementedError
