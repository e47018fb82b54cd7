"""The files of a checkpoint one by one: what its manifest names, and which of them people may fetch. Reads no weights."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from app import storage
from app.checkpoints import service
from app.checkpoints.manifest import read_manifest
from app.checkpoints.tables import Checkpoint
from app.errors import NotFound

SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja", ".md"})
"""Kinds of files that can be fetched; the others are state that only the trainer reads."""

_MOST_HEADER_BYTES = 100 * 1024**2


@dataclass(frozen=True)
class Entry:
    """One file in a manifest."""

    name: str
    size: int
    sha256: str

    @property
    def is_open(self) -> bool:
        """Whether people may fetch it."""
        return "/" not in self.name and Path(self.name).suffix.lower() in SUFFIXES


def listed(checkpoint: Checkpoint) -> list[Entry]:
    """Files in the manifest, by name; none where there is no manifest."""
    if not checkpoint.path:
        return []
    try:
        manifest = read_manifest(storage.path(checkpoint.path))
    except ValueError:
        return []
    return [Entry(name, int(entry["size"]), str(entry["sha256"])) for name, entry in sorted(manifest["files"].items())]


def place_of(checkpoint: Checkpoint, name: str) -> Path:
    """Where a file lies that may be fetched.

    Raises:
        Conflict: the checkpoint is not ready.
        NotFound: it has no such file.
    """
    folder = service.folder_of(checkpoint)
    if not any(entry.name == name and entry.is_open for entry in listed(checkpoint)) or not (folder / name).is_file():
        raise NotFound(f"“{checkpoint.name}” has no file “{name[:100]}” that can be fetched. Its list of files names those there are.")
    return folder / name


def count_weights(checkpoint: Checkpoint) -> int | None:
    """How many weights the safetensors files hold, by their headers; None where that cannot be told."""
    total = 0
    for entry in listed(checkpoint):
        if not entry.name.endswith(".safetensors"):
            continue
        try:
            with open(storage.path(checkpoint.path or "") / entry.name, "rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size)) if size <= _MOST_HEADER_BYTES else {}
            total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
    return total or None


def file_out(checkpoint: Checkpoint, entry: Entry) -> dict[str, Any]:
    """The fields of `FileOut`."""
    there = checkpoint.status == "ready" and entry.is_open
    address = f"/api/v1/checkpoints/{checkpoint.id}/download?file={quote(entry.name)}" if there else None
    return {"name": entry.name, "size_bytes": entry.size, "sha256": entry.sha256, "download": address}
