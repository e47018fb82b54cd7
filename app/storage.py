"""Files of the studio on disk: where they lie, how they are written whole or not at all. Knows no noun."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from app.errors import DiskFull
from app.settings import get_settings


def root() -> Path:
    """Folder of datasets and checkpoints; rows hold paths relative to it."""
    return get_settings().storage


def path(relative: str) -> Path:
    """Absolute path of a stored file or folder.

    Raises:
        ValueError: the path leaves the storage folder.
    """
    full = (root() / relative).resolve()
    if not full.is_relative_to(root().resolve()):
        raise ValueError(f"{relative} lies outside the storage folder")
    return full


def relative(full: Path) -> str:
    """The form of a path that rows hold."""
    return full.resolve().relative_to(root().resolve()).as_posix()


def fsync_file(file: Path) -> None:
    """Have the disk keep a file's content."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


fsync_folder = fsync_file  # a folder is synced through a descriptor just as a file is


def keep_lines(file: Path, records: Iterable[Any]) -> None:
    """Write a file of JSON lines whole, or not at all, and have the disk keep it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as stream:
            stream.writelines(orjson.dumps(record) + b"\n" for record in records)
        fsync_file(temporary)
        temporary.rename(file)
        fsync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def lines(file: Path) -> list[Any]:
    """The records of a file of JSON lines."""
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def sha256(file: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Size of all files below a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def free_bytes(folder: Path | None = None) -> int:
    """Room left on the disk of a folder, in bytes."""
    place = folder or root()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn "no space left" into a sentence that says what could not be written.

    Raises:
        DiskFull: the disk or the quota is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"The disk is full: {what} could not be written and nothing of it was kept. Free some space in {root()} and try again."
            ) from error
        raise


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that becomes `target` whole at the end, or vanishes when the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".tmp-{target.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync_file(file)
        fsync_folder(temporary)
        temporary.rename(target)
        fsync_folder(target.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove(relative_path: str) -> None:
    """Remove a stored file or folder, if it is there."""
    place = path(relative_path)
    if place.is_dir():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)
