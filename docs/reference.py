"""Writes `docs/reference` from the code: settings, methods, REST, pages, commands. Invents nothing: what has no docstring fails a test."""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app import cli, methods, recipes, tuners
from app.accounts import documents, scopes
from app.main import create_app
from app.settings import Settings
from app.web import needed

FOLDER = Path(__file__).parent / "reference"
WRITTEN = "<!-- Written by `make docs` from the code; edit the docstrings there. -->\n"
HEADS = {
    "settings": "# Settings\n\nEvery setting is an environment variable. `luthier settings` prints them with where each comes from.\n",
    "methods": "# Methods, tuners and recipes\n\nA run has an objective (what is learned) and a tuner (which weights may change). "
    "`GET /api/v1/methods` and `/api/v1/tuners` give the same as JSON Schema.\n",
    "rest": "# REST\n\nJSON in and out under `/api/v1`, with `Authorization: Bearer lt_…` or the browser's session. "
    "[The guide](../rest.md) has errors, lists and retries. Signed-in callers find the OpenAPI document at `/openapi.json`.\n",
    "pages": "# Pages\n\nWhat a browser opens, and the fragments and forms that the pages use.\n",
    "commands": "# Commands\n\n`luthier --help` and `luthier COMMAND --help` print the same.\n",
}


def generate() -> dict[str, str]:
    """File name -> text of every page of the reference."""
    with tempfile.TemporaryDirectory() as home:
        app = create_app(Settings(home=Path(home), database_url="", public_url="http://127.0.0.1:8000"))
    parts = {"settings": settings(), "methods": declared(), "rest": rest(app), "pages": pages(app), "commands": commands()}
    return {
        f"{name}.md": WRITTEN + HEADS[name] + re.sub(r"\n{3,}", "\n\n", "\n" + "\n".join(lines)).rstrip() + "\n"
        for name, lines in parts.items()
    }


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
    if isinstance(value, list | tuple) and value:
        return f"`{', '.join(map(str, value))}`"
    return "empty" if value in ("", None, [], ()) else f"`{value}`"


def number(value: float) -> str:
    """A limit, with commas between thousands."""
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


# --- settings -------------------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """One row a setting."""
    yield "| Variable | Default | |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = "see right" if field.default_factory else code(field.default)
        yield f"| `LUTHIER_{name.upper()}` | {default} | {cell(sentence(field.description))} |"


# --- methods --------------------------------------------------------------------------------------------------------------


def declared() -> Iterator[str]:
    """Objectives, tuners and recipes from their registries."""
    for title, registry in (("Objectives", methods.registry()), ("Tuners", tuners.registry()), ("Recipes", recipes.registry())):
        yield f"## {title}\n"
        for name, each in sorted(registry.items()):
            yield f"### `{name}`: {each.title}\n"
            yield f"{sentence(each.summary)}\n"
            yield f"{inspect.cleandoc(each.__doc__ or type(each).__doc__ or '')}\n"
            yield from facts(each)
            yield from parameters(each.params)


def facts(each: Any) -> Iterator[str]:
    """What it takes and gives."""
    words = {"consumes": "Takes rows of the shape", "produces": "Gives", "accepts_tuners": "Goes with the tuners", "family": "Family"}
    for attribute, word in words.items():
        value = getattr(each, attribute, None)
        if value:
            listed = [value] if isinstance(value, str) else list(value)
            yield f"- {word} {', '.join(f'`{one}`' for one in listed)}"
    yield ""


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


# --- routes ---------------------------------------------------------------------------------------------------------------


def routes(app: FastAPI) -> list[tuple[str, str, APIRoute]]:
    """Path, method and route of everything served but static files, in order."""
    found = []
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIRoute):
            found += [(str(context.path), method, context.original_route) for method in sorted(context.methods or ()) if method != "HEAD"]
    return sorted(found, key=lambda each: (each[0], each[1]))


def is_rest(path: str) -> bool:
    """Whether a path is for programs."""
    return path.startswith("/api/") or path in ("/healthz", "/readyz", "/events", "/openapi.json")


def who_may(route: APIRoute) -> str:
    """The roles a route lets in."""
    roles = [need.roles for need in needed(route.dependant)]
    if any(need.studio for need in needed(route.dependant)):
        return "admin of the studio"
    return ", ".join(sorted(frozenset.intersection(*roles))) if roles else "everybody"


