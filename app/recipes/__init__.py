"""The recipes there are: every file of this package that declares one. Runs none of them; a worker does."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from app.errors import Invalid, NotFound
from app.recipes.base import Recipe, RecipeParams
from app.registry import declared
from app.words import known, plain_words


def registry() -> dict[str, Recipe]:
    """All recipes by name."""
    return declared(__name__, __path__, Recipe)


def get(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        NotFound: there is none.
    """
    recipe = registry().get(name)
    if recipe is None:
        raise NotFound(known("recipe", name, registry()))
    return recipe


def check(name: str, params: dict[str, Any]) -> tuple[Recipe, RecipeParams]:
    """A recipe and its settings with all defaults filled in.

    Raises:
        NotFound: there is no such recipe.
        Invalid: a setting cannot be used; the message names it.
    """
    recipe = get(name)
    try:
        return recipe, recipe.params.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        words = "Name at least one." if first["type"] == "too_short" else plain_words(first)
        raise Invalid(f"{field}: {words}" if field else words, field=field or None) from None
