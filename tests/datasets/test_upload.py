"""Uploading: what is taken, what is refused, and that nothing is left behind."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.accounts.tables import Workspace
from app.datasets import uploads
from app.datasets.tables import Dataset
from app.settings import Settings

ROWS = [{"prompt": f"What is {n} + 1?", "completion": str(n + 1)} for n in range(30)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def send(client: TestClient, content: str | bytes = LINES, file: str = "rows.jsonl", to: str = "/api/v1/datasets", **fields: str) -> Any:
    data = content.encode() if isinstance(content, str) else content
    return client.post(to, files={"file": (file, io.BytesIO(data))}, data=fields, headers=fields.pop("headers", None))  # type: ignore[arg-type]


def left(stack: Any) -> list[Path]:
    """What lies in the storage folder of datasets."""
    folder: Path = stack.settings.storage / "datasets"
    return list(folder.iterdir()) if folder.exists() else []


def test_upload_becomes_a_dataset(api: TestClient, work: Callable[..., None]) -> None:
    answer = send(api, name="sums", split='{"eval": 0.2, "seed": 1}')
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["name"], made["version"], made["status"], made["shape"]) == ("sums", 1, "importing", None)
    work(runs=False)
    found = api.get(f"/api/v1/datasets/{made['id']}").json()
    assert (found["status"], found["shape"], found["rows"], found["problems"]) == (
        "ready",
        "prompt_completion",
        30,
        {"errors": 0, "warnings": 0},
    )
    assert (found["train_rows"], found["eval_rows"]) == (24, 6)
    assert found["lineage"] == {"kind": "upload", "file": "rows.jsonl", "form": "prompt_completion", "unit": "line"}
    rows = api.get(f"/api/v1/datasets/{made['id']}/rows?limit=10&after=5").json()
    assert [row["number"] for row in rows["data"]] == list(range(6, 16)) and rows["has_more"] and rows["next"] == "15"
    assert rows["data"][0]["row"] == ROWS[5]


def test_same_name_is_the_next_version(api: TestClient, work: Callable[..., None]) -> None:
    first, second, other = (send(api, name=name).json() for name in ("sums", "sums", "else"))
    assert (first["version"], second["version"], other["version"]) == (1, 2, 1)
    assert api.get(f"/api/v1/datasets/{first['id']}@2").json()["id"] == second["id"]
    assert api.get(f"/api/v1/datasets/{first['id']}@3").status_code == 404
    listed = api.get("/api/v1/datasets?latest=true").json()["data"]
    assert [each["id"] for each in listed] == [other["id"], second["id"]]
    assert len(api.get("/api/v1/datasets?q=SUM").json()["data"]) == 2


def test_idempotency_key_uploads_once(api: TestClient, stack: Any) -> None:
    key = {"Idempotency-Key": "one"}
    answers = [api.post("/api/v1/datasets", files={"file": ("a.jsonl", LINES)}, data={"name": "sums"}, headers=key) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    assert len(left(stack)) == 1
    changed = api.post("/api/v1/datasets", files={"file": ("a.jsonl", LINES + LINES)}, data={"name": "sums"}, headers=key)
    assert changed.status_code == 422
    assert len(left(stack)) == 1


@pytest.mark.parametrize(
    ("file", "content", "fields", "status", "words"),
    [
        ("rows.zip", b"PK\x03\x04", {}, 422, "Unpack it first"),
        ("rows.xlsx", b"PK\x03\x04", {}, 422, "Upload JSONL, JSON, CSV or Parquet"),
        ("rows.pkl", b"\x80\x04", {}, 422, "not a kind of file"),
        ("rows", LINES, {}, 422, "not a kind of file"),
        ("rows.jsonl", b"", {}, 422, "empty"),
        ("rows.jsonl", LINES, {"name": "a\u202eb"}, 422, "writing direction"),
        ("rows.jsonl", LINES, {"name": "x" * 201}, 422, "at most 200"),
        ("rows.jsonl", LINES, {"mapping": "nonsense"}, 422, "not valid JSON"),
        ("rows.jsonl", LINES, {"mapping": '{"promt": "q"}'}, 422, "no target field “promt”"),
        ("rows.jsonl", LINES, {"mapping": '{"prompt": "q", "completion": "q"}'}, 422, "mapped to two fields"),
        ("rows.jsonl", LINES, {"split": "1.5"}, 422, "at most 0.9"),
        ("rows.jsonl", LINES, {"split": "{}"}, 422, "at most 0.9"),
        ("rows.jsonl", LINES, {"text": LINES}, 422, "not both"),
    ],
)
def test_refused_uploads_leave_nothing(
    api: TestClient, stack: Any, file: str, content: str | bytes, fields: dict[str, str], status: int, words: str
) -> None:
    answer = send(api, content, file, **fields)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]["message"]
    assert left(stack) == []
    assert api.get("/api/v1/datasets").json()["data"] == []


def test_requests_that_are_no_form(api: TestClient, stack: Any) -> None:
    assert api.post("/api/v1/datasets", json={"name": "x"}).status_code == 400
    assert api.post("/api/v1/datasets", data={"name": "x"}, headers={"Content-Type": "multipart/form-data"}).status_code == 400
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{"prompt": "a"'
    answer = api.post("/api/v1/datasets", content=cut, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 400 and "broke off" in answer.json()["error"]["message"]
    no_file = api.post("/api/v1/datasets", files={"other": ("a", b"b")})
    assert no_file.status_code == 422 and "Choose a file" in no_file.json()["error"]["message"]
    assert left(stack) == []


def test_too_large(api: TestClient, stack: Any, app: Any) -> None:
    app.state.settings = Settings(**{**stack.settings.model_dump(), "max_upload_bytes": 1000})
    answer = send(api)
    assert answer.status_code == 413 and "1,000 bytes" in answer.json()["error"]["message"]
    assert left(stack) == []


def test_full_disk_during_upload(api: TestClient, stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC at each write: a sentence, no file, no row."""
    real = uploads._Parts.on_part_data
    for after in (0, 1):
        seen = 0

        def full(self: Any, data: bytes, start: int, end: int, after: int = after) -> None:
            nonlocal seen
            seen += 1
            if seen > after:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(self, data, start, end)

        monkeypatch.setattr(uploads._Parts, "on_part_data", full)
        answer = send(api, LINES * 500, name="sums")
        assert answer.status_code == 507, answer.text
        assert "disk is full" in answer.json()["error"]["message"]
        assert left(stack) == []
    monkeypatch.setattr(uploads._Parts, "on_part_data", real)
    monkeypatch.setattr(uploads.storage, "fsync_file", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    assert send(api).status_code == 507
    assert left(stack) == []
    assert api.get("/api/v1/datasets").json()["data"] == []


@pytest.fixture
def small_disk(stack: Any) -> Iterator[Path]:
    """The folder of datasets on a file system of 512 KiB."""
    folder: Path = stack.settings.storage / "datasets"
    folder.mkdir(parents=True)
    mounted = (
        shutil.which("mount")
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True).returncode == 0
    )
    if not mounted:
        pytest.skip("no small file system can be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_really_full_disk(api: TestClient, work: Callable[..., None], small_disk: Path) -> None:
    """An upload that does not fit leaves nothing; one whose rows do not fit says so and leaves no half-written rows."""
    answer = send(api, LINES * 500)
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]["message"]
    assert list(small_disk.iterdir()) == []
    assert api.get("/api/v1/datasets").json()["data"] == []
    made = send(api, LINES * 200).json()
    work(runs=False)
    found = api.get(f"/api/v1/datasets/{made['id']}").json()
    assert found["status"] == "failed" and "disk is full" in found["reason"]
    assert [file.name for file in (small_disk / made["id"]).iterdir()] == ["source.jsonl"]


def test_strangers_and_viewers_upload_nothing(anonymous: TestClient, as_role: Callable[[str], TestClient], stack: Any) -> None:
    assert send(anonymous).status_code == 401
    assert send(as_role("viewer")).status_code == 403
    assert left(stack) == []


def test_other_workspaces_are_not_seen(api: TestClient, stack: Any) -> None:
    made = send(api).json()
    with stack.database.write() as session:
        other = Workspace(name="other")
        session.add(other)
        session.flush()
        session.get_one(Dataset, made["id"]).workspace_id = other.id
    for path in ("", "/rows", "/problems", "/export", "/tokens?checkpoint=x"):
        assert api.get(f"/api/v1/datasets/{made['id']}{path}").status_code == 404, path
    assert api.delete(f"/api/v1/datasets/{made['id']}").status_code == 404


def test_a_forgotten_upload_is_removed(api: TestClient, stack: Any) -> None:
    old = stack.settings.storage / "datasets" / ".upload-ds_old"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    send(api)
    assert not old.exists()
