"""The manifest of a checkpoint folder: which files belong to it, with size and SHA-256. Needs no torch and no database."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from app.storage import fsync_file, fsync_folder, sha256

MANIFEST = "MANIFEST.json"


def _files(folder: Path) -> list[Path]:
    """Every file that counts, in a stable order: hidden ones (left by file managers and network disks) do not."""
    found = []
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_symlink():
            raise ValueError(f"{name} is a symbolic link; a checkpoint holds plain files only")
        if file.is_file() and name.as_posix() != MANIFEST and not any(part.startswith(".") for part in name.parts):
            found.append(file)
    return found


def _write(folder: Path, manifest: dict[str, Any]) -> None:
    """Put the manifest in place whole: a reader sees the old one or the new one."""
    temporary = folder / f".{MANIFEST}.new"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    fsync_file(temporary)
    os.replace(temporary, folder / MANIFEST)
    fsync_folder(folder)


def write_manifest(folder: Path, *, run_id: str | None, step: int | None, attempt: int | None, config_hash: str) -> dict[str, Any]:
    """Have the disk keep every file of a finished folder, then write and return its manifest.

    Args:
        config_hash: hash over the settings that made the weights; a checkpoint of other settings is not resumed.

    Raises:
        ValueError: the folder holds a symbolic link.
    """
    files = {}
    for file in _files(folder):
        fsync_file(file)
        files[file.relative_to(folder).as_posix()] = {"size": file.stat().st_size, "sha256": sha256(file)}
    for inner in {(folder / name).parent for name in files} - {folder}:
        fsync_folder(inner)
    manifest = {"files": files, "run_id": run_id, "step": step, "attempt": attempt, "config_hash": config_hash}
    _write(folder, manifest)
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, without checking the files it names.

    Raises:
        ValueError: it is missing or cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not all({"size", "sha256"} <= set(entry) for entry in manifest["files"].values()):
            raise KeyError("files")
    except FileNotFoundError:
        raise ValueError(f"{MANIFEST} is missing") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        raise ValueError(f"{MANIFEST} cannot be read") from None
    return dict(manifest)


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Check every file of a folder against its manifest and return the manifest.

    Raises:
        ValueError: a file is missing, too much, of another size or with another content; the message names it.
    """
    manifest = read_manifest(folder)
    named: dict[str, dict[str, Any]] = manifest["files"]
    present = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    for name in named.keys() - present.keys():
        raise ValueError(f"{name} is missing")
    for name in present.keys() - named.keys():
        raise ValueError(f"{name} is not in {MANIFEST}")
    for name, entry in named.items():
        size = present[name].stat().st_size
        if size != entry["size"]:
            raise ValueError(f"{name} has {size} bytes in place of {entry['size']}")
    for name, entry in named.items():
        if sha256(present[name]) != entry["sha256"]:
            raise ValueError(f"{name} has another content than when it was written")
    return manifest


def update_entry(folder: Path, name: str) -> dict[str, Any]:
    """Write the manifest again after one of its files was rewritten on purpose.

    Raises:
        ValueError: the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    file = folder / name
    fsync_file(file)
    manifest["files"][name] = {"size": file.stat().st_size, "sha256": sha256(file)}
    _write(folder, manifest)
    return manifest


def weights_sha256(manifest: dict[str, Any]) -> str:
    """Hash over the names and SHA-256 of the safetensors files: the same weights have the same hash wherever they lie."""
    digest = hashlib.sha256()
    for name, entry in sorted(manifest["files"].items()):
        if name.endswith(".safetensors"):
            digest.update(f"{name}\0{entry['sha256']}\n".encode())
    return digest.hexdigest()


def folder_size(manifest: dict[str, Any]) -> int:
    """Size of all files the manifest names, in bytes."""
    return sum(int(entry["size"]) for entry in manifest["files"].values())
