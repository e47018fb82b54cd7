"""Bottleneck adapters: two small layers with a bend between them, behind layers of the frozen model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.tuners.base import ADAPTER, FrozenBaseParams, Shapes, Tuner

ATTENTION = ("o_proj", "out_proj", "attention.output.dense", "attn.c_proj", "self_attention.dense")
FEED_FORWARD = ("down_proj", "fc2", "output.dense", "mlp.c_proj", "dense_4h_to_h")


class BottleneckParams(FrozenBaseParams):
    """Settings of bottleneck adapters."""

    placement: Literal["houlsby", "pfeiffer"] = Field("houlsby", title="Placement", json_schema_extra={"group": ADAPTER})
    """`houlsby` puts one behind attention and one behind the feed-forward block (arXiv 1902.00751); `pfeiffer` only the second
    (arXiv 2005.00247): half the weights and nearly as good."""
    size: int = Field(64, ge=1, le=4096, title="Bottleneck", json_schema_extra={"group": ADAPTER})
    """Width between the two layers; 64 as in the paper."""
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", title="Function", json_schema_extra={"group": ADAPTER, "advanced": True})
    """The bend between the two layers."""


class Bottleneck(Tuner):
    """The classic adapter: down to a narrow layer, through a function and up again, added to the output of frozen layers (Houlsby et al.
    2019, arXiv 1902.00751): a few hundredths of the weights.

    Take it where a task needs more bend than the linear LoRA gives, and where an adapter may cost some speed: it cannot be merged into the
    weights. PEFT has none; this one is our own and loads with `import worker.engines.bottleneck` before PEFT's usual calls.
    """

    name = "bottleneck"
    title = "Bottleneck adapters"
    summary = "Two small layers behind each block, with a function between them. The classic adapter; cannot be merged."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = BottleneckParams
    peft_type = "BOTTLENECK"
    mergeable = False
    rate = 5.0
    engine = "worker.engines.bottleneck:Bottleneck"

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: BottleneckParams) -> int:
        """Down and up, with their biases, of each layer that gets one."""
        found = targets([name.removesuffix(".weight") for name in shapes if name.endswith(".weight")], params.placement)
        ends = tuple(f".{name}" for name in found)
        widths = [shape[0] for name, shape in shapes.items() if name.removesuffix(".weight").endswith(ends) and len(shape) == 2 and ends]
        return sum(2 * width * params.size + width + params.size for width in widths)

    def build(self, model: Any, params: BottleneckParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of new bottlenecks."""
        found = targets([name for name, _ in model.named_modules()], params.placement)
        if not found:
            raise ValueError(f"no attention and feed-forward outputs were found by name in a {type(model).__name__}; take lora instead")
        return model, attachment.config(found)


def targets(layers: Iterable[str], placement: str) -> list[str]:
    """Which of the usual names of outputs a model has; of names that end alike the longer one."""
    layers = list(layers)
    found = []
    for names in (ATTENTION, FEED_FORWARD) if placement == "houlsby" else (FEED_FORWARD,):
        found += [name for name in names if any(layer.endswith(f".{name}") for layer in layers)]
    return found
