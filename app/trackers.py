"""Where the TensorBoard files of runs lie, and how they are handed out. Writes none; a worker does."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from app import storage
from app.errors import NotFound

PIECE = 1024**2


def folder(run_id: str) -> Path:
    """Folder of a run's event files; `tensorboard --logdir` takes it, or the folder of all runs above it."""
    return storage.path(f"runs/{run_id}/tensorboard")


def state_file(run_id: str) -> Path:
    """Where a worker notes what trackers have of a run."""
    return storage.path(f"runs/{run_id}/trackers.json")


def event_files(run_id: str) -> list[Path]:
    """The event files of a run; none before its first checkpoint."""
    place = folder(run_id)
    return sorted(file for file in place.iterdir() if ".tfevents." in file.name) if place.is_dir() else []


def zipped(run_id: str) -> Iterator[bytes]:
    """The event files of a run as one archive, made on disk and read in pieces.

    Raises:
        NotFound: the run has none yet.
    """
    files = event_files(run_id)
    if not files:
        raise NotFound("This run has no TensorBoard file yet; a worker writes it with each checkpoint.")
    archive = tempfile.TemporaryFile()  # noqa: SIM115  # read after this function has ended, and closed there
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, f"{run_id}/{file.name}")
    archive.seek(0)
    return _pieces(archive)


def _pieces(archive: IO[bytes]) -> Iterator[bytes]:
    with archive:
        while piece := archive.read(PIECE):
            yield piece
