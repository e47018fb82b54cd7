"""A look at the beginning of pasted text or of a file: what it is, its columns, what the first rows become. The worker reads the whole."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from app import shapes
from app.datasets.views import Turn, turns

HEAD_BYTES = 64_000
"""How much of a file is looked at."""
SHOWN_ROWS = 5
_LOOKED_AT_ROWS = 200
_MOST_COLUMNS = 200
_DELIMITERS = ",;\t|"
_TITLES = {"jsonl": "JSON Lines", "json": "a JSON list", "csv": "CSV", "parquet": "Parquet"}
_AROUND = re.compile(r'\s*\{\s*(?:"(?:[^"\\]|\\.)*"\s*:\s*(?:"(?:[^"\\]|\\.)*"|[^\[\]{},"]+)\s*,\s*)*"(?:[^"\\]|\\.)*"\s*:\s*(?=\[)')
NO_IDEA = (
    "This is neither JSON nor CSV. Paste one JSON object a line, a JSON list of objects, or a table whose first line names the columns."
)


@dataclass(frozen=True)
class Shown:
    """One of the first rows: what it becomes, or what is wrong with it."""

    line: int
    turns: list[Turn]
    problem: str | None = None
    excerpt: str = ""


@dataclass(frozen=True)
class Glance:
    """What a look at the beginning came to."""

    kind: str | None
    words: str
    columns: list[str] = field(default_factory=list)
    mapping: dict[str, str] = field(default_factory=dict)
    shape: str | None = None
    rows: list[Shown] = field(default_factory=list)
    fits: int = 0
    """How many of the rows looked at can be used."""
    wrong: int = 0

    @property
    def asks(self) -> bool:
        """Whether the columns do not say by themselves which is what."""
        return bool(self.columns) and self.shape is None


def recognise(text: str) -> str | None:
    """How text is written: jsonl, json or csv; None when it is none of them."""
    text = text.removeprefix("\ufeff")
    lines = [line for line in islice(text.lstrip().splitlines(), 50) if line.strip()]
    if not lines:
        return None
    if lines[0].startswith("["):
        return "json"
    if lines[0].startswith("{"):
        if len(lines) > 1:
            return "jsonl" if lines[1].startswith("{") else "json"
        return "json" if _holds_rows(lines[0]) else "jsonl"
    columns = next(csv.reader([lines[0]], delimiter=_delimiter(lines[0])), [])
    named = len(columns) > 1 or columns[0].strip().lower() in shapes.TARGETS
    return "csv" if named and len(lines) > 1 and all(name.strip() for name in columns) else None


def _holds_rows(text: str) -> bool:
    """Whether an object is not a row itself, but has a list of them in it."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        around = _AROUND.match(text)
        return around is not None and not any(f'"{name}"' in around[0] for name in shapes.TARGETS)
    rows = [value for value in row.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return shapes.detect(row) is None and bool(rows)


def look(text: str, kind: str | None, *, cut: bool, mapping: dict[str, str] | None = None) -> Glance:
    """Read the first rows as the worker will.

    Args:
        kind: as the file's name says; None: recognised.
        cut: the text goes on, so that its last row may be incomplete.
        mapping: target field → column; None: a suggestion, where the columns say nothing by themselves.
    """
    if kind == "parquet":
        return Glance("parquet", "Parquet is looked at after the upload; where its columns do not say what they are, you are asked then.")
    kind = kind or recognise(text)
    if kind is None:
        return Glance(None, NO_IDEA)
    if kind == "jsonl" and text.lstrip("\ufeff \t\r\n").startswith("["):
        kind = "json"
    found = list(islice(_records(text.removeprefix("\ufeff"), kind, cut), _LOOKED_AT_ROWS))
    rows = [(line, row) for line, row in found if isinstance(row, dict)]
    columns = list(dict.fromkeys(str(name)[:200] for _, row in rows for name in row))[:_MOST_COLUMNS]
    chosen = mapping
    if not chosen and not any(shapes.detect(row) for _, row in rows):
        chosen = shapes.suggest(columns) if mapping is None else None
    form = _form([shapes.mapped(row, chosen) for _, row in rows])
    shown = [_shown(line, row, chosen, form) for line, row in found]
    wrong = sum(each.problem is not None for each in shown) if form else sum(not isinstance(row, dict) for _, row in found)
    wanted = [each for each in shown if each.problem][:SHOWN_ROWS] + [each for each in shown if not each.problem][:SHOWN_ROWS]
    count = f"{len(found):,} {'row' if len(found) == 1 else 'rows'}"
    words = f"Recognised as {_TITLES[kind]}: {'the first ' if cut or len(found) == _LOOKED_AT_ROWS else ''}{count}"
    return Glance(
        kind,
        f"{words}, {len(columns)} {'column' if len(columns) == 1 else 'columns'}.",
        columns,
        chosen or {},
        shapes.SHAPES[shapes.FORMS[form].shape].title if form else None,
        wanted if form or wrong else [],
        len(found) - wrong if form else 0,
        wrong,
    )


def preview(sources: list[dict[str, Any]], mapping: dict[str, str]) -> Glance:
    """What rows that were read before become under a mapping."""
    form = _form([shapes.mapped(row, mapping) for row in sources])
    shown = [_shown(number, row, mapping, form) for number, row in enumerate(sources, 1)]
    columns = list(dict.fromkeys(name for row in sources for name in row))
    title = shapes.SHAPES[shapes.FORMS[form].shape].title if form else None
    return Glance(None, "", columns, mapping, title, shown if form else [], wrong=sum(each.problem is not None for each in shown))


def _form(rows: list[dict[str, Any]]) -> str | None:
    forms = [form for form in map(shapes.detect, rows) if form]
    return max(forms, key=forms.count) if forms else None


def _shown(line: int, row: dict[str, Any] | str, mapping: dict[str, str] | None, form: str | None) -> Shown:
    if isinstance(row, str):
        return Shown(line, [], row)
    if form is None:
        return Shown(line, [])
    try:
        found = shapes.read(shapes.mapped(row, mapping), form)
    except shapes.Wrong as wrong:
        return Shown(
            line, [], f"{wrong.place}: {wrong.message}" if wrong.place else wrong.message, json.dumps(row, ensure_ascii=False)[:200]
        )
    return Shown(line, turns(found.row, shapes.FORMS[form].shape))


# --- rows of a text ---------------------------------------------------------------------------------------------------------

_Record = tuple[int, dict[str, Any] | str]
"""Line or place in the list, and the row or what is wrong with it."""


def _records(text: str, kind: str, cut: bool) -> Iterator[_Record]:
    return _table(text, cut) if kind == "csv" else _lines(text, cut) if kind == "jsonl" else _list(text, cut)


def _lines(text: str, cut: bool) -> Iterator[_Record]:
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1] if cut else lines, 1):
        if line.strip():
            yield number, _object(line)


