"""Reading a source file row by row, whatever its format, within bounded memory. Knows no row shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.reporting import Failed

MAX_DEPTH = 32
EXCERPT = 200
_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive"),
    (b"Rar!", "a rar archive"),
)


@dataclass(slots=True)
class Record:
    """One row of a source: its values, or what is wrong with it (`field`, `message`)."""

    line: int
    """Line (JSONL, CSV) or place in the list (JSON, Parquet), from 1."""
    at: int
    """Bytes of the source read so far, for progress."""
    row: dict[str, Any] | None
    problem: tuple[str, str] | None = None
    excerpt: str = ""


@dataclass(frozen=True)
class Limits:
    """How large a source may be."""

    max_line_bytes: int
    max_rows: int
    max_bytes: int


def archive_kind(head: bytes) -> str | None:
    """What a file is in words, when its first bytes say that it is packed."""
    return next((words for magic, words in _ARCHIVES if head.startswith(magic)), None)


def open_records(path: Path, kind: str, limits: Limits) -> Iterator[Record]:
    """Rows of a source file.

    Args:
        kind: jsonl, json, csv or parquet.

    Raises:
        Failed: the file is not what it says it is, or not UTF-8; the reason names the line.
    """
    with open(path, "rb") as stream:
        head = stream.read(4096)
    if not head:
        raise Failed("The file is empty. Upload one with at least one row.", "data")
    packed = archive_kind(head)
    if packed:
        raise Failed(f"The file is {packed}. Unpack it and upload what is inside.", "data")
    if kind == "parquet":
        from worker.parsers_table import parquet

        return parquet(path, limits)
    if head.startswith(b"PAR1"):
        raise Failed("The file is Parquet, but its name says otherwise. Give it a name that ends in .parquet and upload it again.", "data")
    refuse_utf16(head)
    if kind == "csv":
        from worker.parsers_table import delimited

        return delimited(path, limits)
    from worker import parsers_json

    readers: dict[str, Callable[[Path, Limits], Iterator[Record]]] = {"jsonl": parsers_json.lines, "json": parsers_json.array}
    return readers[parsers_json.layout(path, head)](path, limits)


def unit_of(path: Path, kind: str) -> str:
    """What the rows of a source are numbered by: its lines, or their place ("row") where lines say nothing."""
    if kind in ("csv", "parquet"):
        return "line" if kind == "csv" else "row"
    from worker import parsers_json

    with open(path, "rb") as stream:
        return "line" if parsers_json.layout(path, stream.read(4096)) == "jsonl" else "row"


def refuse_utf16(head: bytes) -> None:
    """Refuse a text file in UTF-16 or UTF-32 by its first bytes.

    Raises:
        Failed: it is in one of them, or not text at all.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        raise Failed(
            "Line 1 is not UTF-8: the file begins like UTF-16. Save it as UTF-8 (in Excel: “CSV UTF-8”) and upload it again.", "data"
        )
    if b"\x00" in head:
        looks = (
            "it looks like UTF-16 without a mark. Save it as UTF-8"
            if head.count(b"\x00") > len(head) // 4
            else "it looks like a binary file"
        )
        line = head[: head.index(b"\x00")].count(b"\n") + 1
        raise Failed(
            f"Line {line} holds a NUL byte: {looks} and upload it again." if "Save" in looks else f"Line {line} holds a NUL byte: {looks}.",
            "data",
        )


def decode(raw: bytes, line: int) -> str:
    """Text of one line (or of an entry that begins in it).

    Raises:
        Failed: it is not UTF-8; the reason names the line and the byte, and what to do.
    """
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        at = line + raw.count(b"\n", 0, error.start)
        column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
        raise Failed(
            f"Line {at} is not UTF-8 (byte 0x{raw[error.start]:02X} at column {column}). The file is probably in Latin-1 or Windows-1252: "
            "save it as UTF-8 and upload it again. Nothing was guessed.",
            "data",
        ) from None


def too_long(limits: Limits) -> tuple[str, str]:
    """The problem of a line over the limit."""
    return ("", f"The line is longer than {_size(limits.max_line_bytes)}, the most a row may have.")


def excerpt(raw: bytes) -> str:
    """The beginning of a line, for people to recognise it by."""
    text = raw[: EXCERPT * 4].decode("utf-8", errors="replace").strip()
    return clean(text if len(text) <= EXCERPT else text[:EXCERPT] + "…")


def clean(text: str) -> str:
    """Text without NUL characters, which a database cannot keep."""
    return text.replace("\x00", "␀")


def _size(count: int) -> str:
    return f"{count / 1024**2:g} MiB" if count >= 1024**2 else f"{count / 1024:g} KiB"
