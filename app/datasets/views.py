"""Small values that the dataset templates show: turns of an example, bars of a histogram, fields of a recipe. Reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import BaseModel


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
    default: Any
    options: list[str]
    """Of a setting that takes several: what there is to tick."""
    minimum: int | None
    maximum: int | None


def choices(params: type[BaseModel]) -> list[Choice]:
    """The fields of a recipe's settings."""
    found = []
    for name, schema in params.model_json_schema()["properties"].items():
        options = schema.get("items", {}).get("enum", [])
        top = schema.get("maximum", schema.get("exclusiveMaximum"))
        found.append(
            Choice(
                name,
                name.replace("_", " ").capitalize(),
                schema.get("description", ""),
                schema.get("default"),
                options,
                schema.get("minimum"),
                top,
            )
        )
    return found
