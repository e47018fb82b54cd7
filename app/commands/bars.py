"""Bars for what takes long: bytes on their way, a worker at work. On a terminal only; elsewhere a line now and then, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from app.commands import output

Advance = Callable[[int], None]


def watched() -> bool:
    """Whether somebody looks at a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


@contextmanager
def transfer(what: str, total: int | None, done: int = 0) -> Iterator[Advance]:
    """A bar of bytes; the block calls what it is given with each count of bytes."""
    if not watched():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(output.plain(what), total=total, completed=done)
        yield lambda count: progress.advance(task, count)


@contextmanager
def waiting() -> Iterator[Callable[[str, float | None], None]]:
    """A bar of a share, with words; the block calls what it is given with both. Without a terminal: a line when the words change."""
    if not watched():
        said = ""

        def line(words: str, share: float | None) -> None:
            nonlocal said
            text = output.plain(f"{words}{f' {share:.0%}' if share is not None else ''}")
            if text != said:
                output.note(text)
                said = text

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

    with Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task("", total=None)

        def bar(words: str, share: float | None) -> None:
            progress.update(task, description=output.plain(words), total=1.0 if share is not None else None, completed=share or 0.0)

        yield bar


class Watched:
    """A file that tells how much of it was read."""

    def __init__(self, stream: IO[bytes], advance: Advance) -> None:
        self._stream, self._advance = stream, advance

    def read(self, size: int = -1) -> bytes:
        """Read, and tell."""
        piece = self._stream.read(size)
        self._advance(len(piece))
        return piece

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
