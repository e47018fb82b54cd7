"""Makes a trainer of transformers into one that resumes bit by bit and counts what it does. Changes no loss and no order of rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from worker.reporting import Failed

ORDER_FILE = "row_order.pth"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Whatever happens inside leaves the random states of Python, numpy and torch as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # the global state is what the trainers use
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


class ReplayableOrder(Sampler[int]):
    """A sampler that draws from torch's global random state, and can draw the order of one epoch a second time.

    Transformers' length grouping draws when an epoch begins. A run resumed in the middle of one has to draw that order again, although
    the random state of that moment is long gone; so it is kept, saved with each checkpoint, and used when the same epoch begins again.
    """

    def __init__(self, inner: Sampler[int]) -> None:
        self.inner = inner
        self.epoch = 0
        self.began: dict[str, Any] | None = None
        """Epoch, and the random state it began with."""
        self.replay: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        if self.replay is not None and self.replay["epoch"] == self.epoch:
            self.began = self.replay
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.replay["state"])
                return iter(list(self.inner))
        self.began = {"epoch": self.epoch, "state": torch.get_rng_state()}
        return iter(list(self.inner))


def score_answers_only() -> None:
    """Have trl's fused output layer skip positions that are not learned on CPUs too, as it does on GPUs.

    On a CPU it scores prompt and padding as well and masks the result, since some accelerators compile anew for each shape; a CPU does
    not. The loss is the same, and with short answers most of the work is gone.
    """
    import trl.trainer.utils as fused

    if hasattr(fused, "_use_triton"):
        fused._use_triton = lambda device: True


def resumable(kind: type[Any]) -> type[Any]:
    """A subclass of a trainer class whose runs can be interrupted anywhere and go on exactly as if they had not been."""

    class Resumable(kind):
        tokens_seen = 0
        """Tokens that went through the model in training, without padding."""
        step_loss: torch.Tensor | None = None
        """Sum of the losses of the current step's batches."""
        last_grad_norm: float | torch.Tensor | None = None
        _order: ReplayableOrder | None = None

        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
            mask = inputs.get("attention_mask")
            if mask is not None:
                self.tokens_seen += int(mask.sum())
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
            self.step_loss = loss if self.step_loss is None else self.step_loss + loss
            return loss

        def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
            self.last_grad_norm = super()._get_grad_norm(*args, **kwargs)
            return self.last_grad_norm

        def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            with undisturbed():  # even making a data loader draws a number
                found: dict[str, float] = super().evaluate(*args, **kwargs)
            return found

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            sampler = super()._get_train_sampler(*args, **kwargs)
            if not isinstance(sampler, LengthGroupedSampler):
                return sampler  # the random sampler is seeded with the epoch by accelerate
            replay = self._order.replay if self._order else None
            self._order = ReplayableOrder(sampler)
            self._order.replay = replay
            return self._order

        def _save_rng_state(self, output_dir: str) -> None:
            super()._save_rng_state(output_dir)
            if self._order is not None and self._order.began is not None:
                torch.save(self._order.began, Path(output_dir) / ORDER_FILE)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
            super()._load_from_checkpoint(resume_from_checkpoint, *args, **kwargs)
            file = Path(resume_from_checkpoint) / ORDER_FILE
            if file.is_file():
                self._order = self._order or ReplayableOrder(Sampler())
                self._order.replay = torch.load(file, weights_only=True)

        def _issue_warnings_after_load(self, load_result: Any) -> None:
            """The library only warns when the weights of a checkpoint have no place in the model; then they would be lost."""
            if load_result.unexpected_keys:
                name = load_result.unexpected_keys[0]
                raise Failed(f"The checkpoint to go on from holds weights that the model has no place for ({name}).", "model")

        def create_model_card(self, *args: Any, **kwargs: Any) -> None:
            """No card is written into checkpoints; the studio knows where they come from."""

    Resumable.__name__ = Resumable.__qualname__ = kind.__name__
    return Resumable
