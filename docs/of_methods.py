"""One page of the reference for each method, tuner and recipe, and a page that leads to them, written from what their files declare."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import wording as words  # the folder docs is no package

from app import methods, presets, recipes, tuners
from app.methods.base import GROUPS, Objective
from app.tuners.base import Tuner

RECORD = Path(__file__).parents[1] / "benchmarks" / "results" / "learning.json"
EXAMPLES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "What is 7 + 5?"}, {"role": "assistant", "content": "12"}]},
    "prompt_completion": {"prompt": "What is 7 + 5?", "completion": "12"},
    "preference": {"prompt": "What is rain?", "chosen": "Water that falls from clouds.", "rejected": "Rain is rain.", "margin": 2},
    "unpaired": {"prompt": "What is rain?", "completion": "Water that falls from clouds.", "label": True},
    "rated": {"prompt": "What is rain?", "completion": "Water that falls from clouds.", "score": 4},
    "prompt": {"prompt": "Think of a number and double it."},
    "labelled": {"text": "The parcel never came.", "label": "delivery"},
    "text": {"text": "The gearbox holds 1.2 litres of oil, which is changed every two years."},
}
"""A row of each shape."""
KINDS = {"methods": "Methods", "tuners": "Tuners", "recipes": "Recipes"}


def overview() -> Iterator[str]:
    """The page that leads to all others."""
    yield "## Methods: what is learned\n"
    for need in GROUPS:
        some = [each for each in methods.registry().values() if each.group == need]
        if some:
            yield f"### {need}\n"
            yield from _table("methods", some)
    yield "## Tuners: which weights change\n"
    yield from _table("tuners", list(tuners.registry().values()))
    yield "## What goes together\n"
    yield from matrix()
    yield "## Recipes: data made by models and rules\n"
    yield from _table("recipes", list(recipes.registry().values()))
    yield "## Presets\n"
    yield "Ready-made combinations, offered on the page of a new run and by `GET /api/v1/presets`.\n"
    yield "| Preset | Method | Tuner | Where its values come from |"
    yield "|---|---|---|---|"
    for each in presets.registry().values():
        if each.method in methods.registry():
            yield f"| {each.title} | `{each.method}` | `{each.tuner}` | {words.cell(each.source)} |"
    yield ""


def _table(kind: str, some: list[Any]) -> Iterator[str]:
    yield "| | When |"
    yield "|---|---|"
    for each in some:
        avoid = f" {each.avoid}" if getattr(each, "avoid", "") else ""
        yield f"| [{each.title}]({kind}/{each.name}.md) `{each.name}` | {words.cell(words.sentence(each.summary) + avoid)} |"
    yield ""


def matrix() -> Iterator[str]:
    """Which method goes with which tuner."""
    names = list(tuners.registry())
    yield f"| | {' | '.join(f'`{name}`' for name in names)} |"
    yield f"|---|{'---|' * len(names)}"
    for method, each in methods.registry().items():
        accepted = set(each.accepts_tuners)
        yield f"| `{method}` | {' | '.join('yes' if name in accepted else '–' for name in names)} |"
    yield ""


def pages() -> dict[str, list[str]]:
    """Name of the file -> lines of each page."""
    found: dict[str, list[str]] = {}
    registries: Mapping[str, Mapping[str, Any]] = {
        "methods": methods.registry(),
        "tuners": tuners.registry(),
        "recipes": recipes.registry(),
    }
    for kind, registry in registries.items():
        for name, each in registry.items():
            found[f"{kind}/{name}.md"] = list(_page(kind, each))
    return found


def _page(kind: str, each: Any) -> Iterator[str]:
    yield f"# {each.title} (`{each.name}`)\n"
    yield "[All methods, tuners and recipes](../methods.md)\n"
    yield f"{words.sentence(each.summary)} {words.sentence(getattr(each, 'avoid', ''))}\n".replace(" \n", "\n")
    yield f"{inspect.cleandoc(each.__doc__ or type(each).__doc__ or '')}\n"
    if isinstance(each, Objective):
        yield from _of_method(each)
    elif isinstance(each, Tuner):
        yield from _of_tuner(each)
    else:
        yield f"It makes rows of the shape `{each.produces}`.\n"
        yield from _seen(each.name)
    yield "## Settings\n"
    yield from words.parameters(each.params)


def _of_method(each: Objective) -> Iterator[str]:
    yield "## What it takes\n"
    for shape in each.consumes:
        yield f"A row of the shape `{shape}`:\n"
        yield f"```json\n{json.dumps(EXAMPLES[shape], ensure_ascii=False)}\n```\n"
    gives = {"policy": "a model that writes", "reward": "a reward model", "score": "a score model", "classifier": "a classifier"}
    yield f"It gives {gives.get(each.produces, each.produces)}.\n"
    yield from _seen(each.name)
    yield "## Tuners\n"
    yield "| Tuner | Learning rate, where none is given |"
    yield "|---|---|"
    for name in each.accepts_tuners:
        yield f"| [`{name}`](../tuners/{name}.md) | {each.rate_with(tuners.registry()[name]):g} |"
    yield ""
    refused = [(name, why) for name, tuner in tuners.registry().items() if (why := each.refusal(tuner))]
    for name, why in refused:
        yield f"- Not with [`{name}`](../tuners/{name}.md): {why}"
    if refused:
        yield ""


def _seen(method: str) -> Iterator[str]:
    """What a real run of a method, or on rows of a recipe, took and found, where `benchmarks.learning --record` has written that down."""
    kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    for name, found in kept.items():
        run = found["run"]
        if name != method and not name.startswith(f"{method} "):
            continue
        yield f"## A real run{'' if name == method else f': {name}'}\n"
        asked = json.dumps(name) if " " in name else name
        cores = "one core" if found["threads"] == 1 else f"{found['threads']} cores"
        data = "" if method == run["method"] else " on rows it made"
        yield (
            f"SmolLM2-135M, `{run['method']}` with `{run['tuner']}` and the defaults{data}, on {cores} without a GPU: {run['steps']} "
            f"steps took {run['seconds']} seconds ({found['date']}, `python -m benchmarks.learning --only {asked}`).\n"
        )
        yield "| On rows it has not seen | Before | After | 95 % interval | n |"
        yield "|---|---|---|---|---|"
        for each in found["figures"]:
            interval = f"{each['low']:.3g} to {each['high']:.3g}" if each["low"] is not None else "–"
            yield f"| {words.cell(each['what'])} | {each['before']:.3g} | {each['after']:.3g} | {interval} | {each['n']} |"
        yield ""
        values = run["curve"]["values"]
        if len(values) > 1:
            label = run["curve"]["name"].replace("_", " ")
            yield f'```mermaid\nxychart-beta\n  title "{label}, from the first step to the last"'
            yield f"  line [{', '.join(f'{value:g}' for value in values)}]\n```\n"


def _of_tuner(each: Tuner) -> Iterator[str]:
    if each.family == "full":
        yield "A checkpoint holds the whole model.\n"
    else:
        can = "It can be merged into the weights of the model" if each.mergeable else "It cannot be merged into the weights of the model"
        yield f"A checkpoint holds the adapter alone. {can}.\n"
    taken = [name for name, method in methods.registry().items() if each.name in method.accepts_tuners]
    yield f"Goes with the methods {', '.join(f'[`{name}`](../methods/{name}.md)' for name in taken)}.\n"
