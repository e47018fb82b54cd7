"""Last layers: only the topmost layers of the model change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.tuners.base import Shapes, Tuner, TunerParams

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
_FINAL_NORM = re.compile(r"(?:^|\.)(?:norm|ln_f|final_layernorm|final_layer_norm|norm_f)\.(?:weight|bias)$")


class LastLayersParams(TunerParams):
    """Settings of tuning the last layers."""

    layers: int = Field(2, ge=1, le=1000, title="Layers", json_schema_extra={"group": "Weights"})
    """How many layers are trained, counted from the output. 1 to 4 is usual; the final norm is trained with them."""


class LastLayers(Tuner):
    """Trains the last N layers and the final norm, and freezes all below (the classic “fine-tuning I” of transfer learning; Howard and
    Ruder 2018, arXiv 1801.06146, unfreeze from the top as well).

    Take it when the new task differs in its answers more than in its language: lower layers keep what they know, and gradients stop where
    the frozen part begins, which saves time and memory. Embeddings and output layer stay frozen.
    """

    name = "last_layers"
    title = "Last layers"
    summary = "Only the topmost layers change; the rest stays frozen. Cheaper than full tuning, and forgets less."
    family: ClassVar[Literal["full", "adapter"]] = "full"
    params = LastLayersParams
    rate = 2.5

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: LastLayersParams) -> int:
        """The weights of those layers and of the final norm."""
        return sum(prod(shapes[name]) for name in chosen(shapes, params.layers))

    def build(self, model: Any, params: LastLayersParams, attachment: Any = None) -> tuple[Any, Any]:
        """The model with all but its last layers frozen."""
        model.requires_grad_(False)
        weights = dict(model.named_parameters())
        found = chosen({name: tuple(weight.shape) for name, weight in weights.items()}, params.layers)
        if not any(_LAYER.search(name) for name in found):
            raise ValueError(f"no layers were found in a {type(model).__name__}; take full or lora instead")
        for name in found:
            weights[name].requires_grad_(True)
        return model, None


def chosen(shapes: Shapes, layers: int) -> list[str]:
    """Names of the weights in the last layers and of the final norm."""
    places = {name: int(match[1]) for name in shapes if (match := _LAYER.search(name))}
    first = max(places.values(), default=-1) + 1 - layers
    return [name for name in shapes if places.get(name, -1) >= max(0, first) or (name not in places and _FINAL_NORM.search(name))]
