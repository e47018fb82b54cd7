"""Chains over REST: start once, list in pages, look at, cancel, continue, delete."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from app.chains import service
from tests.chains.links import add, all_runs, fail, finish, made, start, steps
from tests.conftest import Stack


def test_a_chain_from_start_to_end(stack: Stack, api: TestClient) -> None:
    asked = steps(start(stack))
    answer = api.post("/api/v1/chains", json={"steps": asked}, headers={"Idempotency-Key": "one"})
    assert answer.status_code == 201, answer.text
    chain = answer.json()
    assert chain["id"].startswith("chain_") and chain["name"] == "sft → reward → rloo"
    assert (chain["status"], chain["step"], chain["reason"], chain["finished_at"]) == ("running", 1, None, None)
    assert [each["status"] for each in chain["steps"]] == ["queued", "waiting", "waiting"]
    assert [each["request"] for each in chain["steps"]] == asked, "shown as it was asked for"
    again = api.post("/api/v1/chains", json={"steps": asked}, headers={"Idempotency-Key": "one"})
    assert again.json()["id"] == chain["id"] and len(all_runs(stack)) == 1
    url = f"/api/v1/chains/{chain['id']}"
    assert api.get(url).json() == chain
    assert api.delete(url).status_code == 409
    with stack.database.write() as session:
        run = finish(session)
    assert api.get(url).json()["status"] == "running"
    service.advance(stack.database)
    told = api.get(url).json()
    assert told["step"] == 2 and told["steps"][0] == {"number": 1, "status": "succeeded", "run": run.id, "request": asked[0]}
    assert told["steps"][1]["run"] == all_runs(stack)[1].id
    told = api.post(f"{url}/cancel").json()
    assert told["status"] == "cancelled" and told["steps"][1]["status"] == "cancelled" and told["finished_at"]
    assert api.post(f"{url}/continue").status_code == 409
    assert api.delete(url).status_code == 204
    assert api.get(url).status_code == 404 and "may have been deleted" in api.get(url).text


def test_a_paused_chain_is_continued_with_or_without_other_settings(stack: Stack, api: TestClient) -> None:
    chain_id, ids = made(stack)
    url = f"/api/v1/chains/{chain_id}"
    with stack.database.write() as session:
        fail(session)
    assert api.get(url).json()["reason_code"] == "run_failed"
    assert api.post(f"{url}/continue").json()["status"] == "running"
    with stack.database.write() as session:
        fail(session)
    wrong = {"method": "sft", "checkpoint": "$1", "dataset": ids["answers"]}
    answer = api.post(f"{url}/continue", json={"step": wrong})
    assert answer.status_code == 422 and answer.json()["error"]["field"] == "steps.0.checkpoint"
    answer = api.post(f"{url}/continue", json={"step": {**wrong, "checkpoint": ids["model"], "seed": 1}})
    assert answer.json()["status"] == "running" and answer.json()["steps"][0]["request"]["seed"] == 1
    assert [run.status for run in all_runs(stack)] == ["failed", "queued"]


def test_lists_come_in_pages_newest_first(stack: Stack, api: TestClient) -> None:
    ids = start(stack)
    with stack.database.write() as session:
        made = [add(session, stack, steps(ids), name=f"chain {number}") for number in range(3)]
    first = api.get("/api/v1/chains?limit=2").json()
    assert [each["id"] for each in first["data"]] == made[:0:-1] and first["has_more"]
    assert all(len(each["steps"]) == 3 and each["steps"][0]["run"] for each in first["data"])
    rest = api.get(f"/api/v1/chains?limit=2&after={first['next']}").json()
    assert [each["id"] for each in rest["data"]] == made[:1] and not rest["has_more"] and rest["next"] is None


@pytest.mark.one_stack
def test_what_is_done_to_chains_is_in_the_audit_log(stack: Stack, api: TestClient) -> None:
    chain = api.post("/api/v1/chains", json={"steps": steps(start(stack))}).json()["id"]
    api.post(f"/api/v1/chains/{chain}/cancel")
    api.delete(f"/api/v1/chains/{chain}")
    found = [(each["action"], each["subject"]) for each in api.get("/api/v1/audit").json()["data"]]
    assert [each for each in found if each[0].startswith("chains.")] == [
        ("chains.delete", chain),
        ("chains.cancel", chain),
        ("chains.create", chain),
    ]
