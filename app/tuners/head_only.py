"""Head only: the model stays frozen, and only the head that is put on it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from app.tuners.base import Shapes, Tuner, TunerParams


class HeadOnlyParams(TunerParams):
    """Settings of training the head alone: there are none."""


class HeadOnly(Tuner):
    """The whole model is frozen and read as it is; only the new head learns (feature extraction, or “linear probing”).

    Take it for a quick first answer to whether a model knows what a classifier or a score needs: it is the cheapest of all tuners, cannot
    forget anything, and its result says how far the frozen features carry. Only for methods that put a head on the model.
    """

    name = "head_only"
    title = "Head only"
    summary = "The model stays frozen; only the new head that gives classes or numbers is trained. The quickest of all."
    family: ClassVar[Literal["full", "adapter"]] = "full"
    params = HeadOnlyParams
    traits = frozenset({"head_only"})
    rate = 100.0

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: HeadOnlyParams) -> int:
        """None of the model's own; those of the head are counted with the method."""
        return 0

    def build(self, model: Any, params: HeadOnlyParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model; its head is made trainable with every method that has one."""
        model.requires_grad_(False)
        return model, None