def rest(app: FastAPI) -> Iterator[str]:
    """Every call with its parameters, body and answer, then the shapes these name."""
    document = documents.document(app)
    schemas: dict[str, dict[str, Any]] = document["components"]["schemas"]
    paths = document["paths"]
    for path, method, route in routes(app):
        if not is_rest(path):
            continue
        operation = paths.get(path, {}).get(method.lower(), {})
        yield f"## {method} `{path}`\n"
        yield f"{inspect.cleandoc(route.endpoint.__doc__ or '')}\n"
        opening = [f"`{scope}`" for scope in scopes.in_order(scopes.opening(method, path))]
        yield f"For {who_may(route)}." + (f" Token scope: {' or '.join(opening)}.\n" if needed(route.dependant) else "\n")
        given = [each for each in operation.get("parameters", []) if each["in"] != "path" or each.get("description")]
        if given:
            yield "| Parameter | In | Allowed | |"
            yield "|---|---|---|---|"
            for each in given:
                words = sentence(each.get("description")) + (" Must be given." if each.get("required") and each["in"] != "path" else "")
                yield f"| `{each['name']}` | {each['in']} | {cell(kind_of(each['schema']))} | {cell(words)} |"
            yield ""
        for media, body in operation.get("requestBody", {}).get("content", {}).items():
            yield f"Body ({media}): {kind_of(body['schema'])}\n"
        for status, answer in operation.get("responses", {}).items():
            for media, content in answer.get("content", {}).items():
                if status.startswith("2"):
                    yield f"Answer {status} ({media}): {kind_of(content.get('schema', {}))}\n"
    yield "# Shapes\n"
    sent = named([each.get("requestBody", {}) for operations in paths.values() for each in operations.values()], schemas)
    for name, schema in sorted(schemas.items()):
        if name in ("HTTPValidationError", "ValidationError"):
            continue
        yield f"## {name}\n"
        yield f"{sentence(schema.get('description'))}\n"
        if schema.get("properties"):
            yield "| Field | Type | |"
            yield "|---|---|---|"
            for field, kind in schema["properties"].items():
                must = " Must be given." if name in sent and field in schema.get("required", []) else ""
                yield f"| `{field}` | {cell(kind_of(kind))} | {cell(sentence(kind.get('description')) + must)} |"
            yield ""


def named(part: Any, schemas: dict[str, Any]) -> set[str]:
    """Names of the schemas that a part of the document leads to."""
    found: set[str] = set()
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            name = str(each.get("$ref", "")).rsplit("/", 1)[-1]
            if name and name not in found:
                found.add(name)
                waiting.append(schemas[name])
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
    return found


def kind_of(schema: dict[str, Any]) -> str:
    """The type a JSON Schema describes, as a link where it has a name."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join("nothing" if each.get("type") == "null" else kind_of(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {kind_of(schema.get('items', {}))}"
    return allowed(schema) or "anything"


def pages(app: FastAPI) -> Iterator[str]:
    """One row a page, fragment or form."""
    yield "| | Path | For | |"
    yield "|---|---|---|---|"
    for path, method, route in routes(app):
        if not is_rest(path):
            yield f"| {method} | `{path}` | {who_may(route)} | {cell(sentence((route.endpoint.__doc__ or '').partition('Raises:')[0]))} |"


# --- commands -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    root = typer.main.get_command(cli.app)
    yield from command(root, "luthier", click.Context(root, info_name="luthier"))


def command(each: click.Command, name: str, context: click.Context) -> Iterator[str]:
    """One command, then those below it."""
    below = getattr(each, "commands", {})
    yield f"## {name}\n"
    yield f"{inspect.cleandoc(each.help or '')}\n"
    if not below:
        yield f"```\n{name} {' '.join(each.collect_usage_pieces(context))}\n```\n"
    rows = [record for parameter in each.params if parameter.name != "help" and (record := option(parameter, context))]
    if rows:
        yield "| | |"
        yield "|---|---|"
        for record in rows:
            yield f"| `{cell(record[0])}` | {cell(sentence(record[1]))} |"
        yield ""
    for child in sorted(below):
        if not below[child].hidden:
            yield from command(below[child], f"{name} {child}", click.Context(below[child], info_name=child, parent=context))


def option(parameter: Any, context: Any) -> tuple[str, str] | None:
    """What to type for a parameter, and what it does."""
    record = parameter.get_help_record(context)
    if record:
        return str(record[0]), str(record[1])
    return (parameter.human_readable_name, parameter.help or "") if getattr(parameter, "help", None) else None


def main() -> None:
    """Write the pages; with `--check`, only say which are stale."""
    made = generate()
    if "--check" in sys.argv:
        stale = [name for name, text in made.items() if not (FOLDER / name).is_file() or (FOLDER / name).read_text() != text]
        sys.exit(f"Stale: {', '.join(stale)}. Run `make docs`." if stale else 0)
    FOLDER.mkdir(exist_ok=True)
    for name, text in made.items():
        (FOLDER / name).write_text(text)
    print(f"Wrote {len(made)} pages into docs/reference.")


if __name__ == "__main__":
    main()