def _object(text: str) -> dict[str, Any] | str:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        return f"Not valid JSON at column {error.colno}: {error.msg}."
    except (ValueError, RecursionError):
        return "Not valid JSON, or nested too deeply."
    return row if isinstance(row, dict) else "A row must be an object such as {“prompt”: …, “completion”: …}, and this is something else."


def _list(text: str, cut: bool) -> Iterator[_Record]:
    decoder, around = json.JSONDecoder(), _AROUND.match(text)
    at = around.end() if around else text.find("[")
    if at < 0 or (not around and text[:at].strip()):
        yield 1, "No list of rows was found at the beginning. A JSON file is a list of objects: [{…}, {…}]."
        return
    at += 1
    for number in range(1, _LOOKED_AT_ROWS + 1):
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text) or text[at] == "]":
            return
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not cut:
                yield number, f"Not valid JSON: {getattr(error, 'msg', 'nested too deeply')}."
            return
        yield number, row if isinstance(row, dict) else "A row must be an object, and this is something else."


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))


def _table(text: str, cut: bool) -> Iterator[_Record]:
    lines = text.splitlines(keepends=True)
    if not lines:
        return
    reader = csv.reader(iter(lines[:-1] if cut else lines), delimiter=_delimiter(lines[0]), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        if "" in columns or len(set(columns)) < len(columns):
            yield 1, "The header in line 1 must name every column, and no name twice."
            return
        while True:
            line = reader.line_num + 1
            values = next(reader, None)
            if values is None:
                return
            if values and len(values) != len(columns):
                yield line, f"The row has {len(values)} values, and the header names {len(columns)}."
            elif values:
                yield line, dict(zip(columns, values, strict=True))
    except csv.Error as error:
        if not cut:
            yield reader.line_num, f"Cannot be read as CSV: {error}."
