"""Rows of CSV and of Parquet files: a header or schema first, then one row at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from worker.parsers import MAX_DEPTH, Limits, Record, clean, decode, excerpt, too_long
from worker.reporting import Failed

_BOM = b"\xef\xbb\xbf"
_CHUNK = 1024 * 1024
_DELIMITERS = ",;\t|"
_BATCH_ROWS = 256
_PIECE_ROWS = 16  # turned into Python objects at a time


class _TooLong(Exception):
    """A line, or a quoted value over several lines, is longer than allowed."""


class _Lines:
    """Decoded lines of a CSV file for `csv.reader`; counts lines and bytes, and can go on after a line that was too long."""

    def __init__(self, stream: IO[bytes], limits: Limits) -> None:
        self._stream, self._limits = stream, limits
        self.line = self.at = 0
        self.of_row = 0  # bytes of the row being read
        self.first = ""  # its first line

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._stream.readline(self._limits.max_line_bytes + 2)
        if not raw:
            raise StopIteration
        self.line += 1
        self.at += len(raw)
        if len(raw) > self._limits.max_line_bytes and not raw.endswith(b"\n"):
            self.first = excerpt(raw)
            while raw and not raw.endswith(b"\n"):
                raw = self._stream.readline(_CHUNK)
                self.at += len(raw)
            raise _TooLong
        if self.line == 1:
            raw = raw.removeprefix(_BOM)
        text = decode(raw, self.line)
        if not self.of_row:
            self.first = excerpt(raw)
        self.of_row += len(raw)
        if self.of_row > self._limits.max_line_bytes:
            raise _TooLong
        return text


def _delimiter(header: str) -> str:
    """The sign that cuts the header into most columns; the comma where none does."""
    counts = {sign: len(next(csv.reader([header], delimiter=sign), [])) for sign in _DELIMITERS}
    return max(_DELIMITERS, key=lambda sign: counts[sign])


def delimited(path: Path, limits: Limits) -> Iterator[Record]:
    """Rows of a CSV file with a header; a quoted value may span lines. Each row has the number of its first line.

    Raises:
        Failed: no usable header, not UTF-8, or a quote that is never closed; the reason names the line.
    """
    csv.field_size_limit(limits.max_line_bytes + 1)
    with open(path, "rb") as probe:
        delimiter = _delimiter(decode(probe.readline(_CHUNK).removeprefix(_BOM), 1))
    with open(path, "rb") as stream:
        lines = _Lines(stream, limits)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            columns = [clean(name.strip()) for name in next(reader, [])]
        except (csv.Error, _TooLong) as error:
            raise Failed(f"The header in line 1 cannot be read: {str(error) or 'it is too long'}.", "data") from None
        _check_header(columns)
        while True:
            number, lines.of_row = lines.line + 1, 0
            try:
                values = next(reader)
            except StopIteration:
                return
            except _TooLong:
                if lines.line > number:
                    raise Failed(
                        f"The quote opened in line {number} is not closed within {limits.max_line_bytes:,} bytes. Close it, or double "
                        "the quotes inside a value.",
                        "data",
                    ) from None
                yield Record(number, lines.at, None, too_long(limits), lines.first)
                continue
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise Failed(
                        f"The quote opened in the row of line {number} is never closed, so the rest of the file belongs to it. Close it "
                        "and upload again.",
                        "data",
                    ) from None
                yield Record(number, lines.at, None, ("", f"Not valid CSV: {error}."), lines.first)
                continue
            if not values:
                continue
            if len(values) != len(columns):
                words = f"The row has {len(values)} values, and the header has {len(columns)} columns."
                yield Record(number, lines.at, None, ("", words), lines.first)
                continue
            yield Record(number, lines.at, dict(zip(columns, values, strict=True)))


def _check_header(columns: list[str]) -> None:
    if not columns or not any(columns):
        raise Failed("Line 1 holds no column names. A CSV file begins with a header such as prompt,completion.", "data")
    if "" in columns:
        raise Failed(f"Column {columns.index('') + 1} of the header in line 1 has no name. Name every column.", "data")
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise Failed(f"The header in line 1 names the column “{twice}” twice. Give each column its own name.", "data")


def parquet(path: Path, limits: Limits) -> Iterator[Record]:
    """Rows of a Parquet file, a few at a time. What its metadata promises is checked before anything is unpacked.

    Raises:
        Failed: not readable as Parquet, or it would unpack to more than the limits allow.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_memory_pool(pa.system_memory_pool())  # the others reserve more address space than the limit on this process
    total = path.stat().st_size
    try:
        with pq.ParquetFile(path, memory_map=False, buffer_size=_CHUNK, pre_buffer=False) as file:
            _check_metadata(file.metadata, limits)
            number, unpacked = 0, 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for start in range(0, batch.num_rows, _PIECE_ROWS):
                    for row in batch.slice(start, _PIECE_ROWS).to_pylist():
                        number += 1
                        size = _bytes(row)
                        unpacked += size
                        if unpacked > limits.max_bytes:
                            raise Failed(_unpacks(limits), "data")
                        yield _parquet_row(number, total * number // max(1, file.metadata.num_rows), row, size, limits)
    except (pa.ArrowMemoryError, MemoryError):
        raise Failed(
            "The file needs more memory to unpack than one upload may take. Write it with smaller row groups, or as JSONL.", "memory"
        ) from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Failed(
            f"Not readable as Parquet: {clean(str(error).splitlines()[0][:200])}. Upload the file again; it may be cut off.", "data"
        ) from None


def _check_metadata(metadata: Any, limits: Limits) -> None:
    if metadata.num_rows > limits.max_rows:
        raise Failed(f"The file has {metadata.num_rows:,} rows, and a dataset may have {limits.max_rows:,}. Split it.", "data")
    total = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if total > limits.max_bytes:
        raise Failed(_unpacks(limits), "data")


def _unpacks(limits: Limits) -> str:
    return f"The file unpacks to more than {limits.max_bytes:,} bytes, the most an upload may have. Split it."


def _parquet_row(number: int, at: int, row: dict[str, Any], size: int, limits: Limits) -> Record:
    if _depth(row) > MAX_DEPTH:
        return Record(number, at, None, ("", f"Nested more than {MAX_DEPTH} levels deep."))
    if size > limits.max_line_bytes:
        return Record(number, at, None, too_long(limits))
    return Record(number, at, row)


def _depth(value: Any) -> int:
    deepest, waiting = 0, [(value, 1)]
    while waiting:
        each, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return depth
        deepest = max(deepest, depth)
        inner = each.values() if isinstance(each, dict) else each
        waiting += [(item, depth + 1) for item in inner if isinstance(item, dict | list | tuple)]
    return deepest


def _bytes(value: Any) -> int:
    total, waiting = 0, [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
        else:
            total += len(each) if isinstance(each, str | bytes) else 8
    return total
