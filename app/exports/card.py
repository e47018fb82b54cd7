"""The model card of an export: what it is made of, in words and in the form hubs read. Decides nothing, reads no file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class Origin:
    """Where an exported checkpoint comes from, as far as it is known."""

    name: str
    format: str
    base: str
    on_hub: bool
    base_revision: str | None = None
    base_sha256: str | None = None
    sha256: str | None = None
    step: int | None = None
    run: dict[str, Any] | None = None
    """name, method, tuner, params, tuner_params, seed, versions."""
    dataset: dict[str, Any] | None = None
    """name, version, rows, shape, sha256, source."""
    metrics: dict[str, Any] = field(default_factory=dict)


def _plain(value: Any) -> str:
    """A text of others inside our sentences: one line, and nothing in it is taken for markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~])", r"\\\1", " ".join(str(value).split()))


def _table(rows: dict[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {_plain(name)} | {_plain(value)} |" for name, value in rows.items() if value is not None)]


def card(origin: Origin, ways: list[tuple[str, str, str]]) -> str:
    """README.md of an export.

    Args:
        ways: title, commands and hint of each way to use it.
    """
    run = origin.run
    head: dict[str, Any] = {
        "library_name": "peft" if origin.format == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["luthier", *([run["method"], run["tuner"]] if run else [])],
    }
    if origin.on_hub:
        head["base_model"] = origin.base
    what = "An adapter for" if origin.format == "adapter" else "Made from"
    lines = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", "", f"# {_plain(origin.name)}", ""]
    lines += [f"{what} **{_plain(origin.base)}**" + (f", after {origin.step:,} steps of training." if origin.step is not None else "."), ""]
    lines += ["## Base model", ""]
    lines += _table({"Name": origin.base, "Revision": origin.base_revision, "SHA-256 of its weights": origin.base_sha256})
    if not origin.on_hub:
        lines += ["", "The base was not imported from a model hub, so the name above is the one its owner gave it, not an address."]
    if origin.dataset:
        lines += ["", "## Data", "", *_table(origin.dataset)]
    if run:
        lines += ["", "## Method", ""]
        lines += _table({"Run": run["name"], "Objective": run["method"], "Tuner": run["tuner"], "Seed": run["seed"]})
        settings = {**run["tuner_params"], **run["params"]}
        lines += ["", "### Settings", "", *_table(settings)] if settings else []
        lines += ["", "### Versions", "", *_table(run["versions"])] if run.get("versions") else []
    if origin.metrics:
        lines += ["", "## Metrics", "", "As measured while it was trained, at this step.", "", *_table(origin.metrics)]
    lines += ["", "## Licence", ""]
    lines += [
        "The terms of the base model and of the data hold for what was made from them. The program that wrote this card knows neither: "
        "look them up, and write down here which apply."
    ]
    if ways:
        lines += ["", "## Use", ""]
        for title, commands, hint in ways:
            language = "python" if "import " in commands else "sh"
            lines += [f"### {title}", "", *([_plain(hint), ""] if hint else []), f"```{language}", commands, "```", ""]
    if origin.sha256:
        lines += ["", f"SHA-256 of the trained weights: `{origin.sha256}`"]
    return "\n".join(lines).rstrip() + "\n"
