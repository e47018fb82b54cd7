"""REST of feedback: the whole loop by HTTP, blind, idempotent, within the workspace, and what a rater may reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import select
from starlette.testclient import TestClient

from app.accounts.tables import Workspace
from app.feedback.tables import Item
from tests.conftest import Stack
from tests.feedback.factories import SOURCES, add_project

BASE = "/api/v1/feedback"
ITEMS = [
    {
        "prompt": f"Question {number}?",
        "responses": [
            {
                "text": f"Answer {number} of {place}.",
                "source": source,
                "sampling": {"top_p": 0.98765432},
                "finish": "stop",
                "tokens": 98765432,
            }
            for place, source in enumerate(SOURCES)
        ],
        **({"gold": {"preference": 2, "why": "known"}} if number > 3 else {}),
    }
    for number in range(6)
]
TELLING = (*SOURCES, "gold", "98765432", "finish", "source", "place", "known", "checkpoint")


def project(api: TestClient, **fields: Any) -> str:
    made = api.post(f"{BASE}/projects", json={"name": "which", "overlap": 2, "gold_rate": 0.5, **fields})
    assert made.status_code == 201, made.text
    added = api.post(f"{BASE}/projects/{made.json()['id']}/items", json={"items": ITEMS})
    assert added.status_code == 201 and added.json() == {"count": 6, "filtered": {}}
    return str(made.json()["id"])


def test_the_loop_by_http_and_blind_before_the_vote(api: TestClient, as_role: Callable[[str], TestClient]) -> None:
    there = project(api)
    rater = as_role("rater")
    listed = rater.get(f"{BASE}/projects")
    assert [one["id"] for one in listed.json()["data"]] == [there]
    seen = 0
    while (answer := rater.post(f"{BASE}/projects/{there}/next", json={"ahead": 0})).status_code == 200:
        for said in (answer.text, listed.text, rater.get(f"{BASE}/projects/{there}/history").text):
            assert not [word for word in TELLING if word in said.lower()]
        slot, vote = answer.json()["slot"], {"preference": -2, "active_ms": 900}
        once = rater.post(f"{BASE}/slots/{slot}/rate", json=vote, headers={"Idempotency-Key": slot})
        assert once.status_code == 200, once.text
        assert once.json() == {"id": once.json()["id"], "is_extra": False, "feedback": None, "sources": None}
        assert rater.post(f"{BASE}/slots/{slot}/rate", json=vote, headers={"Idempotency-Key": slot}).json() == once.json()
        seen += 1
    assert answer.status_code == 204 and 4 <= seen <= 6
    back = rater.post(f"{BASE}/projects/{there}/undo").json()
    assert back["slot"] == slot and back["earlier"] == {"preference": -2}
    assert rater.post(f"{BASE}/slots/{slot}/renew").status_code == 200
    assert rater.post(f"{BASE}/slots/{slot}/release").status_code == 204
    assert rater.post(f"{BASE}/slots/{slot}/skip", json={"reason": "other"}).status_code == 200
    told = api.get(f"{BASE}/projects/{there}").json()
    assert told["items"] == 4 and told["slots"] == 8 and told["generation"] is None
    raters = api.get(f"{BASE}/projects/{there}/raters").json()["data"]
    assert [one["status"] for one in raters] == ["active"]
    lines = api.get(f"{BASE}/projects/{there}/votes")
    rows = [json.loads(line) for line in lines.text.splitlines()]
    assert len(rows) == 6 and sum(len(row["votes"]) for row in rows) == seen
    assert {response["source"] for row in rows for response in row["responses"]} == set(SOURCES)
    change = api.patch(f"{BASE}/projects/{there}/raters/{raters[0]['id']}", json={"status": "paused", "reason": "Wait."})
    assert change.json()["status"] == "paused"
    refused = rater.post(f"{BASE}/projects/{there}/next")
    assert refused.status_code == 403 and "Wait." in refused.text


def test_a_rater_reaches_rating_and_nothing_else(api: TestClient, as_role: Callable[[str], TestClient]) -> None:
    there, rater = project(api), as_role("rater")
    for path in ("", "/items", "/raters", "/votes", "/quality", "/leaderboard"):
        assert rater.get(f"{BASE}/projects/{there}{path}").status_code in (403, 404)
    for method, path in (("patch", ""), ("delete", ""), ("post", "/items"), ("delete", "/items/x"), ("post", "/snapshots")):
        assert rater.request(method, f"{BASE}/projects/{there}{path}", json={}).status_code in (403, 404, 405)
    api.patch(f"{BASE}/projects/{there}", json={"status": "paused"})
    assert rater.get(f"{BASE}/projects").json()["data"] == []
    closed = rater.post(f"{BASE}/projects/{there}/next")
    assert closed.status_code == 409 and "paused" in closed.json()["error"]["message"]
    assert as_role("viewer").post(f"{BASE}/projects/{there}/next").status_code == 403


def test_sources_are_told_after_the_vote_where_the_project_says_so(api: TestClient) -> None:
    there = project(api, reveals=True, gold_rate=0)
    task = api.post(f"{BASE}/projects/{there}/next").json()
    done = api.post(f"{BASE}/slots/{task['slot']}/rate", json={"preference": 1}).json()
    assert sorted(done["sources"]) == sorted(SOURCES)


def test_other_workspaces_see_nothing(stack: Stack, api: TestClient, as_role: Callable[[str], TestClient]) -> None:
    with stack.database.write() as session:
        other = Workspace(name="Other")
        session.add(other)
        session.flush()
        theirs = add_project(session, other.id, 1)
        item = session.scalars(select(Item.id).where(Item.project_id == theirs.id)).one()
    assert api.get(f"{BASE}/projects").json()["data"] == []
    for client in (api, as_role("rater")):
        for path in (f"projects/{theirs.id}/next", f"projects/{theirs.id}/undo", f"slots/{item}.1/renew", f"slots/{item}.1/release"):
            assert client.post(f"{BASE}/{path}").status_code == 404
        assert client.post(f"{BASE}/slots/{item}.1/rate", json={"preference": 1}).status_code == 404
        assert client.get(f"{BASE}/projects/{theirs.id}/history").status_code == 404
    for path in ("", "/items", "/raters", "/votes"):
        assert api.get(f"{BASE}/projects/{theirs.id}{path}").status_code == 404


def test_creating_twice_with_one_key_makes_one(api: TestClient) -> None:
    made = [api.post(f"{BASE}/projects", json={"name": "x"}, headers={"Idempotency-Key": "k"}).json()["id"] for _ in range(2)]
    assert made[0] == made[1] and len(api.get(f"{BASE}/projects").json()["data"]) == 1


def test_refusals_name_the_field(api: TestClient) -> None:
    there = project(api, gold_rate=0)
    task = api.post(f"{BASE}/projects/{there}/next").json()
    for body in ({}, {"preference": 4}, {"preference": "tie"}, {"preference": 1, "who": "me"}):
        answer = api.post(f"{BASE}/slots/{task['slot']}/rate", json=body)
        assert answer.status_code == 422 and answer.json()["error"]["field"], answer.text
    bad = api.post(f"{BASE}/projects/{there}/items", json={"items": [{"prompt": "p", "responses": [{"text": "a"}]}]})
    assert bad.status_code == 422 and bad.json()["error"]["field"] == "items.0.responses"
    for slot in ("nothing", "itm_x.1", "itm_x.²", ".", "itm_x.99999999999999999999"):
        assert api.post(f"{BASE}/slots/{slot}/rate", json={"preference": 1}).status_code == 404
    item = api.get(f"{BASE}/projects/{there}/items?limit=1").json()["data"][0]
    assert api.delete(f"{BASE}/projects/{there}/items/{item['id']}").status_code == 204
    assert api.get(f"{BASE}/projects/{there}/items?status=removed").json()["data"][0]["id"] == item["id"]
    assert api.delete(f"{BASE}/projects/{there}").status_code == 204
