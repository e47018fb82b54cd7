"""What trl's experimental trainers of pairs (ORPO, CPO) need to be right: the rows, what is left out, and figures like DPO's. No loss."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from worker.rewards import token_ids


def sides(tokenizer: Any, prompt: Any, *answers: Any) -> tuple[list[int], list[list[int]]]:
    """Token ids of a prompt and of the answers to it, as trl's stable trainers make them: what the model reads when it is asked, and what
    it should write, its end included."""
    if isinstance(prompt, list):
        asked = list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"])
    else:
        asked = list(tokenizer(text=prompt)["input_ids"])
    whole = [token_ids(tokenizer, prompt, answer) for answer in answers]
    length = min([len(asked), *(_common(asked, each) for each in whole)])
    return asked[:length], [each[length:] for each in whole]


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two sequences begin with alike; some templates write a prompt differently once it has an answer."""
    return next((at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other), min(len(first), len(second)))


def mended(kind: type[Any]) -> type[Any]:
    """A subclass of trl's experimental ORPOTrainer or CPOTrainer that differs in these ways:

    - Rows become tokens as DPO makes them; the original puts a second end-of-sequence token after templates that end with a line break.
    - Log-probabilities are reckoned in 32 bits; the original takes the type of the logits, and in bfloat16 losses are off by 0.03.
    - Rows whose prompt alone fills the maximum length are left out; in the original their empty answers make the loss no number.
    - Evaluations go through `compute_loss`, and all figures are kept where the stable trainers keep them, so that what is built upon those
      (grades of held-out pairs, tokens seen) works here too.
    """

    class Mended(kind):
        def __init__(self, args: Any, train_dataset: Any, eval_dataset: Any, processing_class: Any, **rest: Any) -> None:
            from trl.experimental.utils import DPODataCollatorWithPadding

            self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list), "eval": defaultdict(list)}
            self._pad = processing_class.pad_token_id
            self._collator = DPODataCollatorWithPadding(pad_token_id=self._pad)

            def prepared(rows: Any) -> Any:
                if rows is None:
                    return None
                made = rows.map(lambda row: _row(row, processing_class, args.max_length), remove_columns=["prompt", "chosen", "rejected"])
                return made.filter(lambda row: len(row["prompt_input_ids"]) < args.max_length)

            args.remove_unused_columns = False
            train, held_out = prepared(train_dataset), prepared(eval_dataset)
            if not len(train) or (held_out is not None and not len(held_out)):
                raise ValueError(
                    f"no row has a prompt that is shorter than the maximum length of {args.max_length} tokens. Raise max_length"
                )
            super().__init__(
                args=args,
                train_dataset=train,
                eval_dataset=held_out,
                processing_class=processing_class,
                data_collator=self._collate,
                **rest,
            )

        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return feature

        def concatenated_forward(self, model: Any, batch: dict[str, Any]) -> Any:
            def in_32_bits(*args: Any, **kwargs: Any) -> Any:
                outputs = model(*args, **kwargs)
                outputs.logits = outputs.logits.float()
                return outputs

            return super().concatenated_forward(in_32_bits, batch)

        def _collate(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
            batch: dict[str, Any] = self._collator(rows)
            both = self.concatenated_inputs(batch, padding_value=self._pad)
            return {**batch, "input_ids": both["concatenated_input_ids"], "attention_mask": both["concatenated_attention_mask"]}

        def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            mode = "train" if self.model.training else "eval"
            loss, told = self.get_batch_loss_metrics(model, inputs, train_eval=mode)
            pairs = len(inputs["input_ids"]) // 2
            for name, value in told.items():  # by the pair: the last batch of an evaluation may be smaller
                self._metrics[mode][name.removeprefix("eval_")].extend([value] * pairs)
            if getattr(self, "cpo_alpha", None) == 0:
                self._metrics[mode].pop("nll_loss", None)  # not reckoned
            return (loss, told) if return_outputs else loss

        def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[torch.Tensor, None, None]:
            inputs = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                return self.compute_loss(model, inputs).detach(), None, None

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            mode = "train" if self.model.training else "eval"
            for name, values in self._metrics[mode].items():
                logs[f"eval_{name}" if mode == "eval" else name] = sum(values) / len(values)
            self._metrics[mode].clear()
            super().log(logs, start_time)

    Mended.__name__ = Mended.__qualname__ = kind.__name__
    return Mended


def _row(row: dict[str, Any], tokenizer: Any, longest: int) -> dict[str, Any]:
    prompt, answers = sides(tokenizer, row["prompt"], row["chosen"], row["rejected"])
    made: dict[str, Any] = {"prompt_input_ids": prompt}
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        ids = (prompt + answer)[:longest]
        labels = ([-100] * len(prompt) + answer)[:longest]
        made |= {f"{name}_input_ids": ids, f"{name}_attention_mask": [1] * len(ids), f"{name}_labels": labels}
    return made
