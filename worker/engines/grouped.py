"""Fits trl's GRPO and RLOO trainers into the studio: its rewards, its names of figures, cheap evaluation, resuming at any step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from app.rewards.base import RewardParams
from worker.engines import asking, rewarding

_NAMES = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "clipped_ratio",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "clip_ratio/region_mean": "clip_ratio",
    "aux_loss": "aux_loss",
}
"""Figures that are shown: trl's name of each, and that of the charts."""
_OF_TRAINING = ("reward_std", "kl", "entropy", "frac_reward_zero_std", "clip_ratio", "aux_loss")
"""Figures an evaluation with one answer for each prompt does not have."""


class Batch(list[Any]):
    """Rows as they are, which is what these trainers take. A batch is looked into for a mask, and has none yet."""

    def get(self, name: str, default: Any = None) -> Any:
        """Nothing: there are no columns."""
        return default


def grouped(kind: type[Any]) -> type[Any]:
    """A subclass of trl's GRPOTrainer or RLOOTrainer.

    Beside what those take, it is built with `rewards` (settings), `others` (folders of checkpoints they name), `reference` (the model
    before training, or None), `max_length` and `eval_rows`.
    """

    class Grouped(kind):
        tokens_seen = 0

        def __init__(
            self,
            *,
            model: Any,
            args: Any,
            rewards: Sequence[RewardParams],
            others: rewarding.Checkpoints,
            reference: Any,
            max_length: int,
            eval_rows: int,
            train_dataset: Any,
            eval_dataset: Any,
            processing_class: Any,
            peft_config: Any,
        ) -> None:
            longest = asking.room(model, max_length, args.max_completion_length)
            rows = asking.prepared(train_dataset, processing_class, longest)
            asking.enough(rows, args.generation_batch_size // args.num_generations)
            rewarded = rewarding.Rewards(rewards, others, str(args.device), str(model.dtype).removeprefix("torch."))
            self._several = len(rewarded.names) > 1
            args.reward_weights = rewarded.weights
            beta = args.beta
            if reference is not None:
                args.beta = 0.0  # or it would load the folder of the base, which is not what the model was before training
            super().__init__(
                model=model,
                reward_funcs=[_function(name, part) for name, part in zip(rewarded.names, rewarded.parts, strict=True)],
                args=args,
                train_dataset=rows,
                eval_dataset=asking.prepared(asking.first(eval_dataset, eval_rows), processing_class, longest),
                processing_class=processing_class,
                peft_config=peft_config,
            )
            args.beta = self.beta = beta
            if reference is not None and beta:
                self.ref_model = self._with_fused_head(reference)
            self.data_collator = Batch

        def _with_fused_head(self, reference: Any) -> Any:
            from trl.trainer.utils import add_fused_lm_head

            add_fused_lm_head(reference, temperature=self.temperature)
            return self.accelerator.prepare_model(reference, evaluation_mode=True)

        def _get_train_sampler(self, dataset: Any = None) -> asking.Order:
            rows = self.train_dataset if dataset is None else dataset
            return asking.Order(
                len(rows),
                self.args.generation_batch_size // self.num_generations,
                self.args.seed,
                answers=self.num_generations,
                times=self.num_iterations * self.args.steps_per_generation,
            )

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            with asking.writing(self.model):
                return super()._generate_single_turn(*args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.tokens_seen += int(inputs["prompt_mask"].sum()) + int(inputs["completion_mask"].sum())
            return super().compute_loss(model, inputs, *args, **kwargs)

        def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[torch.Tensor, None, None]:
            """Answers to a batch of prompts and their rewards; each figure counts once for each prompt, since the last batch is smaller."""
            told = self._metrics["eval"]
            before = {name: len(values) for name, values in told.items()}
            with torch.no_grad():
                self._generate_and_score_completions(inputs)
            for name, values in told.items():
                values.extend(values[before.get(name, 0) :] * (len(inputs) - 1))
            return torch.tensor(-told["reward"][-1], device=self.args.device), None, None

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            """Figures under the names of the charts."""
            told = self._metrics["train" if self.model.training else "eval"]
            named = {name: told[theirs] for theirs, name in _NAMES.items() if told.get(theirs)}
            if self._several:
                named |= {
                    f"rewards/{name}": told[f"rewards/{name}/mean"] for name in self.reward_func_names if f"rewards/{name}/mean" in told
                }
            if self.num_iterations == 1:
                named.pop("clip_ratio", None)  # nothing has moved yet that could be clipped
            if not self.model.training:
                named = {name: values for name, values in named.items() if name not in _OF_TRAINING}
            if "eval_loss" in logs and "reward" in named:
                logs["eval_loss"] = -sum(named["reward"]) / len(named["reward"])
            told.clear()
            told.update(named)
            super().log(logs, *args, **kwargs)

        def _save_rng_state(self, output_dir: str) -> None:
            super()._save_rng_state(output_dir)
            if self.num_iterations > 1:
                between = self._step % (self.num_iterations * self.args.steps_per_generation)
                batches = (self._buffered_inputs or []) if between else []
                asking.keep_batches(output_dir, self._step, batches, self.args.gradient_accumulation_steps)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
            self._step, kept = asking.kept_batches(resume_from_checkpoint, self.args.device, self.args.gradient_accumulation_steps)
            self._buffered_inputs = kept or None

    Grouped.__name__ = Grouped.__qualname__ = kind.__name__
    return Grouped


def _function(name: str, part: rewarding.Scoring) -> Callable[..., list[float]]:
    """A reward as trl calls it."""

    def score(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
        expected = columns.get(asking.EXPECTED) or [None] * len(prompts)
        texts, tokens = [asking.text_of(each) for each in completions], [len(ids) for ids in completion_ids]
        return rewarding.finite(name, part(rewarding.answered(prompts, texts, tokens, expected)))

    score.__name__ = name
    return score
