"""Full fine-tuning: every weight of the model changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from app.tuners.base import Shapes, Tuner, TunerParams, total


class FullParams(TunerParams):
    """Settings of full fine-tuning: there are none."""


class Full(Tuner):
    """All weights are trained, in 32 bits, because small updates vanish in bfloat16.

    Take it when the task is far from what the model can do and there are many rows; it needs about 16 bytes of memory a weight, forgets
    more of what the model knew than an adapter does, and every checkpoint is a whole model. A run that starts from an adapter first
    merges it.
    """

    name = "full"
    title = "Full fine-tuning"
    summary = "Every weight of the model changes. Strongest, and needs the most memory and disk."
    family: ClassVar[Literal["full", "adapter"]] = "full"
    params = FullParams

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: FullParams) -> int:
        """All of them."""
        return total(shapes)

    def build(self, model: Any, params: FullParams, attachment: Any = None) -> tuple[Any, Any]:
        """The model with every weight trainable."""
        model.requires_grad_(True)
        return model, None
