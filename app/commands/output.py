"""What commands print: JSON for programs, aligned columns for people. Asks nobody anything."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from app.errors import Invalid


def plain(text: object) -> str:
    """Text without control characters: what came from data must not steer the terminal."""
    return "".join(
        character if character.isprintable() or character == " " else "�" for character in str(text).replace("\n", " ").replace("\t", " ")
    )


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table(titles: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, upper: bool = True) -> None:
    """Print rows in columns as wide as they need, or a sentence when there is none."""
    titles = [plain(title.upper() if upper else title) for title in titles]
    texts = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    if not texts:
        print(empty)
        return
    widths = [max(len(title), *(len(row[column]) for row in texts)) for column, title in enumerate(titles)]
    for row in [titles, *texts]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fields(values: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line; those without a value are left out."""
    shown = [(name, value) for name, value in values if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print(f"{name.ljust(width)}  {plain(value)}")


def note(text: str) -> None:
    """Tell people something that is not part of the result (standard error)."""
    print(text, file=sys.stderr, flush=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is lost.

    Raises:
        Invalid: the answer is no, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Invalid(f"{question} There is nobody to ask here: add --yes.")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Invalid("Nothing was deleted.")


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float | None, missing: str = "–") -> str:
    """A number with four significant digits."""
    return missing if value is None else f"{value:.4g}"


def size(count: int | None) -> str:
    """A number of bytes in the unit that fits."""
    if count is None:
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"
