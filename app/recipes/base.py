"""What a recipe is: a way to make a dataset. One recipe is one file in this package; it imports no GPU library at module level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class RecipeParams(BaseModel):
    """Base of a recipe's settings; the docstring under each field is its help text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Recipe:
    """A way to make data; a subclass with a `name` in a file of this package is found by itself."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    produces: ClassVar[str]
    """Row shape (`app.shapes`)."""
    params: ClassVar[type[RecipeParams]]

    def parts(self, params: Any) -> dict[str, str]:
        """Datasets that are made: part -> what its name ends with. The first is the one to train on."""
        return {"train": ""}

    def generate(self, params: Any, part: str = "train") -> Iterator[dict[str, Any]]:
        """Rows of one part, the same for the same parameters."""
        raise NotImplementedError
