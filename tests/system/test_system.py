"""The state of the studio: who works on what, what waits and can be cancelled, what failed; names and paths only for those they are for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app.accounts.tables import Workspace
from app.database import now
from app.datasets.tables import Dataset
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.runs.tables import Run
from app.workers import service as workers
from app.workers.tables import Worker
from tests.factories import add_checkpoint, add_dataset, add_run, claim_run


def add_worker(stack: Any, **fields: Any) -> str:
    device = {"name": "NVIDIA H200", "kind": "cuda", "memory_bytes": 140 * 1024**3}
    with stack.database.write() as session:
        worker = workers.register(session, lanes=["device", "cpu", "chat"], devices=[device], versions={"torch": "2.13.0"}, problem=None)
        for name, value in fields.items():
            setattr(worker, name, value)
        return worker.id


def test_a_studio_without_worker_says_what_to_do(client: TestClient) -> None:
    shown = client.get("/system").text
    assert "No worker is running" in shown and "luthier worker" in shown and "Nothing waits." in shown and "Nothing has failed." in shown


def test_a_worker_shows_its_devices_and_what_it_does(client: TestClient, api: TestClient, stack: Any) -> None:
    worker_id = add_worker(stack, state={"devices": [{"used": 61 * 1024**3}], "speaker": {"device": "cuda:0", "models": ["tiny"]}})
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, name="big run")
        mine = claim_run(session)
        session.execute(update(Run).where(Run.id == mine.id).values(lease_owner=f"{worker_id}/x"))
        run_id = run.id
        add_run(session, stack.workspace_id, name="waits", checkpoint_id=run.checkpoint_id, dataset_id=run.dataset_id)
    shown = client.get("/system").text
    for expected in ("NVIDIA H200", "61 GB of 140 GB", "big run", "Keeps tiny loaded for chats", "torch 2.13.0", "waits"):
        assert expected in shown, expected
    listed = api.get("/api/v1/workers").json()[0]
    assert listed["run_id"] == run_id and listed["status"] == "busy" and listed["devices"][0]["used_bytes"] == 61 * 1024**3
    system = api.get("/api/v1/system").json()
    assert [each["name"] for each in system["queue"]["runs"]] == ["waits"] and system["queue"]["runs"][0]["place"] == 1
    assert system["database"]["kind"] in ("SQLite", "PostgreSQL") and system["disk"]["free_bytes"] > 0
    with stack.database.write() as session:
        session.execute(update(Worker).values(heartbeat_at=now() - 3600))
    assert api.get("/api/v1/system").json()["workers"][0]["status"] == "lost" and "no sign of life" in client.get("/system").text


def test_paths_addresses_and_other_workspaces_are_not_for_everybody(
    api: TestClient, as_role: Callable[[str], TestClient], stack: Any
) -> None:
    worker_id = add_worker(stack, state={"devices": [], "speaker": {"device": "cuda:0", "models": ["secret model"]}})
    with stack.database.write() as session:
        other = Workspace(name="other")
        session.add(other)
        session.flush()
        checkpoint, dataset = add_checkpoint(session, other.id), add_dataset(session, other.id)
        add_run(session, other.id, name="secret run", checkpoint_id=checkpoint.id, dataset_id=dataset.id)
        mine = claim_run(session)
        session.execute(update(Run).where(Run.id == mine.id).values(lease_owner=f"{worker_id}/x"))
        add_run(session, other.id, name="secret wait", checkpoint_id=checkpoint.id, dataset_id=dataset.id)
        add_run(session, other.id, name="secret failure", checkpoint_id=checkpoint.id, dataset_id=dataset.id, status="failed", reason="x")
        jobs.enqueue(session, workspace_id=other.id, kind="import_dataset", subject_id=dataset.id)
    viewer = as_role("viewer")
    for text in (viewer.get("/system").text, viewer.get("/api/v1/system").text):
        assert "secret" not in text and str(stack.home) not in text and "luthier.db" not in text
    seen = viewer.get("/api/v1/system").json()
    assert seen["workers"][0]["elsewhere"] and seen["workers"][0]["loaded"] == 1 and seen["disk"]["home"] is None
    assert seen["database"]["address"] is None and seen["queue"] == {"runs": [], "jobs": [], "answers": 0}
    assert api.get("/api/v1/system").json()["disk"]["home"] == str(stack.home)


def test_a_waiting_job_is_cancelled_and_what_it_was_for_says_so(client: TestClient, api: TestClient, stack: Any) -> None:
    with stack.database.write() as session:
        dataset = add_dataset(session, stack.workspace_id, status="importing", name="numbers")
        job_id = jobs.enqueue(session, workspace_id=stack.workspace_id, kind="import_dataset", subject_id=dataset.id).id
        dataset_id = dataset.id
    assert "Reading a dataset" in client.get("/system").text
    assert client.post(f"/system/jobs/{job_id}/cancel").status_code == 303
    with stack.database.read() as session:
        job, dataset = session.get_one(Job, job_id), session.get_one(Dataset, dataset_id)
        assert (job.status, dataset.status, dataset.reason) == ("cancelled", "failed", "Cancelled on request.")
    refused = api.post(f"/api/v1/jobs/{job_id}/cancel")
    assert refused.status_code == 409 and "already cancelled" in refused.text
    failures = api.get("/api/v1/system").json()["failures"]
    assert failures[0]["name"] == "numbers" and failures[0]["url"] == f"/datasets/{dataset_id}"
    assert api.post("/api/v1/jobs/job_other/cancel").status_code == 404


@pytest.mark.parametrize(("typed", "first"), [("", "New run"), ("imp", "Import a model"), ("sys", "System"), ("dark", "Switch between")])
def test_the_palette_goes_places_and_does_things(client: TestClient, typed: str, first: str) -> None:
    shown = client.get("/palette", params={"q": typed}, headers={"HX-Request": "true", "HX-Request-Type": "partial"}).text
    assert first in shown and "Nothing holds" not in shown


def test_the_palette_finds_everything_with_a_name_quickly(client: TestClient, as_role: Callable[[str], TestClient], stack: Any) -> None:
    with stack.database.write() as session:
        checkpoint = add_checkpoint(session, stack.workspace_id, name="zeta model")
        dataset = add_dataset(session, stack.workspace_id, name="zeta data")
        for number in range(200):
            add_run(session, stack.workspace_id, name=f"zeta run {number}", checkpoint_id=checkpoint.id, dataset_id=dataset.id)
    client.get("/palette")
    started = time.monotonic()
    shown = client.get("/palette?q=zeta").text
    assert time.monotonic() - started < 1.0
    assert "zeta model" in shown and "zeta data" in shown and shown.count("zeta run") == 8
    assert "Nothing holds “nowhere”" in client.get("/palette?q=nowhere").text
    assert "New run" not in as_role("viewer").get("/palette").text
