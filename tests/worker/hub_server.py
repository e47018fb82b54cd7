"""A model hub on this machine: the few endpoints huggingface_hub uses, over a folder, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves one repository, `owner/model`, at the branch main and the tag v1."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.refusals: list[int] = []
        """Status codes to answer the next requests with."""
        self.cuts = 0
        """How many of the next large downloads end in the middle."""
        self.corrupt: set[str] = set()
        """Files that come with another content than announced."""
        self.gated = False
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        """Address of the hub."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def is_large(self, name: str) -> bool:
        """Whether the repository keeps a file with LFS."""
        return name.endswith((".safetensors", ".bin"))

    def sibling(self, file: Path) -> dict[str, Any]:
        """What the repository says of a file."""
        content = file.read_bytes()
        told: dict[str, Any] = {
            "rfilename": file.relative_to(self.folder).as_posix(),
            "size": len(content),
            "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(),
        }
        if self.is_large(file.name):
            told["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return told


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _send(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None, *, send: bool = True, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def _answer(self, send: bool) -> None:
        hub, path = self.server, unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path))
        if hub.refusals:
            self._send(hub.refusals.pop(0), b"{}", send=send)
        elif hub.gated:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Ask for access."}, send=send)
        elif path.startswith("/api/models/owner/model"):
            self._info(path, send)
        elif path.startswith("/owner/model/resolve/"):
            self._file(path, send)
        elif path.startswith("/cdn/"):
            self._content(hub.folder / path.removeprefix("/cdn/"), send, {})
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, send=send)

    def _info(self, path: str, send: bool) -> None:
        revision = path.partition("/revision/")[2] or "main"
        if revision not in ("main", "v1", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, send=send)
            return
        siblings = [self.server.sibling(file) for file in sorted(self.server.folder.rglob("*")) if file.is_file()]
        told = {
            "id": "owner/model",
            "modelId": "owner/model",
            "sha": COMMIT,
            "private": False,
            "tags": [],
            "downloads": 0,
            "siblings": siblings,
        }
        self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"}, send=send)

    def _file(self, path: str, send: bool) -> None:
        _, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        file = self.server.folder / name
        if revision != COMMIT or not file.is_file():
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, send=send)
            return
        told = self.server.sibling(file)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{told["blobId"]}"'}
        if "lfs" in told:
            linked = {
                "Location": f"http://localhost:{self.server.server_address[1]}/cdn/{name}",
                "X-Linked-Etag": f'"{told["lfs"]["sha256"]}"',
                "X-Linked-Size": str(told["size"]),
            }
            self._send(302, b"", {**headers, **linked}, send=send)
        else:
            self._content(file, send, headers)

    def _content(self, file: Path, send: bool, headers: dict[str, str]) -> None:
        content = file.read_bytes()
        if file.name in self.server.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes="):
            start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
            headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        piece = content[start:]
        if send and self.server.cuts and self.server.is_large(file.name):
            self.server.cuts -= 1
            self._send(206 if start else 200, piece[: len(piece) // 2], headers, length=len(piece))
            self.close_connection = True
            return
        self._send(206 if start else 200, piece, headers, send=send, length=len(piece))


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A hub that answers while the block runs."""
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
