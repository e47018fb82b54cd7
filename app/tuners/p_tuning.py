"""P-tuning: virtual tokens before the prompt, made by a small network that is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.tuners.base import ADAPTER, FrozenBaseParams, Shapes, Tuner, hidden_of
from app.tuners.prompt import no_packing


class PTuningParams(FrozenBaseParams):
    """Settings of P-tuning."""

    num_virtual_tokens: int = Field(20, ge=1, le=1024, title="Virtual tokens", json_schema_extra={"group": ADAPTER})
    """Length of the soft prompt."""
    encoder: Literal["mlp", "lstm"] = Field("mlp", title="Network", json_schema_extra={"group": ADAPTER, "advanced": True})
    """What makes the embeddings: `mlp` (three layers) is quicker, `lstm` is that of the paper."""
    encoder_hidden_size: int = Field(128, ge=8, le=8192, title="Width of the network", json_schema_extra={"group": ADAPTER})
    """Numbers in its hidden layers."""


class PTuning(Tuner):
    """Prompt tuning whose virtual tokens are made by a small network (Liu et al. 2021, arXiv 2103.10385), which learns faster and is
    steadier than training the embeddings themselves.

    Take it where prompt tuning does not get going. The network is needed in training only, the virtual tokens take room in the context, and
    nothing can be merged.
    """

    name = "p_tuning"
    title = "P-tuning"
    summary = "Like prompt tuning, with a small network that makes the virtual tokens: steadier to train."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = PTuningParams
    peft_type = "P_TUNING"
    mergeable = False
    engine = "worker.engines.soft:SoftPrompt"
    traits = frozenset({"soft"})
    rate = 25.0

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: PTuningParams) -> int:
        """The network and what it reads."""
        width, hidden = hidden_of(config), params.encoder_hidden_size
        embeddings = params.num_virtual_tokens * width
        if params.encoder == "mlp":
            return embeddings + (width + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * width
        lstm = 2 * sum(4 * hidden * (inputs + hidden + 2) for inputs in (width, 2 * hidden))
        return embeddings + lstm + (2 * hidden + 1) * 2 * hidden + (2 * hidden + 1) * width

    def problems(self, params: PTuningParams, method_params: Any) -> Iterator[tuple[str, str]]:
        """In a pack only the first row would have the virtual tokens before it."""
        yield from no_packing(self.title, method_params)

    def build(self, model: Any, params: PTuningParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of a new soft prompt."""
        from peft import PromptEncoderConfig

        return model, PromptEncoderConfig(
            num_virtual_tokens=params.num_virtual_tokens,
            encoder_reparameterization_type=params.encoder.upper(),
            encoder_hidden_size=params.encoder_hidden_size,
            encoder_num_layers=2,
            encoder_dropout=0.0,
            task_type="CAUSAL_LM",
        )
