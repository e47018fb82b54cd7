"""(IA)³: keys, values and the inner layer of each block are multiplied by trained vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from app.tuners.base import FrozenBaseParams, Shapes, Tuner
from app.tuners.lora import adapted

ATTENTION = ("k_proj", "v_proj", "key", "value", "query_key_value", "qkv_proj")
FEED_FORWARD = ("down_proj", "fc2", "dense_4h_to_h", "output.dense")


class Ia3Params(FrozenBaseParams):
    """Settings of (IA)³; it has none of its own."""


class Ia3(Tuner):
    """Multiplies keys, values and the inputs of the last layer of each feed-forward block by trained vectors (Liu et al. 2022, arXiv
    2205.05638): some ten thousand numbers for a small model.

    Take it with few rows, or when many small variants of one model are wanted: its checkpoints are tiny, it adds no depth, and it can be
    merged. It needs a higher learning rate than LoRA and learns less from much data.
    """

    name = "ia3"
    title = "(IA)³"
    summary = "Trained vectors multiply keys, values and inner layers: a tenth of a thousandth of the weights, and mergeable."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = Ia3Params
    peft_type = "IA3"
    rate = 50.0

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: Ia3Params) -> int:
        """One number for each output of keys and values and for each input of the last feed-forward layers."""
        attention, feed_forward = _present(shapes)
        outputs = sum(shape[0] for _, shape in adapted(shapes, ", ".join(attention))) if attention else 0
        inputs = sum(shape[1] for _, shape in adapted(shapes, ", ".join(feed_forward))) if feed_forward else 0
        return outputs + inputs

    def build(self, model: Any, params: Ia3Params, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of new vectors."""
        from peft import IA3Config

        attention, feed_forward = _present({f"{name}.weight": (1, 1) for name, _ in model.named_modules()})
        if not attention:
            raise ValueError(f"no keys and values were found by name in a {type(model).__name__}; take lora instead")
        return model, IA3Config(target_modules=[*attention, *feed_forward], feedforward_modules=feed_forward, task_type="CAUSAL_LM")


def _present(shapes: Shapes) -> tuple[list[str], list[str]]:
    """Which of the usual names a model has, of attention and of feed-forward layers."""
    layers = [name.removesuffix(".weight") for name in shapes]

    def some(names: tuple[str, ...]) -> list[str]:
        return [name for name in names if any(layer.endswith(f".{name}") for layer in layers)]

    return some(ATTENTION), some(FEED_FORWARD)
