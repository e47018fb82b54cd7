"""Rows of JSON Lines and of JSON files: one row at a time, depth and length checked before anything is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import orjson

from worker.parsers import MAX_DEPTH, Limits, Record, clean, decode, excerpt, too_long
from worker.reporting import Failed

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1024 * 1024
_BRACKETS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]', re.DOTALL)
_OUTSIDE_STRING = re.compile(rb'["{}\[\],]')
_IN_STRING = re.compile(rb'["\\]')


def layout(path: Path, head: bytes) -> str:
    """`json` for one list (or an object around it), `jsonl` for one row a line, whatever the file's name says."""
    text = head.removeprefix(_BOM).lstrip()
    if text.startswith(b"["):
        return "json"
    if path.suffix == ".jsonl":
        return "jsonl"
    if not text.startswith(b"{"):
        return "json"
    with open(path, "rb") as stream:
        first = stream.readline(_CHUNK).removeprefix(_BOM)
        while first and not first.strip():
            first = stream.readline(_CHUNK)
        try:
            orjson.loads(first)
        except orjson.JSONDecodeError:
            return "json"
        return "jsonl" if stream.read(4096).lstrip().startswith(b"{") else "json"


def lines(path: Path, limits: Limits) -> Iterator[Record]:
    """Rows of a JSONL file; a line that is too long is passed over without being held."""
    with open(path, "rb") as stream:
        number = at = 0
        while raw := stream.readline(limits.max_line_bytes + 2):
            number += 1
            at += len(raw)
            if number == 1:
                raw = raw.removeprefix(_BOM)
            if len(raw.rstrip(b"\r\n")) > limits.max_line_bytes:
                shown = excerpt(raw)
                at += _skip(stream, raw)
                yield Record(number, at, None, too_long(limits), shown)
                continue
            if not raw.strip():
                continue
            yield _record(raw, number, at, number, cut_off=not raw.endswith(b"\n"))


def _skip(stream: IO[bytes], raw: bytes) -> int:
    skipped = 0
    while raw and not raw.endswith(b"\n"):
        raw = stream.readline(_CHUNK)
        skipped += len(raw)
    return skipped


def _record(raw: bytes, number: int, at: int, line: int, *, cut_off: bool) -> Record:
    if _too_deep(raw):
        decode(raw, line)
        return Record(number, at, None, ("", f"Nested more than {MAX_DEPTH} levels deep."), excerpt(raw))
    try:
        row = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        text = decode(raw, line)
        if cut_off and (at_end := _stops(text)) is not None:
            return Record(
                number,
                at,
                None,
                ("", f"The file ends in the middle of this row{at_end}; it was probably cut off while being copied."),
                excerpt(raw),
            )
        return Record(number, at, None, ("", f"Not valid JSON: {_why(text, error)}."), excerpt(raw))
    if not isinstance(row, dict):
        return Record(
            number,
            at,
            None,
            ("", 'A row must be an object such as {"prompt": …, "completion": …}, and this is something else.'),
            excerpt(raw),
        )
    return Record(number, at, row)


def _too_deep(raw: bytes) -> bool:
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = 0
    for match in _BRACKETS.finditer(raw):
        sign = match[0]
        if sign in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif sign in (b"}", b"]"):
            depth -= 1
    return False


