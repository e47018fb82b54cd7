"""Experts: each feed-forward block becomes several, of which a gate picks some for each token; only gate and experts are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from app.tuners.base import Shapes, Tuner, TunerParams, hidden_of, layers_of

KNOWN = ("llama", "mistral")
"""Architectures whose dense form and whose mixture of experts (Mixtral) are the same but for the experts."""


class ExpertsParams(TunerParams):
    """Settings of upcycling to a mixture of experts."""

    experts: int = Field(4, ge=2, le=64, title="Experts", json_schema_extra={"group": "Experts"})
    """Copies of each feed-forward block. The blocks take this many times their memory."""
    active: int = Field(2, ge=1, le=64, title="Active experts", json_schema_extra={"group": "Experts"})
    """How many of them reckon each token; 2 as in Mixtral (arXiv 2401.04088)."""
    balance: float = Field(0.01, ge=0, le=10, title="Balance", json_schema_extra={"group": "Experts", "advanced": True})
    """Weight of the loss that has the gate use all experts alike (arXiv 2101.03961). 0 switches it off."""

    @model_validator(mode="after")
    def _enough(self) -> ExpertsParams:
        if self.active > self.experts:
            raise ValueError(f"{self.active} experts cannot be active where there are {self.experts}. Lower active or raise experts")
        return self


class Experts(Tuner):
    """Sparse upcycling (Komatsuzaki et al. 2022, arXiv 2212.05055): every feed-forward block is copied into experts, a new gate chooses
    among them, and only gate and experts are trained. Before the first step the model writes exactly what it wrote before.

    Take it where the data is of several kinds and memory is plenty: the model grows, at about the speed of its active experts. The
    checkpoint is a whole Mixtral model. For models of the Llama and Mistral families.
    """

    name = "experts"
    title = "Mixture of experts"
    summary = "Each feed-forward block becomes several experts with a gate; only those are trained. The model grows."
    family: ClassVar[Literal["full", "adapter"]] = "full"
    params = ExpertsParams
    reshapes = True
    traits = frozenset({"experts"})
    rate = 5.0
    engine = "worker.engines.experts:Upcycling"

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: ExpertsParams) -> int:
        """Three matrices for each expert, and the gate, in each layer."""
        if config.get("model_type") not in KNOWN:
            return 0
        hidden = hidden_of(config)
        return layers_of(config) * params.experts * hidden * (3 * int(config.get("intermediate_size") or 0) + 1)

    def added(self, shapes: Shapes, config: Mapping[str, Any], params: ExpertsParams) -> int:
        """The copies, and the gates."""
        if config.get("model_type") not in KNOWN:
            return 0
        return self.trainable(shapes, config, params) - layers_of(config) * 3 * hidden_of(config) * int(config["intermediate_size"])

    def build(self, model: Any, params: ExpertsParams, attachment: Any = None) -> tuple[Any, Any]:
        """A Mixtral model that writes what the dense one wrote, with gate and experts trainable."""
        kind = model.config.model_type
        if kind not in KNOWN:
            raise ValueError(f"a model of the kind {kind} cannot be made into a mixture of experts; models of {' and '.join(KNOWN)} can")
        model = attachment.upcycled(model)
        for name, weight in model.named_parameters():
            weight.requires_grad_(".mlp." in name)
        return model, None
