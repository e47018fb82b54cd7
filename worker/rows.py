"""Rows of a dataset as trl's trainers take them: what is read, what is the prompt, what is learned. Tokenises nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

Messages = list[dict[str, str]]


def read(path: str | Path, split: str | None = None) -> Iterator[dict[str, Any]]:
    """Lines of a `rows.jsonl` in order: `{"line", "split", "row", "source"}`; `split` keeps only "train" or "eval"."""
    with open(path, "rb") as stream:
        for line in stream:
            record = orjson.loads(line)
            if split is None or record["split"] == split:
                yield record


def to_trl(row: dict[str, Any], shape: str, has_template: bool) -> dict[str, Any]:
    """One canonical row (`app.shapes`) as a row for trl.

    With a chat template every side is a list of messages: a plain prompt becomes one user turn and a plain answer one assistant turn.
    Without one every side is text. So all rows of a dataset have one form, which trl reads off the first row. In a chat the last assistant
    turn is learned, and what comes after it is left away.

    Raises:
        ValueError: `shape` is not one of `app.shapes`.
    """
    if shape == "chat":
        messages: Messages = row["messages"]
        last = max(index for index, message in enumerate(messages) if message["role"] == "assistant")
        return _sides({"prompt": messages[:last], "completion": [messages[last]]}, has_template)
    if shape == "prompt_completion":
        return _sides({"prompt": row["prompt"], "completion": row["completion"]}, has_template)
    if shape == "preference":
        sides = _sides({"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}, has_template)
        return {**sides, "margin": float(row.get("margin") or 0.0)}  # on every row: trl looks at the first one of a batch
    if shape == "unpaired":
        return {**_sides({"prompt": row["prompt"], "completion": row["completion"]}, has_template), "label": row["label"]}
    if shape == "rated":
        return {**_sides({"prompt": row["prompt"], "completion": row["completion"]}, has_template), "score": float(row["score"])}
    if shape == "prompt":
        return _sides({"prompt": row["prompt"]}, has_template)
    if shape == "labelled":
        return {"text": row["text"], "label": str(row["label"])}  # numbers and names may stand in one dataset
    if shape == "text":
        return dict(row)
    raise ValueError(f"no such row shape: {shape}")


def _sides(sides: dict[str, str | Messages], has_template: bool) -> dict[str, Any]:
    if has_template:
        return {name: _messages(value, "user" if name == "prompt" else "assistant") for name, value in sides.items()}
    if isinstance(sides["prompt"], str):
        return {name: value if isinstance(value, str) else _transcript(value) for name, value in sides.items()}
    # The answer begins with the space, so that no token spans the boundary.
    return {
        name: f"{_transcript(_messages(value, 'user'))}\n\nAssistant:" if name == "prompt" else f" {_content(value)}"
        for name, value in sides.items()
    }


def _messages(value: str | Messages, role: str) -> Messages:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _content(value: str | Messages) -> str:
    return value if isinstance(value, str) else "\n\n".join(message["content"] for message in value)


def _transcript(messages: Messages) -> str:
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)
