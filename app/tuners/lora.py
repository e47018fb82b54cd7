"""LoRA: a pair of small matrices beside each linear layer is trained, and the model stays as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from app.tuners.base import ADAPTER, FrozenBaseParams, Shapes, Tuner

ALL_LINEAR = "all-linear"
_NO_LINEAR = re.compile(r"(^|\.)(embed\w*|wte|wpe|lm_head|score|classifier)($|\.)")
_TARGETS = re.compile(r"[A-Za-z_][\w.]*(\s*,\s*[A-Za-z_][\w.]*)*")


class LoraParams(FrozenBaseParams):
    """Settings of LoRA. Defaults are those of TRL's command line (rank 16, alpha 32, dropout 0.05), on all linear layers as in QLoRA
    (arXiv 2305.14314)."""

    r: int = Field(16, ge=1, le=1024, title="Rank", json_schema_extra={"group": ADAPTER})
    """Width of the small matrices. More learns more and takes more memory; 8 to 64 fits most tasks."""
    alpha: int = Field(32, ge=1, le=4096, title="Alpha", json_schema_extra={"group": ADAPTER})
    """How strongly the adapter acts: its output is multiplied by alpha / rank. Twice the rank is the usual choice."""
    dropout: float = Field(0.05, ge=0, lt=1, title="Dropout", json_schema_extra={"group": ADAPTER})
    """Share of the adapter's inputs that is dropped at random in training, against learning by heart. DPO switches it off."""
    target_modules: str = Field(
        ALL_LINEAR, min_length=1, max_length=1000, title="Layers", json_schema_extra={"group": ADAPTER, "advanced": True}
    )
    """Which layers get an adapter: `all-linear`, or names separated by commas, such as `q_proj, v_proj`. All linear layers learn best
    (arXiv 2305.14314)."""
    use_rslora: bool = Field(False, title="Rank-stabilised", json_schema_extra={"group": ADAPTER, "advanced": True})
    """Multiply by alpha / √rank instead, which keeps large ranks (32 and more) learning (arXiv 2312.03732)."""
    use_dora: bool = Field(False, title="DoRA", json_schema_extra={"group": ADAPTER, "advanced": True})
    """Train the length of each weight row apart from its direction (arXiv 2402.09353): often a little better, and slower."""
    any_rank: bool = Field(False, title="Any rank (DyLoRA)", json_schema_extra={"group": ADAPTER, "advanced": True})
    """Train so that the adapter can be cut to any smaller rank afterwards (arXiv 2210.07558): each step uses a rank drawn at random."""
    init: Literal["default", "gaussian", "pissa", "olora"] = Field(
        "default", title="Initial weights", json_schema_extra={"group": ADAPTER, "advanced": True}
    )
    """`default` and `gaussian` begin with an adapter that does nothing; `pissa` (arXiv 2404.02948) with the largest singular values of each
    layer and `olora` (arXiv 2406.01775) with an orthogonal basis of it, which often learn faster. Their checkpoints hold the difference
    from the beginning, at twice the rank, and load on the model as it is."""

    @model_validator(mode="after")
    def _goes_together(self) -> LoraParams:
        if self.init in ("pissa", "olora"):
            if self.quantization != "none":
                raise ValueError(
                    f"{self.init} takes the adapter out of the model's own weights, which must not be quantised. Set one to none"
                )
            if self.use_dora or self.any_rank:
                raise ValueError(f"{self.init} does not go with {'DoRA' if self.use_dora else 'any rank'}. Take the default beginning")
        if self.use_dora and self.any_rank:
            raise ValueError("DoRA needs the whole rank at every step, so it does not go with any rank. Switch one off")
        return self

    @field_validator("target_modules")
    @classmethod
    def _names(cls, value: str) -> str:
        value = value.strip()
        if value == ALL_LINEAR:
            return value
        if not _TARGETS.fullmatch(value):
            raise ValueError("Must be all-linear, or names of layers separated by commas, such as q_proj, v_proj")
        if any(name.split(".")[-1] in ("lm_head", "embed_tokens") for name in _split(value)):
            raise ValueError("The embedding and the output layer (lm_head) cannot have an adapter here. Name other layers")
        return ", ".join(_split(value))


def _split(value: str) -> list[str]:
    return [name.strip() for name in value.split(",")]


class Lora(Tuner):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): trains well under a hundredth of the weights.

    Take it first: it needs a fraction of the memory of full fine-tuning, its checkpoints are small, and for most tasks it learns as well.
    With the base quantised to nf4 it is QLoRA. A run that starts from a LoRA goes on training it, whose rank and layers stay what they are.
    """

    name = "lora"
    title = "LoRA"
    summary = "Small matrices beside each linear layer are trained; the model stays frozen. The best first choice."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = LoraParams
    peft_type = "LORA"
    engine = "worker.engines.lora:LoraAttachment"

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: LoraParams) -> int:
        """Rank × (inputs + outputs) of each adapted layer; DoRA adds its outputs once more."""
        count = 0
        for _, shape in adapted(shapes, params.target_modules):
            count += params.r * (shape[0] + shape[1]) + (shape[0] if params.use_dora else 0)
        return count

    def exact(self, params: LoraParams) -> bool:
        """Where the adapter is taken out of the model's weights, both have to add up again."""
        return params.init in ("pissa", "olora")

    def build(self, model: Any, params: LoraParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of a new adapter."""
        from peft import LoraConfig

        targets = params.target_modules
        return model, LoraConfig(
            r=params.r,
            lora_alpha=params.alpha,
            lora_dropout=params.dropout,
            target_modules=targets if targets == ALL_LINEAR else _split(targets),
            use_rslora=params.use_rslora,
            use_dora=params.use_dora,
            init_lora_weights="gaussian" if params.init == "gaussian" else True,
            bias="none",
            task_type="CAUSAL_LM",
        )


def adapted(shapes: Shapes, targets: str) -> list[tuple[str, tuple[int, int]]]:
    """Name and shape of the linear layers that get an adapter."""
    wanted = None if targets == ALL_LINEAR else _split(targets)
    found = []
    for name, shape in shapes.items():
        layer = name.removesuffix(".weight")
        if layer == name or len(shape) != 2 or _NO_LINEAR.search(layer):
            continue
        if wanted is None or any(layer == each or layer.endswith(f".{each}") for each in wanted):
            found.append((layer, (int(shape[0]), int(shape[1]))))
    return found
