"""Datasets going out: usable rows as JSONL, CSV or Parquet, and the report of problems; all piece by piece. Changes nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy.orm import Session

from app import shapes
from app.datasets import service
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid

EXPORTS = {"jsonl": "application/jsonl", "csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_BATCH_ROWS = 2000
T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of at most so many."""
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def problem_report(session: Session, workspace_id: str, dataset_id: str) -> Iterator[str]:
    """The kept problems as CSV, line by line."""
    found = service.problems(session, workspace_id, dataset_id, limit=10_000)
    header = ["line", "severity", "field", "message", "excerpt"]
    table = [[problem.line, problem.severity, problem.field, problem.message, problem.excerpt] for problem in found]
    yield from _csv(header, iter(table))


def export(dataset: Dataset, kind: str) -> Iterator[bytes]:
    """The usable rows in their canonical fields, as JSONL, CSV or Parquet, piece by piece.

    Raises:
        Invalid: no such format.
        Conflict: it is not ready.
    """
    if kind not in EXPORTS:
        raise Invalid(f"There is no export as “{kind[:20]}”. There are {', '.join(EXPORTS)}.", field="format")
    if dataset.status != "ready":
        raise Conflict(f"“{dataset.name}” is {dataset.status}, so there are no rows to export.")
    file = service.rows_file(dataset)
    if kind == "jsonl":
        return _as_jsonl(file)
    return _as_csv(file, dataset.shape or "text") if kind == "csv" else _as_parquet(file, dataset.shape or "text")


def _as_jsonl(file: Path) -> Iterator[bytes]:
    with open(file, "rb") as stream:
        for line in stream:
            yield orjson.dumps(orjson.loads(line)["row"]) + b"\n"


def _as_csv(file: Path, shape: str) -> Iterator[bytes]:
    fields = _fields(file, shape)

    def table() -> Iterator[list[Any]]:
        with open(file, "rb") as stream:
            for line in stream:
                row = orjson.loads(line)["row"]
                values = ["" if row.get(name) is None else row[name] for name in fields]
                yield [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]

    return (piece.encode() for piece in _csv(fields, table()))


def _fields(file: Path, shape: str) -> list[str]:
    """The columns of a table: the fields of the shape, and of those a row may have the ones that some row has."""
    known = shapes.SHAPES[shape]
    wanted = set(known.optional)
    found: set[str] = set()
    for row in _rows(file) if wanted else ():
        found |= wanted & row.keys()
        if found == wanted:
            break
    return [*known.fields, *(name for name in known.optional if name in found)]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as stream:
        for line in stream:
            yield orjson.loads(line)["row"]


def _as_parquet(file: Path, shape: str) -> Iterator[bytes]:
    """Columns keep their kind: text, messages, true or false, number; one whose rows differ in kind becomes text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = _fields(file, shape)
    kinds: dict[str, set[type]] = {name: set() for name in fields}
    for row in _rows(file):
        for name in fields:
            if row.get(name) is not None:
                kinds[name].add(type(row[name]))
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    types = {str: pa.string(), list: messages, bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    alike = {name: next(iter(found)) for name, found in kinds.items() if len(found) == 1}
    schema = pa.schema([(name, types[alike[name]] if name in alike else pa.string()) for name in fields])

    def value(row: dict[str, Any], name: str) -> Any:
        found = row.get(name)
        return found if name in alike or found is None or isinstance(found, str) else json.dumps(found, ensure_ascii=False)

    out = _Pieces()
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for rows in batched(_rows(file), _BATCH_ROWS):
            writer.write_table(pa.table({name: [value(row, name) for row in rows] for name in fields}, schema=schema))
            yield out.take()
    yield out.take()


class _Pieces(io.RawIOBase):
    """A file that is handed on while it is written."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        self._kept += data
        self._at += len(data)
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        piece, self._kept = bytes(self._kept), bytearray()
        return piece


def _csv(header: list[str], table: Iterator[list[Any]]) -> Iterator[str]:
    """CSV in which no cell is taken for a formula by a spreadsheet."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(header)
    for cells in table:
        writer.writerow([f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell for cell in cells])
        if buffer.tell() > 64 * 1024:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()
