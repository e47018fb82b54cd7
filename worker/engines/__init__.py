"""Code of our own where no library has it: trainers that an objective names, and what a tuner attaches to a trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from app.checkpoints.bits import Bits


class Attachment:
    """What a tuner's `engine` does beside the trainer. One is made for each run; a subclass overrides what it needs.

    Args:
        params: settings of the tuner.
        seed: seed of the run.
        others: folders of other checkpoints the settings name: id -> `path`, `adapter`, `name`.
    """

    def __init__(self, params: Any, seed: int, others: dict[str, dict[str, Any]] | None = None) -> None:
        self.params, self.seed, self.others = params, seed, others or {}

    def rounded(self) -> Bits:
        """As what the frozen weights have to be rounded, when they are held whole."""
        return Bits()

    def trainer(self, kind: type[Any]) -> type[Any]:
        """A trainer class, changed where the tuner needs it."""
        return kind

    def prepared(self, model: Any, new: bool, resume: Path | None) -> None:
        """The trainer has the model with its adapter; nothing has been trained, and nothing has been read from `resume` yet.

        Args:
            new: whether the adapter is new, and not that of the checkpoint the run starts from.
            resume: folder of the checkpoint that training goes on from.
        """

    def callbacks(self) -> list[Any]:
        """Callbacks of transformers to go along with the training."""
        return []

    def saved(self, model: Any, folder: Path) -> None:
        """The trainer has saved a checkpoint into a folder that nobody has seen yet."""
