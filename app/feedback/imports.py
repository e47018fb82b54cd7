"""Pairs that were made elsewhere: lines of a file become items, one after the other. Writes nothing; formats are in `import_formats`."""

from __future__ import annotations

import csv
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from app.errors import Invalid
from app.feedback.import_formats import FORMATS
from app.feedback.schemas import ItemIn
from app.shapes import Wrong

LOOKED_AT = 20
"""Rows that tell the format."""
MAX_CELL = 2_000_000
_CONTAINERS = ("data", "rows", "records", "items", "examples", "tasks")
_DELIMITERS = ",;\t|"


class Unreadable(Invalid):
    """A line that makes no item; `line` and `field` say where."""

    def __init__(self, line: int, field: str, message: str) -> None:
        super().__init__(
            f"Line {line:,}{f', {field}' if field else ''}: {message} Nothing was imported.",
            field=field or None,
            details={"line": line, "field": field, "message": message},
        )
        self.line = line


def detect(first: Sequence[dict[str, Any]]) -> str | None:
    """The format that most of the first rows of a file are written in; None when they are in none."""
    found = Counter(next((each.name for each in FORMATS.values() if each.fits(row)), None) for row in first)
    return next((name for name, _ in found.most_common() if name is not None), None)


def read(name: str | None, lines: Iterable[str], *, seed: int = 42, skipped: list[Unreadable] | None = None) -> Iterator[ItemIn]:
    """The items in the lines of a JSONL, JSON or CSV file.

    Only one line is held at a time, except of JSON files, which are one text. An error comes in the midst of the items, so what takes them
    has to do so in one transaction.

    Args:
        name: one of `FORMATS`; None finds it out from the first rows.
        seed: of the coin that decides which of a better and a worse answer is the first.
        skipped: where lines that cannot be used are put; None: the first one ends the import.

    Raises:
        Unreadable: a line cannot be used.
        Invalid: the file is empty, or of no format that is known.
    """
    if name is not None and name not in FORMATS:
        raise Invalid(f"“{name[:40]}” is no format. Take one of {', '.join(FORMATS)}.", field="format")
    found = rows(lines, skipped)
    first = list(itertools.islice(found, LOOKED_AT))
    if not first:
        raise skipped[0] if skipped else Invalid("The file is empty. Send lines of JSON, a JSON list, or CSV with a header.", field="file")
    name = name or detect([row for _, row in first])
    if name is None:
        known = "; ".join(f"{each.title}: {each.example}" for each in FORMATS.values())
        columns = ", ".join(map(str, list(first[0][1])[:12]))
        raise Invalid(f"These columns are of no format that can be imported: {columns}. Known are {known}.", field="file")
    form = FORMATS[name]
    for line, row in itertools.chain(first, found):
        try:
            if not form.fits(row):
                other = detect([row])
                raise Wrong("", f"This row is not of the form {form.example}" + (f", as others are, but {other}." if other else "."))
            yield _read(form.read, row, seed)
        except Wrong as wrong:
            problem = Unreadable(line, wrong.place, wrong.message)
            if skipped is None:
                raise problem from None
            skipped.append(problem)


def _read(form: Any, row: dict[str, Any], seed: int) -> ItemIn:
    try:
        item: ItemIn = form(row, seed)
    except ValidationError as error:
        first = error.errors()[0]
        raise Wrong(".".join(str(part) for part in first["loc"]), f"{first['msg']}.") from None
    return item


# --- rows of a file -------------------------------------------------------------------------------------------------------


def rows(lines: Iterable[str], skipped: list[Unreadable] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file with the numbers of their lines: lines of JSON, a JSON text, or CSV with a header, whichever it is.

    Raises:
        Unreadable: a line cannot be read, and there is no list for such lines.
    """
    stream = iter(lines)
    start: list[str] = []
    for line in stream:
        start.append(line.removeprefix("\ufeff") if not start else line)
        if start[-1].strip():
            break
    else:
        return
    again = itertools.chain(start, stream)
    head = start[-1].strip()
    if head.startswith("{") and _is_row(head):
        yield from _json_lines(again, skipped)
    elif head.startswith(("{", "[")):
        yield from _json_text("".join(each if each.endswith("\n") else f"{each}\n" for each in again))
    else:
        yield from _table(again, head, skipped)


def _is_row(text: str) -> bool:
    """Whether a line that opens with a bracket is a row by itself, not the beginning of a JSON text nor all of one."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return not text.endswith(("{", "[", ","))  # a JSON text over many lines begins so; a row that is spoiled seldom ends so
    return not any(isinstance(row.get(name), list) for name in _CONTAINERS)


def _json_lines(lines: Iterable[str], skipped: list[Unreadable] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            problem = Unreadable(number, "", "It is nested too deep.")
        except ValueError as error:
            problem = Unreadable(number, "", f"Not valid JSON ({str(error).partition(':')[0]}).")
        else:
            if isinstance(row, dict):
                yield number, row
                continue
            problem = Unreadable(number, "", "A row must be an object such as {“prompt”: …}.")
        if skipped is None:
            raise problem
        skipped.append(problem)


def _json_text(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a list, or of an object around one; the number is that of the line a row begins on."""
    decoder, at, line = json.JSONDecoder(), len(text) - len(text.lstrip()), 1

    def decoded(place: int) -> tuple[Any, int]:
        try:
            return decoder.raw_decode(text, place)
        except RecursionError:
            raise Unreadable(text.count("\n", 0, place) + 1, "", "It is nested too deep.") from None
        except ValueError as error:
            spot = error.lineno if isinstance(error, json.JSONDecodeError) else 1
            raise Unreadable(spot, "", f"Not valid JSON ({str(error).partition(':')[0]}).") from None

    if text[at] == "{":
        whole, _ = decoded(at)
        inner = next((whole[name] for name in _CONTAINERS if isinstance(whole.get(name), list)), None)
        for number, row in enumerate([whole] if inner is None else inner, 1):
            if not isinstance(row, dict):
                raise Unreadable(number, "", "A row must be an object such as {“prompt”: …}.")
            yield number if inner is not None else 1, row
        return
    at, counted = at + 1, 0
    while True:
        while at < len(text) and text[at] in " \t\r\n,":
            at += 1
        if at >= len(text):
            raise Unreadable(text.count("\n"), "", "The list does not end; the file was probably cut off.")
        if text[at] == "]":
            return
        line, counted = line + text.count("\n", counted, at), at
        row, at = decoded(at)
        if not isinstance(row, dict):
            raise Unreadable(line, "", "A row must be an object such as {“prompt”: …}.")
        yield line, row


def _table(lines: Iterable[str], header: str, skipped: list[Unreadable] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader((each if each.endswith("\n") else f"{each}\n" for each in lines), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        line = reader.line_num + 1
        problem = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Unreadable(line, "", f"Not valid CSV ({error}).") from None
        if not any(cell.strip() for cell in cells):
            continue
        if names is None:
            names = [cell.strip() for cell in cells]
            if len(names) < 2:
                raise Unreadable(line, "", "This is neither JSON nor CSV with a header such as prompt,chosen,rejected.")
            continue
        if len(cells) != len(names):
            problem = Unreadable(line, "", f"The row has {len(cells)} cells, and the header has {len(names)}.")
            if skipped is None:
                raise problem
            skipped.append(problem)
            continue
        yield line, dict(zip(names, cells, strict=True))
