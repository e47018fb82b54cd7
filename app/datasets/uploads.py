"""Takes an upload off the wire straight to disk: one copy, never whole in memory, nothing left behind when it fails. Writes no row."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app import storage
from app.database import new_id
from app.datasets import glance
from app.datasets.schemas import clean_file_name, format_of
from app.errors import BadRequest, Invalid, TooLarge

_FOLDER = "datasets"
_MARK = ".upload-"
_FIELD_BYTES = 64 * 1024
_MAX_PARTS = 32
_FORGOTTEN_SECONDS = 24 * 3600
_HOW = "Send the form as multipart/form-data with a field `file` (or pasted rows in `text`) and a field `name`."


class Received:
    """A complete upload in its temporary folder: removed at the end of the request, unless it was kept."""

    def __init__(self, folder: Path) -> None:
        self.dataset_id = new_id("ds")
        self.folder = folder / f"{_MARK}{self.dataset_id}"
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self.kind = ""
        self.size = 0
        self.sha256 = ""
        self._kept = False

    @property
    def path(self) -> str:
        """Where the dataset will lie, relative to the storage folder."""
        return f"{_FOLDER}/{self.dataset_id}"

    def place(self) -> None:
        """Give the folder its name, inside the transaction that writes the row."""
        target = storage.path(self.path)
        self.folder.rename(target)
        self.folder = target
        storage.fsync_folder(target.parent)

    def keep(self) -> None:
        """The row is committed: the folder stays."""
        self._kept = True

    def clean_up(self) -> None:
        """Remove what was not kept."""
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)


class _Parts:
    """Callbacks of the multipart parser: small fields into memory, file and pasted text into a file each."""

    def __init__(self, received: Received, limit: int) -> None:
        self._received, self._limit = received, limit
        self._header_name = self._header_value = b""
        self._disposition: dict[bytes, bytes] = {}
        self._parts = 0
        self._name = ""
        self._field = bytearray()
        self._out: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self.complete = False
        self.sources: dict[str, tuple[str, int, str]] = {}
        """`file` and `text`: name, size and hash of those that hold anything."""

    def on_part_begin(self) -> None:
        self._parts += 1
        self._disposition, self._name = {}, ""
        if self._parts > _MAX_PARTS:
            raise BadRequest(f"The form has more than {_MAX_PARTS} fields.")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, self._disposition = parse_options_header(self._header_value)
        self._header_name = self._header_value = b""

    def on_headers_finished(self) -> None:
        self._name = self._disposition.get(b"name", b"").decode("utf-8", errors="replace")
        self._field, self._size, self._hash = bytearray(), 0, hashlib.sha256()
        if self._name in ("file", "text"):
            if self._name in self.sources:
                raise BadRequest("Upload one file at a time.")
            self._out = open(self._received.folder / self._name, "wb")  # noqa: SIM115  # closed at the end of the part and in close()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._out is not None:
            self._size += end - start
            if self._size > self._limit:
                raise TooLarge(
                    f"The file is larger than the {self._limit:,} bytes that are taken. Split it, or ask an admin to raise "
                    "LUTHIER_MAX_UPLOAD_BYTES.",
                    field="file",
                )
            piece = memoryview(data)[start:end]
            self._out.write(piece)
            self._hash.update(piece)
            return
        self._field += data[start:end]
        if len(self._field) > _FIELD_BYTES:
            raise TooLarge(f"The field “{self._name[:50]}” is longer than {_FIELD_BYTES:,} bytes.", field=self._name[:50])

    def on_part_end(self) -> None:
        if self._out is not None:
            self._out.close()
            self._out = None
            if self._size:
                name = clean_file_name(self._disposition.get(b"filename", b"").decode("utf-8", errors="replace"))
                self.sources[self._name] = (name, self._size, self._hash.hexdigest())
            elif self._disposition.get(b"filename") and self._name == "file":
                raise Invalid("The file is empty. Upload one with at least one row.", field="file")
            return
        self._received.fields[self._name] = self._field.decode("utf-8", errors="replace")

    def on_end(self) -> None:
        self.complete = True

    def close(self) -> None:
        if self._out is not None:
            self._out.close()

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end", "end")
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}


@asynccontextmanager
async def receive(request: Request, limit: int) -> AsyncIterator[Received]:
    """Read the body of a request to disk; what the block does not keep is removed.

    Raises:
        BadRequest: not a form, or it broke off.
        TooLarge: the file is larger than `limit` bytes.
        Invalid: no file, or not a kind that is taken.
        DiskFull: no room; nothing is left behind.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BadRequest(_HOW)
    folder = storage.root() / _FOLDER
    received = Received(folder)
    parts = _Parts(received, limit)
    try:
        with storage.disk_errors("the upload"):
            await run_in_threadpool(_make_room, received.folder)
            try:
                parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]  # a typed dict of the same callbacks
                async for piece in request.stream():
                    await run_in_threadpool(parser.write, piece)
                parser.finalize()
            except FormParserError:
                raise BadRequest(f"The form cannot be read. {_HOW}") from None
            except ClientDisconnect:
                raise BadRequest("The upload broke off before its end; nothing of it was kept. Send it again.") from None
            if not parts.complete:
                raise BadRequest("The upload broke off before its end; nothing of it was kept. Send it again.")
            await run_in_threadpool(_settle, received, parts)
        yield received
    finally:
        parts.close()
        await run_in_threadpool(received.clean_up)


def _make_room(folder: Path) -> None:
    """Make the folder of an upload, and remove those a killed server left."""
    folder.mkdir(parents=True)
    for forgotten in folder.parent.glob(f"{_MARK}*"):
        if forgotten != folder and time.time() - forgotten.stat().st_mtime > _FORGOTTEN_SECONDS:
            shutil.rmtree(forgotten, ignore_errors=True)


def _name_of_pasted(file: Path) -> str:
    """A name that says how pasted text is read."""
    with open(file, "rb") as stream:
        kind = glance.recognise(stream.read(glance.HEAD_BYTES).decode("utf-8", errors="replace"))
    if kind is None:
        raise Invalid(glance.NO_IDEA, field="text")
    return f"pasted.{kind}"


def _settle(received: Received, parts: _Parts) -> None:
    """Name the source by its format and have the disk keep it."""
    if not parts.sources:
        raise Invalid("Choose a file, or paste rows.", field="file")
    if len(parts.sources) > 1:
        raise Invalid("Send a file or pasted rows, not both.", field="text")
    [(part, (name, received.size, received.sha256))] = parts.sources.items()
    received.file_name = name if part == "file" else _name_of_pasted(received.folder / part)
    received.kind = format_of(received.file_name)
    for other in ("file", "text"):
        if other != part:
            (received.folder / other).unlink(missing_ok=True)
    source = received.folder / f"source.{received.kind}"
    (received.folder / part).rename(source)
    storage.fsync_file(source)
    storage.fsync_folder(received.folder)
