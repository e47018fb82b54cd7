"""What a tuner declares: which weights may change, how many those are, and what it cannot be combined with. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Shapes = Mapping[str, Sequence[int]]
"""Tensor name -> shape, as the safetensors files of a checkpoint hold them."""
ADAPTER, BASE = "Adapter", "Base model"


class TunerParams(BaseModel):
    """Base of a tuner's settings; the docstring under each field is its help text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class FrozenBaseParams(TunerParams):
    """Settings of tuners that leave the model frozen, so that it may be held in fewer bits."""

    quantization: Literal["none", "int8", "nf4"] = Field("none", title="Quantisation", json_schema_extra={"group": BASE})
    """Hold the frozen model in 8 bits (`int8`, LLM.int8, arXiv 2208.07339) or 4 (`nf4`; with LoRA this is QLoRA, arXiv 2305.14314): a
    half or a quarter of its memory, some speed and a little exactness less. The adapter itself is trained in 32 bits; where it is used or
    merged later, the model below it is rounded in the same way."""
    double_quantization: bool = Field(True, title="Double quantisation", json_schema_extra={"group": BASE, "advanced": True})
    """With `nf4`, hold the scales of the blocks in 8 bits too: about 0.4 bits a weight less."""


class Tuner:
    """Which weights may change. A subclass with a `name` in a file of this package is found by itself."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    family: ClassVar[Literal["full", "adapter"]]
    """`full`: weights of the model itself change, and a checkpoint holds the whole model. `adapter`: the model stays frozen and small new
    weights are trained."""
    params: ClassVar[type[TunerParams]]
    peft_type: ClassVar[str | None] = None
    """What PEFT calls its adapters. A run that starts from an adapter of this type goes on training it."""
    mergeable: ClassVar[bool] = True
    """Whether its adapters can be put into the weights of the model."""
    reshapes: ClassVar[bool] = False
    """Whether it adds weights to the model itself, so that the folder it came from no longer says what it was before training."""
    traits: ClassVar[frozenset[str]] = frozenset()
    """What an objective may refuse: `soft` (virtual tokens before the prompt), `prefix` (virtual keys and values), `experts`, `mixture`,
    `head_only`."""
    rate: ClassVar[float] = 1.0
    """Its learning rate as a multiple of the one an objective names for its family."""
    engine: ClassVar[str | None] = None
    """Dotted path (`module:name`) of code of our own below `worker/`: a subclass of `worker.engines.Attachment`."""

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: Any) -> int:
        """How many weights change, reckoned from shapes alone."""
        raise NotImplementedError

    def added(self, shapes: Shapes, config: Mapping[str, Any], params: Any) -> int:
        """How many weights the model itself gets more."""
        return 0

    def exact(self, params: Any) -> bool:
        """Whether frozen weights have to be held in 32 bits, too."""
        return False

    def problems(self, params: Any, method_params: Any) -> Iterator[tuple[str, str]]:
        """What in the settings cannot go together: field (such as `params.packing`) and a sentence that says what to do."""
        yield from ()

    def build(self, model: Any, params: Any, attachment: Any = None) -> tuple[Any, Any]:
        """The model ready for a trainer, and the PEFT configuration the trainer has to put on it (None: nothing).

        Args:
            model: a transformers model. One that carries an adapter of this type goes on with it and does not come here; any other
                adapter has been merged.
            attachment: what `engine` names, made for this run.

        Raises:
            ValueError: the settings do not fit this model; the message says why.
        """
        raise NotImplementedError


def total(shapes: Shapes) -> int:
    """Number of weights of a model."""
    return sum(prod(shape) for shape in shapes.values())


def layers_of(config: Mapping[str, Any]) -> int:
    """Number of transformer layers, by the names configs give it."""
    return int(config.get("num_hidden_layers") or config.get("n_layer") or 0)


def hidden_of(config: Mapping[str, Any]) -> int:
    """Width of the model between its layers."""
    return int(config.get("hidden_size") or config.get("n_embd") or 0)


def key_value_width(config: Mapping[str, Any]) -> int:
    """Numbers of the keys (or values) of one token in one layer."""
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    groups = int(config.get("num_key_value_heads") or heads)
    return groups * int(config.get("head_dim") or hidden_of(config) // heads)
