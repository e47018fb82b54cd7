"""Imports from the request to the row, through the real supervisor and child: ready, failed, or gone with its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from threading import Event

import pytest
from sqlalchemy import select
from starlette.testclient import TestClient

from app import storage
from app.checkpoints import service
from app.checkpoints.manifest import verify_manifest
from app.jobs.tables import Job
from tests.conftest import Stack
from tests.models import tiny_llama_folder
from worker import run_jobs

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = [pytest.mark.train, pytest.mark.one_stack]


def test_a_folder_is_imported_by_a_worker(api: TestClient, client: TestClient, stack: Stack, work: Callable[..., None]) -> None:
    made = api.post("/api/v1/checkpoints", json={"source": "folder", "ref": str(tiny_llama_folder()), "name": "tiny"}).json()
    work(runs=False)
    ready = api.get(f"/api/v1/checkpoints/{made['id']}").json()
    assert ready["status"] == "ready", ready
    assert (
        ready["progress"] is None
        and ready["reason"] is None
        and ready["size_bytes"] > 0
        and ready["parameters"] > 0
        and len(ready["sha256"]) == 64
    )
    with stack.database.read() as session:
        checkpoint = service.get(session, stack.workspace_id, made["id"])
        assert service.training_paths(session, checkpoint) == {
            "path": str(storage.path(f"checkpoints/{made['id']}")),
            "adapter": None,
            "name": "tiny",
        }
        verify_manifest(service.folder_of(checkpoint))
        assert checkpoint.shapes and checkpoint.config and checkpoint.shapes["model.embed_tokens.weight"][1] == 64
    assert "model.safetensors" in client.get(f"/models/{made['id']}").text
    assert not list((stack.settings.storage / "work").glob("*"))
    assert api.delete(f"/api/v1/checkpoints/{made['id']}").status_code == 204
    assert not storage.path(f"checkpoints/{made['id']}").exists()


@pytest.mark.parametrize("stack", ["sqlite"], indirect=True)
def test_a_child_that_hears_nothing_for_too_long_ends_itself_and_is_tried_again(
    api: TestClient, stack: Stack, work: Callable[..., None]
) -> None:
    made = api.post("/api/v1/checkpoints", json={"source": "folder", "ref": str(tiny_llama_folder()), "name": "tiny"}).json()
    seldom = stack.settings.model_copy(update={"lease_seconds": 0.5, "heartbeat_seconds": 60.0})
    assert run_jobs.one(stack.database, seldom, "w", "cpu", Event())
    with stack.database.read() as session:
        job = session.scalars(select(Job)).one()
        assert (job.status, job.failures) == ("queued", 1), job.reason
    work(runs=False)
    assert api.get(f"/api/v1/checkpoints/{made['id']}").json()["status"] == "ready"


def test_a_folder_that_is_refused_says_why_on_its_row(
    api: TestClient, client: TestClient, stack: Stack, work: Callable[..., None], tmp_path: Path
) -> None:
    folder = Path(copytree(tiny_llama_folder(), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Own"}}))
    made = api.post("/api/v1/checkpoints", json={"source": "folder", "ref": str(folder), "name": "spoiled"}).json()
    gone = api.post("/api/v1/checkpoints", json={"source": "folder", "ref": str(folder), "name": "deleted meanwhile"}).json()
    assert api.delete(f"/api/v1/checkpoints/{gone['id']}").status_code == 204
    work(runs=False)
    failed = api.get(f"/api/v1/checkpoints/{made['id']}").json()
    assert failed["status"] == "failed" and "“config.json” has “auto_map”" in failed["reason"]
    assert "never runs" in client.get(f"/models/{made['id']}").text
    assert not list((stack.settings.storage / "checkpoints").glob("*"))
