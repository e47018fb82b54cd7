"""X-LoRA: finished LoRAs are mixed anew for every token by a small router, which alone is trained."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from app.references import AdapterId
from app.tuners.base import Shapes, Tuner, TunerParams, hidden_of

ROUTER = "Router"


class XLoraParams(TunerParams):
    """Settings of a mixture of LoRAs."""

    adapters: list[AdapterId] = Field(min_length=2, max_length=16, title="LoRAs to mix", json_schema_extra={"group": ROUTER})
    """Two or more finished LoRAs, all trained on the model this run starts from."""
    depth: int = Field(1, ge=1, le=4, title="Layers of the router", json_schema_extra={"group": ROUTER})
    """1 reads the mixture straight off what the model makes of a token; more can tell finer differences and want more rows."""
    width: int = Field(256, ge=8, le=8192, title="Width of the router", json_schema_extra={"group": ROUTER, "advanced": True})
    """Numbers in its hidden layers, where it has several layers."""
    temperature: float = Field(1.0, gt=0, le=100, title="Temperature", json_schema_extra={"group": ROUTER, "advanced": True})
    """Below 1 the router prefers one LoRA more clearly, above 1 it mixes more evenly."""

    @field_validator("adapters")
    @classmethod
    def _different(cls, value: list[str]) -> list[str]:
        if len(set(value)) < len(value):
            raise ValueError("Each LoRA can be in the mixture once. Take one of the two out")
        return value


class XLora(Tuner):
    """A router reads what the plain model makes of each token and mixes finished LoRAs accordingly (Buehler and Buehler 2024, arXiv
    2402.07148). Model and LoRAs stay frozen.

    Take it when there are several good LoRAs for different kinds of prompts and one model should have them all. Every token goes through
    the model twice, and answers are written without a cache, which is slow. The checkpoint holds the router and copies of the LoRAs;
    nothing can be merged. PEFT's X-LoRA saves only a part of its router; this one saves all of it, and is read by the studio.
    """

    name = "xlora"
    title = "Mixture of LoRAs"
    summary = "A small router learns to mix finished LoRAs token by token. For several skills in one model; slow to answer."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = XLoraParams
    peft_type = "XLORA"
    mergeable = False
    traits = frozenset({"mixture"})
    rate = 5.0
    engine = "worker.engines.xlora:Mixture"

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: XLoraParams) -> int:
        """The router."""
        widths = [hidden_of(config), *[params.width] * (params.depth - 1), len(params.adapters)]
        return sum((inputs + 1) * outputs for inputs, outputs in pairwise(widths))

    def exact(self, params: XLoraParams) -> bool:
        """The router has the type of the model, and small updates vanish in bfloat16."""
        return True

    def build(self, model: Any, params: XLoraParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of the mixture."""
        return model, attachment.config(model)
