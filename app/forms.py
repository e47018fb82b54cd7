"""Forms made from a class of settings: groups of fields to draw, values read back from a posted form, errors by field. Checks nothing."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastapi import Request
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from app.errors import Invalid
from app.references import MARK
from app.settings import switched_off

Kind = Literal["integer", "number", "boolean", "choice", "text", "lines", "long", "checkpoint", "checkpoints", "parts"]
OTHER = "Settings"


@dataclass(frozen=True)
class Field:
    """One field of a form."""

    id: str
    """Its name in the form and its id on the page, such as `params.learning_rate`."""
    name: str
    title: str
    kind: Kind
    help: str
    value: str
    """What the field shows; empty where the default is to be taken."""
    default: str
    """The default as people type it; empty where it is chosen for the case."""
    optional: bool
    """Whether leaving it empty means something of its own."""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    step: str = "any"
    advanced: bool = False
    error: str | None = None
    changed: bool = False
    """Whether the value differs from the default."""
    tasks: tuple[str, ...] = ()
    """What the checkpoint to choose may do (`app.references`)."""
    chosen: tuple[str, ...] = ()
    """The values of a list of checkpoints."""
    parts: tuple[Part, ...] = ()
    """The entries of a list of settings."""
    addable: tuple[tuple[str, str], ...] = ()
    """Kinds of entries that can be added, with what people call them."""


@dataclass(frozen=True)
class Part:
    """One entry of a list of settings, each kind with fields of its own."""

    id: str
    """Such as `params.rewards.0`."""
    kind: str
    title: str
    help: str
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Group:
    """Fields that belong together."""

    title: str
    fields: tuple[Field, ...]

    @property
    def basic(self) -> tuple[Field, ...]:
        """Fields everybody sees."""
        return tuple(field for field in self.fields if not field.advanced)

    @property
    def advanced(self) -> tuple[Field, ...]:
        """Fields that are folded away."""
        return tuple(field for field in self.fields if field.advanced)

    @property
    def opened(self) -> bool:
        """Whether the advanced fields have to be shown: one is wrong, or differs from its default."""
        return any(field.error or field.changed for field in self.advanced)


def groups(
    params: type[BaseModel],
    prefix: str,
    values: Mapping[str, Any] | None = None,
    errors: Mapping[str, str] | None = None,
    suggestions: Mapping[str, Any] | None = None,
) -> list[Group]:
    """The fields of a class of settings, in its order, gathered by their `group`.

    Args:
        prefix: goes before each name, such as `params`.
        values: what the fields hold, by name, as parsed or as typed.
        errors: sentences by id of the field (see `errors_of`).
        suggestions: what is taken where a field without a default stays empty, by name.
    """
    given, wrong, hints = values or {}, errors or {}, suggestions or {}
    gathered: dict[str, list[Field]] = {}
    for name, schema in params.model_json_schema().get("properties", {}).items():
        field = _field(params, prefix, name, schema, given.get(name), wrong, hints.get(name))
        gathered.setdefault(str(schema.get("group", OTHER)), []).append(field)
    return [Group(title, tuple(fields)) for title, fields in gathered.items()]


def _list(params: type[BaseModel], id: str, name: str, schema: dict[str, Any], value: Any, errors: Mapping[str, str]) -> Field:
    """A field that holds several checkpoints, or several sets of settings."""
    declared = params.model_fields[name]
    default = declared.get_default(call_default_factory=True, validated_data={})
    default = default if isinstance(default, list) else []
    entries = value if isinstance(value, list) else [each.model_dump() if isinstance(each, BaseModel) else each for each in default]
    told: dict[str, Any] = {
        "id": id,
        "name": name,
        "title": declared.title or _words(name),
        "help": " ".join((declared.description or "").split()),
        "value": typed(entries) if entries else "",
        "default": "",
        "optional": False,
        "advanced": bool(schema.get("advanced")),
        "error": errors.get(id),
        "changed": value is not None and bool(entries),
    }
    kinds = variants(params, name)
    if not kinds:
        return Field(kind="checkpoints", tasks=tuple(schema["items"].get(MARK, ())), chosen=tuple(map(str, entries)), **told)
    parts = []
    for number, entry in enumerate(entries):
        kind = str(entry.get("kind", "")) if isinstance(entry, dict) else ""
        if kind in kinds:
            fields = [field for group in groups(kinds[kind], f"{id}.{number}", entry, errors) for field in group.fields]
            shown = tuple(field for field in fields if field.name != "kind")
            parts.append(Part(f"{id}.{number}", kind, title_of(kinds[kind]), inspect.getdoc(kinds[kind]) or "", shown))
    return Field(
        kind="parts",
        parts=tuple(parts),
        addable=tuple((kind, title_of(each)) for kind, each in kinds.items() if not switched_off(each)),
        **told,
    )


def title_of(part: type[BaseModel]) -> str:
    """What people call a kind of entry: the `title` of its class, or its kind in words."""
    return str(part.model_config.get("title") or _words(str(part.model_fields["kind"].default)))


def variants(params: type[BaseModel], name: str) -> dict[str, type[BaseModel]]:
    """The kinds of entries a list of settings may have, by the value of their field `kind`; none for any other field."""

    def models(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [model for part in get_args(annotation) for model in models(part)]

    return {str(model.model_fields["kind"].default): model for model in models(params.model_fields[name].annotation)}


def _field(
    params: type[BaseModel], prefix: str, name: str, schema: dict[str, Any], value: Any, errors: Mapping[str, str], hint: Any
) -> Field:
    if schema.get("type") == "array" and (MARK in schema.get("items", {}) or variants(params, name)):
        return _list(params, f"{prefix}.{name}", name, schema, value, errors)
    kinds = schema.get("anyOf", [schema])
    declared_type = next(each for each in kinds if each.get("type") != "null")
    declared = params.model_fields[name].get_default(call_default_factory=True, validated_data={})
    declared = None if declared is PydanticUndefined else declared
    default = typed(hint if declared is None and hint is not None else declared)
    integer = declared_type.get("type") == "integer"
    tasks = tuple(declared_type.get(MARK, ()))
    lines = declared_type.get("type") == "array" and declared_type.get("items", {}).get("type") == "string"
    text: Kind = "lines" if lines else "long" if schema.get("multiline") else "text"
    kind: Kind = "checkpoint" if tasks else "choice" if "enum" in declared_type else _KINDS.get(declared_type.get("type", ""), text)
    shown = "\n".join(map(str, value)) if lines and isinstance(value, list) else typed(value)
    return Field(
        id=f"{prefix}.{name}",
        name=name,
        title=params.model_fields[name].title or _words(name),
        kind=kind,
        help=" ".join((params.model_fields[name].description or "").split()),
        value=shown,
        default=default,
        optional=len(kinds) > 1,
        choices=tuple(str(choice) for choice in declared_type.get("enum", ())),
        minimum=_limit(declared_type, "minimum", "exclusiveMinimum"),
        maximum=_limit(declared_type, "maximum", "exclusiveMaximum"),
        step="1" if integer else "any",
        advanced=bool(schema.get("advanced")),
        error=errors.get(f"{prefix}.{name}"),
        changed=shown not in ("", default),
        tasks=tasks,
    )


_KINDS: dict[str, Kind] = {"integer": "integer", "number": "number", "boolean": "boolean"}


def _limit(schema: Mapping[str, Any], *names: str) -> float | None:
    return next((schema[name] for name in names if name in schema), None)


def _words(name: str) -> str:
    return re.sub(r"_+", " ", name).strip().capitalize()


def typed(value: Any) -> str:
    """A value as people type it into a form; empty for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        short = f"{value:.12g}"
        return re.sub(r"e([+-])0*(\d)", r"e\1\2", short)
    return str(value)


