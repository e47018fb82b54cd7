"""BitFit: only the biases of the model change."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal

from app.tuners.base import Shapes, Tuner, TunerParams
from app.tuners.lora import adapted

_ADDED = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "qwen3": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
"""Linear layers that get a bias in architectures which have none but know them, for plans; the model itself is asked when it is built."""


class BitfitParams(TunerParams):
    """Settings of BitFit: there are none."""


class Bitfit(Tuner):
    """Trains the bias of each layer and nothing else (Ben Zaken et al. 2021, arXiv 2106.10199): under a thousandth of the weights.

    Take it with few rows and a small change in mind. Models of the Llama family have no biases; they are given some that begin at zero,
    which changes nothing until they are trained, and which other programs load as they are. Checkpoints hold the whole model.
    """

    name = "bitfit"
    title = "BitFit"
    summary = "Only the biases change, under a thousandth of all weights. For small changes from few rows."
    family: ClassVar[Literal["full", "adapter"]] = "full"
    params = BitfitParams
    reshapes = True
    rate = 50.0

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: BitfitParams) -> int:
        """All biases, or those that will be added."""
        biases = sum(prod(shape) for name, shape in shapes.items() if name.endswith(".bias"))
        added = _ADDED.get(str(config.get("model_type")), ())
        if biases or not added:
            return biases
        return sum(shape[0] for _, shape in adapted(shapes, ", ".join(added)))

    def added(self, shapes: Shapes, config: Mapping[str, Any], params: BitfitParams) -> int:
        """The biases, where there were none."""
        return 0 if any(name.endswith(".bias") for name in shapes) else self.trainable(shapes, config, params)

    def build(self, model: Any, params: BitfitParams, attachment: Any = None) -> tuple[Any, Any]:
        """The model with its biases trainable, and with zero biases where it has none."""
        model.requires_grad_(False)
        if not any(name.endswith(".bias") for name, _ in model.named_parameters()):
            _add_biases(model)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.endswith(".bias"))
        return model, None


def _add_biases(model: Any) -> None:
    """Put a bias of zeros where the model's own class would have one, were it asked to."""
    import copy

    import torch

    config = copy.deepcopy(model.config)
    inner = config.get_text_config()
    for switch in ("attention_bias", "mlp_bias"):
        if getattr(inner, switch, None) is False:
            setattr(inner, switch, True)
    with torch.device("meta"):
        wanted = [name for name, _ in type(model)(config).named_parameters() if name.endswith(".bias")]
    if not wanted:
        raise ValueError(f"a {type(model).__name__} has no biases and knows none, so BitFit has nothing to train; take lora or ia3 instead")
    for name in wanted:
        layer = model.get_submodule(name.removesuffix(".bias"))
        layer.bias = torch.nn.Parameter(torch.zeros(layer.weight.shape[0], dtype=layer.weight.dtype, device=layer.weight.device))
    model.config = config
    for part in model.modules():
        if getattr(part, "config", None) is not None and part is not model:
            part.config = config if part.config.__class__ is config.__class__ else part.config
