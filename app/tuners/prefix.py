"""Prefix tuning: virtual keys and values before every layer's attention are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.tuners.base import ADAPTER, FrozenBaseParams, Shapes, Tuner, hidden_of, key_value_width, layers_of
from app.tuners.prompt import no_packing


class PrefixParams(FrozenBaseParams):
    """Settings of prefix tuning."""

    num_virtual_tokens: int = Field(20, ge=1, le=1024, title="Virtual tokens", json_schema_extra={"group": ADAPTER})
    """Length of the prefix. 10 suits short answers, 200 long ones (arXiv 2101.00190); 20 is PEFT's usual choice."""
    projection: bool = Field(False, title="Projection", json_schema_extra={"group": ADAPTER, "advanced": True})
    """Make the prefix with a small network while training, as the paper does: steadier, and many more weights to train."""


class Prefix(Tuner):
    """Puts trained keys and values before those of the prompt, in every layer (Li and Liang 2021, arXiv 2101.00190): about a thousandth
    of the weights.

    Take it for a task or a style in a tiny checkpoint that can be swapped without touching the model. The prefix takes room in the context,
    cannot be merged into the weights, and needs much higher learning rates than LoRA. It does not go with gradient checkpointing.
    """

    name = "prefix"
    title = "Prefix tuning"
    summary = "Trained keys and values before the prompt in every layer, about 0.1 % of the weights. Cannot be merged."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = PrefixParams
    peft_type = "PREFIX_TUNING"
    mergeable = False
    engine = "worker.engines.soft:SoftPrompt"
    traits = frozenset({"prefix"})
    rate = 50.0

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: PrefixParams) -> int:
        """Virtual tokens × layers × keys and values; with the projection the network that makes them."""
        out = 2 * layers_of(config) * key_value_width(config)
        if not params.projection:
            return params.num_virtual_tokens * out
        width = key_value_width(config)
        hidden = hidden_of(config)
        return params.num_virtual_tokens * width + (width + 1) * hidden + (hidden + 1) * out

    def problems(self, params: PrefixParams, method_params: Any) -> Iterator[tuple[str, str]]:
        """Gradient checkpointing throws away the cache the prefix lives in; with a prefix, packed rows see each other."""
        yield from no_packing(self.title, method_params)
        if getattr(method_params, "gradient_checkpointing", None) == "on":
            yield "params.gradient_checkpointing", "Prefix tuning does not work with gradient checkpointing. Set it to off or auto."

    def build(self, model: Any, params: PrefixParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of a new prefix."""
        from peft import PrefixTuningConfig

        return model, PrefixTuningConfig(
            num_virtual_tokens=params.num_virtual_tokens,
            prefix_projection=params.projection,
            encoder_hidden_size=model.config.get_text_config().hidden_size if params.projection else None,
            task_type="CAUSAL_LM",
        )
