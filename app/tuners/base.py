"""What a tuner declares: which weights may change, and how many those are. Trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Shapes = Mapping[str, Sequence[int]]
"""Tensor name -> shape, as the safetensors files of a checkpoint hold them."""


class TunerParams(BaseModel):
    """Base of a tuner's settings; the docstring under each field is its help text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Tuner:
    """Which weights may change. A subclass with a `name` in a file of this package is found by itself."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    family: ClassVar[Literal["full", "adapter"]]
    """`full`: weights of the model itself change, and a checkpoint holds the whole model. `adapter`: the model stays frozen and small new
    weights are trained."""
    params: ClassVar[type[TunerParams]]

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: Any) -> int:
        """How many weights change, reckoned from shapes alone."""
        raise NotImplementedError

    def build(self, model: Any, params: Any) -> tuple[Any, Any]:
        """The model ready for a trainer, and the PEFT configuration the trainer has to put on it (None: nothing).

        Args:
            model: a transformers model, or a PEFT model when the run starts from an adapter.

        Raises:
            ValueError: the settings do not fit this model; the message says why.
        """
        raise NotImplementedError


def total(shapes: Shapes) -> int:
    """Number of weights of a model."""
    return sum(prod(shape) for shape in shapes.values())
