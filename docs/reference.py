"""Writes `docs/reference` from the code: settings, methods, REST, pages, commands. Invents nothing: what has no docstring fails a test."""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import typer
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from of_methods import overview
from of_methods import pages as of_methods
from wording import allowed, cell, code, sentence

from app import cli
from app.accounts import documents, scopes
from app.main import create_app
from app.settings import Settings
from app.web import needed

FOLDER = Path(__file__).parent / "reference"
WRITTEN = "<!-- Written by `make docs` from the code; edit the docstrings there. -->\n"
HEADS = {
    "settings": "# Settings\n\nEvery setting is an environment variable. `luthier settings` prints them with where each comes from.\n",
    "methods": "# Methods, tuners and recipes\n\nA run has a method (what is learned) and a tuner (which weights may change). "
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
    parts = {"settings": settings(), "methods": overview(), "rest": rest(app), "pages": pages(app), "commands": commands()}
    made = {f"{name}.md": _text(HEADS[name], lines) for name, lines in parts.items()}
    return made | {name: _text("", lines) for name, lines in of_methods().items()}


def _text(head: str, lines: Iterable[str]) -> str:
    return WRITTEN + head + re.sub(r"\n{3,}", "\n\n", "\n" + "\n".join(lines)).rstrip() + "\n"


# --- settings -------------------------------------------------------------------------------------------------------------


def settings() -> Iterator[str]:
    """One row a setting."""
    yield "| Variable | Default | |"
    yield "|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = "see right" if field.default_factory else code(field.default)
        yield f"| `LUTHIER_{name.upper()}` | {default} | {cell(sentence(field.description))} |"


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
    for old in FOLDER.rglob("*.md"):  # of methods that are gone
        if old.relative_to(FOLDER).as_posix() not in made:
            old.unlink()
    for name, text in made.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text)
    print(f"Wrote {len(made)} pages into docs/reference.")


if __name__ == "__main__":
    main()
