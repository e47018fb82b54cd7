"""The OpenAPI document with who may call what, and the same as groups for the page that shows it. Reads no row."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts

from app.accounts import scopes
from app.web import REFUSALS, ErrorAnswer, needed


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document: every call says which roles may make it and which scopes of a token open it."""
    if "x-scopes" in (found := app.openapi()):
        return found
    found["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "An API token `lt_…`, of a role and for some scopes."}
    }
    found["x-scopes"] = scopes.SCOPES
    found["security"] = [{"token": []}]
    roles = _roles(app)
    refusals = _refusals(found["components"]["schemas"])
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            opening = scopes.in_order(scopes.opening(method.upper(), path))
            allowed = roles.get((method.upper(), path), [])
            operation["security"] = [{"token": [scope]} for scope in opening]
            operation["x-roles"] = allowed
            if path.startswith("/api/"):
                operation["responses"] |= refusals
            words = f"For {', '.join(allowed)}. Token scope: {' or '.join(f'`{each}`' for each in opening)}."
            operation["description"] = f"{operation.get('description', '')}\n\n{words}".strip()
    return found


def _refusals(schemas: dict[str, Any]) -> dict[str, Any]:
    """How any call may be refused; the form of such an answer takes the place of FastAPI's own in `schemas`."""
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    form = ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**form.pop("$defs"), "ErrorAnswer": form}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    return {str(status): {"description": words, "content": content} for status, words in REFUSALS.items()}


def _roles(app: FastAPI) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, APIRoute) and (needs := needed(route.dependant)):
            roles = sorted(frozenset.intersection(*(need.roles for need in needs)))
            named = ["admin of the studio"] if any(need.studio for need in needs) else roles
            found.update({(method, str(context.path)): named for method in context.methods or ()})
    return found


def groups(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The calls of a document by tag, each in few words."""
    gathered: dict[str, list[dict[str, Any]]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            gathered.setdefault(operation.get("tags", ["other"])[0], []).append(
                {"method": method.upper(), "path": path, **_operation(operation, found)}
            )
    return gathered


def _operation(operation: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    content = operation.get("requestBody", {}).get("content", {})
    schema: dict[str, Any] = next((each["schema"] for each in content.values()), {})
    named = found.get("components", {}).get("schemas", {}).get(str(schema.get("$ref", "")).rpartition("/")[2], schema)
    fields = [
        {"name": name, "needed": name in named.get("required", []), "text": field.get("description", "")}
        for name, field in named.get("properties", {}).items()
    ]
    parameters = [
        {"name": each["name"], "needed": each.get("required", False), "text": each.get("description", "")}
        for each in operation.get("parameters", [])
    ]
    text = operation.get("description") or operation.get("summary", "")
    return {"first": text.split(". ")[0].split("\n")[0].rstrip(".") + ".", "text": text, "fields": fields, "parameters": parameters}
