"""A run's request as text that starts it elsewhere: YAML file, command line, curl; and YAML read back. Starts nothing."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import yaml

from app.errors import Invalid
from app.runs.schemas import RunCreate

LONGEST = 100_000


def request_of(request: RunCreate) -> dict[str, Any]:
    """The request without what it leaves at its default; settings that are not set are left out."""
    values = request.model_dump(exclude_defaults=True, exclude_none=True)
    for part in ("params", "tuner_params"):
        if part in values:
            values[part] = {name: value for name, value in values[part].items() if value is not None}
    return {name: value for name, value in values.items() if value not in ({}, [], "")}


def as_yaml(values: dict[str, Any]) -> str:
    """For a file that `luthier run create --file` takes."""
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def as_command(values: dict[str, Any]) -> str:
    """`luthier run create …`, a line for each option; notes and parent only fit into a file."""
    parts = ["luthier run create"]
    for name in ("method", "tuner", "checkpoint", "dataset", "eval_dataset", "name", "seed"):
        if name in values:
            parts.append(f"--{name.replace('_', '-')} {shlex.quote(str(values[name]))}")
    parts += [f"--tag {shlex.quote(tag)}" for tag in values.get("tags", ())]
    for option, part in (("-p", "params"), ("-t", "tuner_params")):
        parts += [f"{option} {shlex.quote(f'{name}={_typed(value)}')}" for name, value in values.get(part, {}).items()]
    return " \\\n  ".join(parts)


def as_curl(values: dict[str, Any], url: str) -> str:
    """A call of the REST interface; the token comes from the environment, never from here."""
    body = json.dumps(values, ensure_ascii=False, indent=2)
    return (
        f"curl --fail-with-body {shlex.quote(url.rstrip('/') + '/api/v1/runs')} \\\n"
        '  --header "Authorization: Bearer $LUTHIER_TOKEN" \\\n'
        "  --header 'Content-Type: application/json' \\\n"
        f"  --data {shlex.quote(body)}"
    )


def _typed(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def loaded(text: str, such_as: str) -> dict[str, Any]:
    """Names and values from pasted YAML or JSON, whatever they are of.

    Args:
        such_as: a line that belongs there, for the messages.

    Raises:
        Invalid: it cannot be read; the message names the line.
    """
    if len(text) > LONGEST:
        raise Invalid(f"That is {len(text):,} characters; at most {LONGEST:,} are read.", field="yaml")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise Invalid("References (“*name”) are not taken here. Write the values out.", field="yaml")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise Invalid(f"This is not valid YAML{where}. Names and values stand in lines such as `{such_as}`.", field="yaml") from None
    if not isinstance(content, dict):
        raise Invalid(f"This must hold names and values, such as `{such_as}`.", field="yaml")
    return {str(name): value for name, value in content.items()}


def read_yaml(text: str) -> dict[str, Any]:
    """The settings of a run from pasted YAML or JSON, named as in REST.

    Raises:
        Invalid: it cannot be read; the message names the line.
    """
    content = loaded(text, "method: sft")
    unknown = [str(name) for name in content if name not in RunCreate.model_fields]
    if unknown:
        known = ", ".join(RunCreate.model_fields)
        raise Invalid(f"“{unknown[0][:60]}” is no setting of a run. Known are {known}.", field="yaml")
    for part in ("params", "tuner_params"):
        if not isinstance(content.get(part) or {}, dict):
            raise Invalid(f"“{part}” must hold names and values, such as `learning_rate: 0.0002`.", field="yaml")
    return {str(name): _numbers(value) for name, value in content.items() if value is not None}


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; people mean a number."""
    if isinstance(value, dict):
        return {str(name): _numbers(each) for name, each in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value
