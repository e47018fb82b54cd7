"""Small values that the dataset templates show: turns of an example, bars of a histogram, fields of a recipe. Reads nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from app import references
from app.errors import Invalid


@dataclass(frozen=True)
class Turn:
    """One message of an example; `trained` when it is what a model learns."""

    role: str
    text: str
    trained: bool = False


def turns(row: dict[str, Any], shape: str) -> list[Turn]:
    """An example in canonical fields as messages, whatever its shape."""
    if shape == "chat":
        found = _messages(row["messages"], "user")
        last = max(place for place, turn in enumerate(found) if turn.role == "assistant")
        return [Turn(turn.role, turn.text, place == last) for place, turn in enumerate(found)]
    if shape == "text":
        return [Turn("text", row["text"], True)]
    if shape == "labelled":
        return [Turn("text", row["text"]), Turn("label", str(row["label"]), True)]
    asked = _messages(row["prompt"], "user")
    if shape == "preference":
        sides = [(name, _messages(row[name], "assistant")) for name in ("chosen", "rejected")]
        return asked + [Turn(name, turn.text, name == "chosen") for name, found in sides for turn in found]
    if shape == "prompt":
        return asked
    answer = [Turn(turn.role, turn.text, turn.role == "assistant") for turn in _messages(row["completion"], "assistant")]
    if shape == "rated":
        return [*asked, *answer, Turn("score", f"{row['score']:g}")]
    return asked + answer + ([Turn("label", "good" if row["label"] else "bad")] if shape == "unpaired" else [])


def _messages(value: Any, role: str) -> list[Turn]:
    if isinstance(value, str):
        return [Turn(role, value)]
    return [Turn(message["role"], message["content"]) for message in value]


def marked(tokens: list[dict[str, Any]]) -> list[tuple[bool, list[dict[str, Any]]]]:
    """Tokens in runs that are trained on or not."""
    return [(trained, list(run)) for trained, run in groupby(tokens, key=lambda token: bool(token["trained"]))]


def rendered(tokens: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """Tokens as the text they make, in runs that are trained on or not; letters that several tokens share are put together again."""
    found = []
    for trained, run in marked(tokens):
        raw = b"".join(bytes.fromhex(token["bytes"]) if token.get("bytes") else token["text"].encode("utf-8", "replace") for token in run)
        found.append((trained, raw.decode("utf-8", errors="replace")))
    return found


@dataclass(frozen=True)
class Bars:
    """A histogram in a box of 520 × 220: each bar's place, height and words; where the limit lies; marks on the axis."""

    bars: list[dict[str, Any]]
    mark: float | None
    ticks: list[tuple[float, int]]


def bars(width: int, counts: list[int], limit: int | None) -> Bars:
    """A histogram of counts, each bin `width` wide and the last one open; without a limit it is one of characters."""
    step, top = 520 / len(counts), max(counts) or 1
    unit = "characters" if limit is None else "tokens"
    found = []
    for place, count in enumerate(counts):
        height = 170 * count / top
        open_end = place == len(counts) - 1
        found.append(
            {
                "x": f"{place * step + 1:.1f}",
                "y": f"{190 - height:.1f}",
                "width": f"{step - 2:.1f}",
                "height": f"{height:.1f}",
                "over": limit is not None and place * width >= limit,
                "range": f"{place * width:,} {unit} or more" if open_end else f"{place * width:,} to {(place + 1) * width - 1:,} {unit}",
                "count": count,
            }
        )
    at = limit / width * step if limit is not None else None
    ticks = [(place * step, place * width) for place in range(0, len(counts), 5)]
    return Bars(found, at if at is not None and at <= 520 else None, ticks)


@dataclass(frozen=True)
class Choice:
    """One setting of a recipe, as a form shows it."""

    name: str
    title: str
    help: str
    kind: str
    """ticks, lines, json, switch, choice, checkpoint, dataset, number, long or text."""
    default: Any
    options: list[str]
    """What there is to tick or to choose."""
    fits: tuple[str, ...] = ()
    """Of a checkpoint what it may do, of a dataset the shapes of its rows."""
    optional: bool = False

    def shown(self, value: Any) -> Any:
        """A value as the field shows it: ticks as a list, all else as text."""
        if self.kind == "ticks":
            return value or []
        if self.kind == "lines" and isinstance(value, list):
            return "\n".join(map(str, value))
        if self.kind == "json" and not isinstance(value, str):
            return json.dumps(value or [], ensure_ascii=False, indent=1)
        return "" if value is None else value

    def read(self, posted: list[str]) -> Any:
        """What a form posted, as the settings take it; None where it is left empty.

        Raises:
            Invalid: text that has to be JSON is none.
        """
        if self.kind == "ticks":
            return [each for each in posted if each]
        text = posted[-1].strip()
        if self.kind == "lines":
            return [line.strip() for line in text.splitlines() if line.strip()] or None
        if self.kind == "json" and text:
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                raise Invalid(
                    f"{self.title} is not valid JSON. It is a list, such as {self.shown(self.default)[:200]}", field=self.name
                ) from None
        return text or None


_LONG = 1000
"""Texts that may be longer get a field of several lines."""


def choices(params: type[BaseModel]) -> list[Choice]:
    """The fields of a recipe's settings."""
    found = []
    for name, schema in params.model_json_schema()["properties"].items():
        field = params.model_fields[name]
        kinds = schema.get("anyOf", [schema])
        told = next(each for each in kinds if each.get("type") != "null")
        default = field.get_default(call_default_factory=True, validated_data={})
        if isinstance(default, list):
            default = [each.model_dump(mode="json") if isinstance(each, BaseModel) else each for each in default]
        found.append(
            Choice(
                name,
                field.title or name.replace("_", " ").capitalize(),
                " ".join(schema.get("description", "").split()),
                _kind(told),
                None if default is PydanticUndefined else default,
                [str(each) for each in told.get("enum", told.get("items", {}).get("enum", []))],
                tuple(told.get(references.MARK, told.get(references.DATA_MARK, ()))),
                len(kinds) > 1,
            )
        )
    return found


def _kind(told: dict[str, Any]) -> str:
    if references.MARK in told or references.DATA_MARK in told:
        return "checkpoint" if references.MARK in told else "dataset"
    if told.get("type") == "array":
        items = told.get("items", {})
        return "ticks" if "enum" in items else "lines" if items.get("type") == "string" else "json"
    if "enum" in told:
        return "choice"
    kinds = {"boolean": "switch", "integer": "number", "number": "number"}
    return kinds.get(str(told.get("type")), "long" if told.get("maxLength", 0) > _LONG else "text")
