"""How the pages of the reference put docstrings, values and limits into words. Knows nothing of what it describes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


def sentence(text: str | None) -> str:
    """A docstring on one line."""
    return " ".join(inspect.cleandoc(text or "").split())


def cell(text: Any) -> str:
    """Text that does not break its table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def code(value: Any) -> str:
    """A value as people would type it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple) and value and isinstance(value[0], BaseModel):
        return f"`{', '.join(str(getattr(each, 'id', None) or getattr(each, 'kind', type(each).__name__)) for each in value)}`"
    if isinstance(value, list | tuple) and value:
        return f"`{', '.join(map(str, value))}`"
    return "empty" if value in ("", None, [], ()) else f"`{value}`"


def number(value: float) -> str:
    """A limit, with commas between thousands."""
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def parameters(model: type[BaseModel]) -> Iterator[str]:
    """One row a parameter, with default and limits."""
    if not model.model_fields:
        yield "It has no parameters.\n"
        return
    yield "| Parameter | Default | Allowed | |"
    yield "|---|---|---|---|"
    described = model.model_json_schema(by_alias=False).get("properties", {})
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {default_of(field)} | {cell(allowed(described.get(name, {})))} | {cell(sentence(field.description))} |"
    yield ""


def default_of(field: FieldInfo) -> str:
    """A parameter's default, in words where there is none."""
    if field.default_factory is not None:
        return code(field.get_default(call_default_factory=True, validated_data={}))
    if field.default is PydanticUndefined:
        return "must be given"
    return "chosen for the case" if field.default is None else code(field.default)


def allowed(schema: dict[str, Any]) -> str:
    """Limits or choices of a JSON Schema, in words."""
    if "anyOf" in schema:
        return " or ".join(filter(None, (allowed(each) for each in schema["anyOf"] if each.get("type") != "null")))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    words = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "less than"}
    limits = [f"{word} {number(schema[key])}" for key, word in words.items() if key in schema]
    kind = {
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "string": "text",
        "array": "list",
        "object": "object",
    }
    return ", ".join([kind.get(schema.get("type", ""), ""), *limits]).strip(", ")