async def posted_form(request: Request) -> dict[str, str]:
    """The fields of a posted form as typed, empty ones too; of several with one name the last counts. A dependency of routes."""
    return {name: value for name, value in (await request.form()).multi_items() if isinstance(value, str)}


def values_of(params: type[BaseModel], form: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What a posted form holds for a class of settings, by name, as typed: empty fields are left out, so that they keep their default.

    A field that is unknown stays in, so that it is found wrong. A checkbox counts as set with `on` or `true`; to have an empty one count
    as false, put a hidden field of the same name with `false` before it.
    """
    found: dict[str, Any] = {}
    for key, value in form.items():
        name = key.removeprefix(f"{prefix}.")
        if name == key or not isinstance(value, str) or not value.strip():
            continue
        text = value.strip()
        name, *inside = name.split(".")
        field = params.model_fields.get(name)
        if inside and field is not None:
            _put(found.setdefault(name, {}), inside, text)
            continue
        name = ".".join((name, *inside))
        found[name] = text in ("on", "true", "1") if field is not None and field.annotation is bool else text
    return {name: _listed(value) for name, value in found.items()}


def _put(place: Any, path: list[str], text: str) -> None:
    """Put a value where its name says; a name that contradicts another one is left out."""
    for step in path[:-1]:
        if not isinstance(place, dict):
            return
        place = place.setdefault(step, {})
    if isinstance(place, dict):
        place[path[-1]] = text


def _listed(value: Any) -> Any:
    """Fields numbered in a form (`rewards.0.kind`) as a list, in the order of their numbers."""
    if not isinstance(value, dict):
        return value
    inner = {name: _listed(each) for name, each in value.items()}
    if all(name.isdecimal() and len(name) < 6 for name in inner):
        return [inner[name] for name in sorted(inner, key=int)]
    return inner


def errors_of(error: Invalid) -> dict[str, str]:
    """The sentences of a refusal by field, for `groups` and for a summary; without a field they stand under an empty name."""
    if isinstance(error.details, list):
        return {str(each["field"]): str(each["message"]) for each in reversed(error.details)}
    return {error.field or "": error.message}
