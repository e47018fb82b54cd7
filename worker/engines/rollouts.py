"""Base of our own trainers that learn from answers of the model: it asks, scores, hands out batches and evaluates. Knows no loss."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, Trainer, TrainingArguments, set_seed

from worker import generate
from worker.engines import asking, rewarding
from worker.engines.grouped import Batch
from worker.tuning import attached

Tensors = dict[str, torch.Tensor]
REFERENCE = "ref"
"""Name of the copy of an adapter the run goes on training, as it was before."""


@dataclass(frozen=True)
class Read:
    """What a model says to answers that are there."""

    logs: torch.Tensor
    """Logarithm of the probability of each token of each answer; what stands behind its end means nothing."""
    entropy: torch.Tensor
    hidden: torch.Tensor
    """What the model knew just before each token: the input of its output layer."""


class Rollouts(Trainer):
    """Trains on answers that the model writes itself.

    A subclass makes batches of answers (`batches_of`) and a loss of a batch (`loss_of`), which is summed over the batches of a step.

    Args:
        settings: those of the objective (`app.methods.rewarded.RewardedParams`).
        together: prompts that are answered at once.
        batches: batches that are made of those answers before the next are written.
        others: folders of the checkpoints that rewards name.
        reference: the model before training, where it cannot be had by switching the adapter off; None: it is copied.
    """

    answers = 1
    """Answers to a prompt."""
    tokens_seen = 0
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        settings: Any,
        together: int,
        batches: int,
        others: rewarding.Checkpoints,
        reference: Any,
        train_dataset: Any,
        eval_dataset: Any,
        processing_class: Any,
        peft_config: Any,
    ) -> None:
        self.settings, self.together, self.batches = settings, together, batches
        longest = asking.room(model, settings.max_length, settings.max_completion_length)
        rows = asking.prepared(train_dataset, processing_class, longest)
        asking.enough(rows, together)
        self.rewarded = rewarding.Rewards(settings.rewards, others, str(args.device), str(model.dtype).removeprefix("torch."))
        set_seed(args.seed)
        compares = settings.beta > 0
        self.reference: Any = None
        if peft_config is None and compares and hasattr(model, "peft_config"):
            _keep_adapter(model)
        elif peft_config is None and compares:
            self.reference = (reference or copy.deepcopy(model)).eval().requires_grad_(False).to(args.device)
        # Without dropout: a token must be as probable when it is learned from as when it was written.
        model = attached(model, peft_config, args, processing_class, dropout=False)
        super().__init__(
            model=model,
            args=args,
            data_collator=Batch,
            train_dataset=rows,
            eval_dataset=asking.prepared(asking.first(eval_dataset, settings.eval_rows), processing_class, longest),
            processing_class=processing_class,
        )
        self.can_return_loss = True
        self.label_names: list[str] = []
        self.made = 0
        """Batches made since training began."""
        self.waiting: list[Tensors] = []
        """Batches made of the latest answers."""
        self._told: dict[str, list[tuple[float, float]]] = defaultdict(list)
        ends = self.model.generation_config.eos_token_id
        self.ends = sorted({*(ends if isinstance(ends, list) else [ends]), processing_class.eos_token_id} - {None})
        set_seed(args.seed)

    # --- what a subclass makes of it --------------------------------------------------------------------------------------

    def batches_of(self, rows: Sequence[dict[str, Any]], written: Tensors, columns: list[list[float]]) -> list[Tensors]:
        """Batches made of answers to rows, as many as `batches`, each with as many rows as go through the model at once.

        Args:
            written: the answers, see `write`.
            columns: their rewards, one list each.
        """
        raise NotImplementedError

    def loss_of(self, model: Any, batch: Tensors) -> torch.Tensor:
        """The share of a batch in the loss of its step."""
        raise NotImplementedError

    # --- asking -----------------------------------------------------------------------------------------------------------

    def write(self, rows: Sequence[dict[str, Any]]) -> tuple[Tensors, list[str]]:
        """An answer of the model to each row, as tokens and as text.

        Returns:
            `ids` and `mask` of prompt and answer, padded on the right; `answer` and `answer_mask` of the answer alone; `place`, where in
            `ids` the model stood before each token of the answer; `cut`, whether an answer reached the longest length without an end.
        """
        tokenizer, model = self.processing_class, self.model
        texts = [generate.prompt_text(tokenizer, row["prompt"]) for row in rows]
        special = isinstance(rows[0]["prompt"], str)
        asked = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=special)
        ids, mask = asked["input_ids"].to(self.args.device), asked["attention_mask"].to(self.args.device)
        how = GenerationConfig(
            max_new_tokens=self.settings.max_completion_length,
            do_sample=True,
            temperature=self.settings.temperature,
            top_k=0,  # the model's own settings would draw from fewer tokens than it is trained on
            top_p=1.0,
            repetition_penalty=1.0,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=self.ends,
        )
        was_training = model.training
        model.eval()
        try:
            with asking.writing(model), torch.no_grad(), self.accelerator.autocast():
                found = model.generate(input_ids=ids, attention_mask=mask, generation_config=how)
        finally:
            model.train(was_training)
        answer = found[:, ids.shape[1] :]
        ended = torch.isin(answer, torch.tensor(self.ends, device=answer.device))
        answer_mask = (ended.cumsum(dim=1) - ended.long() == 0).long()
        said = [row[keep.bool()].tolist() for row, keep in zip(answer, answer_mask, strict=True)]
        whole = [row[keep.bool()].tolist() + own for row, keep, own in zip(ids, mask, said, strict=True)]
        written = _packed(whole, said, tokenizer.pad_token_id, self.args.device)
        written["cut"] = torch.tensor([own[-1] not in self.ends for own in said], device=self.args.device)
        return written, tokenizer.batch_decode(said, skip_special_tokens=True)

    def scored(self, rows: Sequence[dict[str, Any]], texts: Sequence[str], written: Tensors) -> list[list[float]]:
        """The rewards of answers, one list each; what they are is noted."""
        lengths = written["answer_mask"].sum(dim=1)
        expected = [row.get(asking.EXPECTED) for row in rows]
        columns = self.rewarded.columns(rewarding.answered([row["prompt"] for row in rows], texts, lengths.tolist(), expected))
        total, count = self.rewarded.total(columns), len(rows)
        self.note("reward", total.mean(), count)
        self.note("completion_length", lengths.float().mean(), count)
        self.note("clipped_ratio", written["cut"].float().mean(), count)
        for name, value in self.rewarded.figures(columns).items():
            self.note(name, value, count)
        if self.model.training and count > 1:
            self.note("reward_std", total.std())
        return columns

    def read(self, model: Any, batch: Tensors) -> Read:
        """How likely a model finds the answers of a batch, at the temperature they are drawn with."""
        seen: list[torch.Tensor] = []
        rows = torch.arange(len(batch["ids"]), device=batch["ids"].device)[:, None]

        def only_answers(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            seen.append(given[0][rows, batch["place"] + given[0].shape[1] - batch["ids"].shape[1]])
            return (seen[0], *given[1:])

        hook = model.get_output_embeddings().register_forward_pre_hook(only_answers)
        try:
            with self.accelerator.autocast():
                logits = model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).logits
        finally:
            hook.remove()
        logs = torch.log_softmax(logits.float() / self.settings.temperature, dim=-1)
        entropy = -(logs.detach().exp() * logs.detach()).sum(dim=-1)
        return Read(logs.gather(-1, batch["answer"][..., None]).squeeze(-1), entropy, seen[0].float())

    @contextmanager
    def before_training(self) -> Iterator[Any]:
        """The model as it was before training."""
        from trl.trainer.utils import use_adapter

        if self.reference is not None:
            yield self.reference
        else:
            with use_adapter(self.model, REFERENCE if REFERENCE in self.model.peft_config else None):
                yield self.model

    def in_parts(self, written: Tensors) -> Iterator[Tensors]:
        """Answers, as many at a time as go through the model at once."""
        size = self.args.train_batch_size
        for start in range(0, len(written["ids"]), size):
            yield {name: tensor[start : start + size] for name, tensor in written.items()}

    # --- as a trainer -----------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any:
        """Each batch of the loader holds all rows that are asked together, and comes once for every batch made of their answers."""
        rows = self.together * self.answers
        return self._get_dataloader(self.train_dataset, "Training", rows, self._get_train_sampler, is_training=True)

    def _get_train_sampler(self, *_: Any) -> asking.Order:
        return asking.Order(len(self.train_dataset), self.together, self.args.seed, answers=self.answers, times=self.batches)

    def _prepare_inputs(self, inputs: Any) -> Any:
        if self.made % self.batches == 0 or not self.waiting:
            with torch.no_grad():
                written, texts = self.write(inputs)
                self.waiting = self.batches_of(inputs, written, self.scored(inputs, texts, written))
        batch = self.waiting[self.made % self.batches]
        self.made += 1
        return batch

    def compute_loss(self, model: Any, inputs: Tensors, *_: Any, **__: Any) -> torch.Tensor:
        """The loss of a batch that `_prepare_inputs` gave."""
        self.tokens_seen += int(inputs["mask"].sum())
        return self.loss_of(model, inputs)

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, None, None]:
        """Answers to a batch of evaluation rows, and their rewards."""
        with torch.no_grad():
            written, texts = self.write(inputs)
            total = self.rewarded.total(self.scored(inputs, texts, written))
        return -total.mean().to(self.args.device), None, None

    def note(self, name: str, value: float | torch.Tensor, weight: float | torch.Tensor = 1.0) -> None:
        """Keep a figure for the next log, which shows the mean of all kept, each by its weight."""
        self._told[name].append((float(value), float(weight)))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the figures that were noted."""
        prefix = "eval_" if "eval_loss" in logs else ""
        if prefix or "loss" in logs:
            for name, values in self._told.items():
                weight = sum(each for _, each in values)
                if weight:
                    logs[prefix + name] = sum(value * each for value, each in values) / weight
            self._told.clear()
        if prefix and "eval_reward" in logs:
            logs["eval_loss"] = -logs["eval_reward"]
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluates; figures of training that are not shown yet wait meanwhile."""
        kept, self._told = self._told, defaultdict(list)
        try:
            found: dict[str, float] = super().evaluate(*args, **kwargs)
            return found
        finally:
            self._told = kept

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        between = self.made % self.batches
        asking.keep_batches(output_dir, self.made, self.waiting if between else [], self.args.gradient_accumulation_steps)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
        self.made, self.waiting = asking.kept_batches(resume_from_checkpoint, self.args.device, self.args.gradient_accumulation_steps)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt", asking.EXPECTED]


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of what the mask lets through."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _keep_adapter(model: Any) -> None:
    """Put a frozen copy of the adapter beside the one that is trained."""
    model.add_adapter(REFERENCE, model.peft_config[model.active_adapter])
    trained = dict(model.named_parameters())
    for name, weight in trained.items():
        if f".{model.active_adapter}." in name:
            trained[name.replace(f".{model.active_adapter}.", f".{REFERENCE}.")].data.copy_(weight.data)
    model.set_adapter(model.active_adapter)


def _packed(whole: list[list[int]], said: list[list[int]], pad: int, device: Any) -> Tensors:
    """Prompts with their answers as tensors, see `Rollouts.write`."""
    width, longest = max(map(len, whole)), max(map(len, said))

    def padded(rows: list[list[int]], length: int, value: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows], device=device)

    # Behind the end of an answer any place will do, since it is masked; the last one exists.
    places = [[min(len(row) - len(own) - 1 + step, len(row) - 1) for step in range(longest)] for row, own in zip(whole, said, strict=True)]
    return {
        "ids": padded(whole, width, pad),
        "mask": padded([[1] * len(row) for row in whole], width, 0),
        "answer": padded(said, longest, pad),
        "answer_mask": padded([[1] * len(own) for own in said], longest, 0),
        "place": torch.tensor(places, device=device),
    }