def _nan(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value; write null or leave the field out")


def _why(text: str, error: orjson.JSONDecodeError) -> str:
    """The parser's complaint in words; the standard library says it better, where it complains too."""
    try:
        json.loads(text, parse_constant=_nan)
    except json.JSONDecodeError as better:
        words = {
            "Expecting ',' delimiter": "expected “,”",
            "Expecting ':' delimiter": "expected “:”",
            "Expecting property name enclosed in double quotes": "expected a name in double quotes",
            "Expecting value": "expected a value",
            "Extra data": "there is more after the row has ended",
            "Unterminated string starting at": "a text is not closed that begins",
            "Invalid control character at": "a line break or control character inside a text,",
            "Invalid \\escape": "an unknown escape “\\…”",
        }
        return f"{words.get(better.msg.rstrip(': '), better.msg)} at column {better.pos - text.rfind(chr(10), 0, better.pos)}"
    except ValueError as constant:
        return str(constant)
    return f"{error.msg} at column {error.colno}"


def _stops(text: str) -> str | None:
    """Whether JSON is only unfinished: words to add ("", or where the open text begins), or None when it is wrong earlier."""
    try:
        json.loads(text, parse_constant=_nan)
    except json.JSONDecodeError as error:
        if error.msg.startswith("Unterminated string"):
            return f", in the text that begins at column {error.pos + 1}"
        back = 1 if error.msg.startswith("Expecting property name") else 0  # that one is reported at the comma before it
        return "" if error.pos >= len(text.rstrip()) - back else None
    except ValueError:
        return None
    return None


def array(path: Path, limits: Limits) -> Iterator[Record]:
    """Rows of a JSON file: one list of objects, or an object that holds one list. Numbered by their place in the list.

    Raises:
        Failed: there is no list, more than one, or something after it that is no JSON.
    """
    with open(path, "rb") as stream:
        if stream.read(3) != _BOM:
            stream.seek(0)
        yield from _Elements(stream, limits)


class _Elements:
    """Cuts the list of a JSON file into its entries with a scanner that only knows strings and brackets."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self._outside = bytearray()  # everything but the list's entries: must be JSON by itself
        self._kept = bytearray()  # the entry being read, from earlier chunks
        self._long = False
        self._depth = 0
        self._list_depth = 0  # depth inside the list while in it, else 0
        self._lists = 0
        self._number = 0
        self._line = 1
        self._at = 0

    def __iter__(self) -> Iterator[Record]:
        in_string, skip = False, 0
        while chunk := self._stream.read(_CHUNK):
            position, start = skip, 0
            skip = 0
            while match := (_IN_STRING if in_string else _OUTSIDE_STRING).search(chunk, position):
                sign, position = match[0], match.end()
                if in_string:
                    if sign == b'"':
                        in_string = False
                    else:
                        position += 1
                elif sign == b'"':
                    in_string = True
                elif sign in (b"{", b"["):
                    self._depth += 1
                    if sign == b"[" and not self._list_depth and self._depth <= 2:
                        self._take(chunk[start:position])
                        start = position
                        self._open()
                elif sign == b"," and self._list_depth == self._depth and self._list_depth:
                    self._take(chunk[start : position - 1])
                    start = position
                    yield self._entry(last=False)
                elif sign in (b"}", b"]"):
                    if sign == b"]" and self._list_depth == self._depth and self._list_depth:
                        self._take(chunk[start : position - 1])
                        start = position - 1
                        if self._kept.strip() or self._long or self._number:
                            yield self._entry(last=True)
                        self._kept.clear()
                        self._list_depth = 0
                    self._depth -= 1
            skip = max(0, position - len(chunk))
            self._take(chunk[start:])
            self._at += len(chunk)
        yield from self._end()

    def _open(self) -> None:
        self._lists += 1
        if self._lists > 1:
            raise Failed("The file holds more than one list, so it is unclear which one the rows are. Keep one list of objects.", "data")
        self._list_depth = self._depth

    def _take(self, piece: bytes) -> None:
        if not self._list_depth:
            self._outside += piece
            self._line += piece.count(b"\n")
            if len(self._outside) > self._limits.max_line_bytes:
                raise Failed(
                    "No list of rows was found at the beginning of the file. A JSON file is a list of objects: [{…}, {…}].", "data"
                )
        elif self._long or len(self._kept) + len(piece) > self._limits.max_line_bytes:
            if not self._long:
                self._line += self._kept.count(b"\n")
                self._kept += piece[: max(0, 1024 - len(self._kept))]
                del self._kept[1024:]
            self._long = True
            self._line += piece.count(b"\n")
        else:
            self._kept += piece

    def _entry(self, *, last: bool, cut_off: bool = False) -> Record:
        raw, self._kept = bytes(self._kept), bytearray()
        self._number += 1
        if self._long:
            self._long = False
            return Record(self._number, self._at, None, too_long(self._limits), excerpt(raw))
        line, self._line = self._line, self._line + raw.count(b"\n")
        if not raw.strip():
            return Record(
                self._number,
                self._at,
                None,
                ("", "There is a comma too many: no entry follows." if last else "There is no entry between two commas."),
            )
        return _record(raw, self._number, self._at, line, cut_off=cut_off)

    def _end(self) -> Iterator[Record]:
        if self._list_depth:
            if self._kept.strip() or self._long:
                yield self._entry(last=True, cut_off=True)
            else:
                yield Record(
                    self._number + 1,
                    self._at,
                    None,
                    ("", "The file ends before its list is closed; it was probably cut off while being copied."),
                )
            return
        text = decode(bytes(self._outside), 1)
        if _too_deep(bytes(self._outside)):
            raise Failed(f"The JSON is nested more than {MAX_DEPTH} levels deep.", "data")
        try:
            around: Any = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise Failed(f"Not valid JSON: {clean(_why(text, error))} (counted without the rows).", "data") from None
        if not self._lists:
            what = "an object without a list" if isinstance(around, dict) else "not a list"
            raise Failed(f"The file is {what}. A JSON file is a list of objects: [{{…}}, {{…}}].", "data")
