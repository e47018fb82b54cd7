"""Fetch a checkpoint from a studio: have it packed, download the file in resumable pieces, check it, unpack it within one folder."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import time
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

from app.commands import bars, output
from app.commands.client import Refused, Studio
from app.commands.datasets import wait_until_ready
from app.errors import Invalid, StudioError, Unavailable

TRIES = 8
PIECE = 1024**2


def pull(studio: Studio, wanted: str, to: Path | None, kind: str | None, dtype: str) -> tuple[Path, list[str]]:
    """Fetch a checkpoint; the folder it is in, and the names of its files.

    Raises:
        Invalid: the folder is there already, or the format is not one.
        StudioError: what came is not what the studio has, or it cannot be packed.
    """
    if kind not in (None, "adapter", "merged"):
        raise Invalid(f"There is no format “{kind}”; there are adapter and merged.", field="format")
    checkpoint = studio.find("checkpoints", wanted)
    kind = kind or ("adapter" if checkpoint["kind"] == "adapter" else "merged")
    folder = to or Path(_plain_name(checkpoint["name"]))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Invalid(f"{folder} is there already and not empty. Name another folder with --to.", field="to")
    export = _packed(studio, checkpoint["id"], kind, dtype)
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.parent / f".luthier-{export['id']}.part"  # named by the export, so that another try goes on with it
    fetch(studio, export, archive)
    files = unpack(archive, folder)
    archive.unlink()
    return folder, files


def _packed(studio: Studio, checkpoint_id: str, kind: str, dtype: str) -> dict[str, Any]:
    """An export that is ready: one that is there, else a new one.

    Raises:
        StudioError: it could not be made.
    """
    found = [
        each
        for each in studio.get("/exports", checkpoint=checkpoint_id, limit=50)["data"]
        if (each["format"], each["dtype"], each["status"]) == (kind, dtype, "ready")
    ]
    if found:
        return dict(found[0])
    export = studio.post("/exports", {"checkpoint": checkpoint_id, "format": kind, "dtype": dtype})
    export = wait_until_ready(studio, f"/exports/{export['id']}", export, busy="exporting")
    if export["status"] != "ready":
        raise StudioError(f"The checkpoint could not be packed: {export['reason'] or 'the reason is not known'}")
    return export


def fetch(studio: Studio, export: dict[str, Any], archive: Path) -> None:
    """Download the packed file, going on from what is there, and check it.

    Raises:
        StudioError: the file is not the one the studio has.
        Unavailable: the studio stayed away.
    """
    total = int(export["size_bytes"])
    if archive.exists() and archive.stat().st_size > total:
        archive.unlink()
    done = archive.stat().st_size if archive.exists() else 0
    with bars.transfer(f"Fetching {export['file_name']}", total, done) as advance:
        for attempt in range(1, TRIES + 1):
            done = archive.stat().st_size if archive.exists() else 0
            if done == total:
                break
            try:
                with studio.download(f"/exports/{export['id']}/file", done) as answer:
                    if done and answer.status_code != 206:  # a server that knows no ranges sends everything again
                        advance(-done)
                        done = 0
                    with open(archive, "ab" if done else "wb") as stream:
                        for piece in answer.iter_raw():  # as it comes, so that nothing that came is lost
                            stream.write(piece)
                            advance(len(piece))
            except (Unavailable, Refused) as error:
                if attempt == TRIES or (isinstance(error, Refused) and error.status < 500):
                    raise
                time.sleep(min(8.0, 0.5 * 2**attempt))
    with open(archive, "rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if archive.stat().st_size != total or found != export["sha256"]:
        archive.unlink()
        raise StudioError("What was fetched is not what the studio has (its SHA-256 differs), and was thrown away. Try again.")


def unpack(archive: Path, folder: Path) -> list[str]:
    """Unpack an archive into a new folder, whole or not at all; nothing of it can lie elsewhere.

    Raises:
        StudioError: it holds a path that leads out of the folder, a link, or more than fits on the disk.
    """
    temporary = folder.parent / f".{folder.name}.unpacking"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = [each for each in packed.infolist() if not each.filename.endswith("/")]
            names = [_safe(each) for each in entries]
            if len({name.lower() for name in names}) != len(names):
                raise StudioError("The archive names a file twice, so it was not unpacked.")
            if sum(each.file_size for each in entries) > shutil.disk_usage(folder.parent).free:
                raise StudioError(f"There is not enough room in {folder.parent} to unpack it.")
            inner = _common(names)
            temporary.mkdir(mode=0o755)
            for entry, name in zip(entries, names, strict=True):
                target = temporary / (name.removeprefix(f"{inner}/") if inner else name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, open(target, "xb") as stream:
                    shutil.copyfileobj(source, stream, PIECE)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        temporary.rename(folder)
    except zipfile.BadZipFile:
        raise StudioError("What the studio packed cannot be unpacked. Delete the export there and try again.") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def _safe(entry: zipfile.ZipInfo) -> str:
    """The path of an archive's entry.

    Raises:
        StudioError: it is none that may be written.
    """
    path = PurePosixPath(entry.filename)
    mode = entry.external_attr >> 16
    odd = "\\" in entry.filename or "\x00" in entry.orig_filename or ":" in entry.filename
    if odd or path.is_absolute() or ".." in path.parts or not path.parts or (mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)):
        raise StudioError(
            f"The archive holds “{output.plain(entry.filename)[:100]}”, which is no plain file of its own, so nothing was unpacked."
        )
    return str(path)


def _common(names: list[str]) -> str:
    """The one folder that holds everything in an archive, if there is one."""
    heads = {name.partition("/")[0] for name in names}
    return heads.pop() if len(heads) == 1 and all("/" in name for name in names) else ""


def _plain_name(name: str) -> str:
    """A checkpoint's name as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "checkpoint"
