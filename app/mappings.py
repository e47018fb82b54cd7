"""Columns that are probably meant as a row shape's fields, under other names. Reads no file and no table."""

from __future__ import annotations

from collections.abc import Iterable

_KNOWN_PAIRS: tuple[dict[str, str], ...] = (
    {"prompt": "question", "completion": "answer"},
    {"prompt": "question", "completion": "response"},
    {"prompt": "problem", "completion": "solution"},
    {"prompt": "query", "completion": "response"},
    {"prompt": "query", "completion": "answer"},
    {"prompt": "prompt", "chosen": "chosen_response", "rejected": "rejected_response"},
    {"prompt": "question", "chosen": "chosen", "rejected": "rejected"},
    {"prompt": "prompt", "completion": "response"},
    {"prompt": "prompt", "completion": "answer"},
    {"prompt": "prompt", "completion": "output"},
    {"prompt": "instruction", "completion": "response"},
    {"prompt": "input", "completion": "output"},
    {"prompt": "input", "completion": "target"},
    {"prompt": "source", "completion": "target"},
    {"messages": "conversation"},
    {"messages": "chat"},
    {"messages": "dialog"},
    {"text": "sentence", "label": "label"},
    {"text": "review", "label": "sentiment"},
    {"text": "content"},
)


def suggest(columns: Iterable[str]) -> dict[str, str] | None:
    """A mapping that probably fits columns which are no form by themselves; None when none comes to mind."""
    by_name = {column.lower(): column for column in reversed(list(columns))}
    for pair in _KNOWN_PAIRS:
        if all(column in by_name for column in pair.values()):
            return {target: by_name[column] for target, column in pair.items()}
    return None
