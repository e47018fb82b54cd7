"""Fetching a checkpoint: broken downloads go on, wrong bytes are thrown away, no archive writes outside of its folder."""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.commands import pull
from app.commands.client import Studio
from app.commands.studios import Known
from app.errors import StudioError


def archive(files: dict[str, bytes], **modes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = modes.get(name, stat.S_IFREG | 0o644) << 16
            packed.writestr(info, content)
    return buffer.getvalue()


class Shop(ThreadingHTTPServer):
    """Hands out one file, and hangs up after so many bytes as often as it is told to."""

    daemon_threads = True

    def __init__(self, content: bytes) -> None:
        self.content, self.breaks, self.after, self.ranges = content, 0, 1000, True
        self.asked: list[str | None] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def studio(self) -> Studio:
        return Studio(known=Known("shop", f"http://127.0.0.1:{self.server_port}", "lt_a_b"))

    def export(self) -> dict[str, Any]:
        return {
            "id": "exp_1",
            "file_name": "x.zip",
            "size_bytes": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
        }


class _Handler(BaseHTTPRequestHandler):
    server: Shop

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        content = self.server.content[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(content[: self.server.after])
            self.wfile.flush()
            self.connection.close()
        else:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(pull.time, "sleep", lambda seconds: None)
    server = Shop(bytes(range(256)) * 40)
    yield server
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_goes_on_where_it_stopped(shop: Shop, tmp_path: Path) -> None:
    shop.breaks = 3
    pull.fetch(shop.studio(), shop.export(), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == shop.content
    assert shop.asked[0] is None and shop.asked[1:] == ["bytes=1000-", "bytes=2000-", "bytes=3000-"]


def test_another_try_goes_on_with_what_the_last_one_left(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(shop.content[:5000])
    pull.fetch(shop.studio(), shop.export(), tmp_path / "part")
    assert shop.asked == ["bytes=5000-"] and (tmp_path / "part").read_bytes() == shop.content


def test_a_server_that_knows_no_ranges_is_asked_for_everything(shop: Shop, tmp_path: Path) -> None:
    shop.breaks, shop.ranges = 1, False
    pull.fetch(shop.studio(), shop.export(), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == shop.content


def test_bytes_that_are_not_those_of_the_studio_are_thrown_away(shop: Shop, tmp_path: Path) -> None:
    wrong = {**shop.export(), "sha256": "0" * 64}
    with pytest.raises(StudioError, match="thrown away"):
        pull.fetch(shop.studio(), wrong, tmp_path / "part")
    assert not (tmp_path / "part").exists()
    (tmp_path / "part").write_bytes(b"?" * len(shop.content))
    with pytest.raises(StudioError, match="thrown away"):
        pull.fetch(shop.studio(), shop.export(), tmp_path / "part")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "a/b/../../../evil", "", "."],
)
def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "x.zip").write_bytes(archive({"model/config.json": b"{}", name: b"evil"}))
    with pytest.raises(StudioError):
        pull.unpack(inside / "x.zip", inside / "out")
    assert not list(tmp_path.rglob("*evil*")) and sorted(file.name for file in inside.iterdir()) == ["x.zip"]


def test_links_and_files_named_twice_are_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(archive({"link": b"/etc/passwd"}, link=stat.S_IFLNK | 0o777))
    with pytest.raises(StudioError, match="no plain file"):
        pull.unpack(tmp_path / "x.zip", tmp_path / "out")
    (tmp_path / "x.zip").write_bytes(archive({"a": b"1", "A": b"2"}))
    with pytest.raises(StudioError, match="twice"):
        pull.unpack(tmp_path / "x.zip", tmp_path / "out")
    (tmp_path / "x.zip").write_bytes(b"PK nothing")
    with pytest.raises(StudioError, match="cannot be unpacked"):
        pull.unpack(tmp_path / "x.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_with_one_folder_becomes_that_folder(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(archive({"model/a.json": b"{}", "model/sub/b.json": b"[]"}))
    assert pull.unpack(tmp_path / "x.zip", tmp_path / "out") == ["a.json", "sub/b.json"]
    (tmp_path / "y.zip").write_bytes(archive({"a.json": b"{}", "b.json": b"[]"}))
    assert pull.unpack(tmp_path / "y.zip", tmp_path / "two") == ["a.json", "b.json"]
