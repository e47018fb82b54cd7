"""Raters' tokens: each is its own rater, and one bound to a project reaches nothing but its own items of that project."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI
from sqlalchemy import select
from starlette.testclient import TestClient

from app.accounts import scopes
from app.accounts import service as accounts
from app.errors import Forbidden
from app.feedback import service
from app.feedback.tables import Item, Project, Rater, Rating
from tests.accounts.matrix import ROUTES, STREAMS
from tests.conftest import ADDRESS, Stack
from tests.feedback.factories import add_project

BASE = "/api/v1/feedback"
OPEN = {"GET /healthz", "GET /readyz", "GET /", "GET /login", "GET /join", "POST /login", "POST /join", "POST /logout"}


def program(app: FastAPI, token: str) -> TestClient:
    return TestClient(
        app, base_url=ADDRESS, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False, raise_server_exceptions=False
    )


def make(stack: Stack, name: str, project_id: str | None = None, role: str = "rater") -> str:
    with stack.database.write() as session:
        return accounts.create_token(
            session, name=name, role=role, user_id=stack.admin_id, workspace_id=stack.workspace_id, project_id=project_id
        )[1]


def test_each_token_is_its_own_rater_by_its_name(stack: Stack, app: FastAPI, client: TestClient) -> None:
    with stack.database.write() as session:
        project = add_project(session, stack.workspace_id, 1, overlap=3)
    one, two, engineer = (
        program(app, make(stack, name, role=role)) for name, role in (("one", "rater"), ("two", "rater"), ("e", "engineer"))
    )
    for caller in (one, two, engineer):
        task = caller.post(f"{BASE}/projects/{project.id}/next").json()
        assert caller.post(f"{BASE}/slots/{task['slot']}/rate", json={"preference": 1}).status_code == 200
        assert caller.post(f"{BASE}/projects/{project.id}/next").status_code == 204
        assert len(caller.get(f"{BASE}/projects/{project.id}/history").json()["data"]) == 1
    with stack.database.read() as session:
        known = dict(session.execute(select(Rater.name, Rater.who)).all())
        assert {name: who.partition(":")[0] for name, who in known.items()} == {"one": "token", "two": "token", "admin": "user"}
        assert session.query(Rating).count() == 3
    page = client.get(f"/feedback/{project.id}/raters").text
    assert page.count(">API token</span>") == 2 and ">one</bdi>" in page


@pytest.mark.one_stack
def test_a_bound_token_reaches_its_project_and_nothing_else(stack: Stack, app: FastAPI) -> None:
    with stack.database.write() as session:
        mine, other = (add_project(session, stack.workspace_id, 2, name=name) for name in ("mine", "other"))
        theirs = session.scalars(select(Item.id).where(Item.project_id == other.id)).first()
    token = make(stack, "bound", mine.id)
    caller = program(app, token)
    with stack.database.read() as session:
        who = accounts.token_principal(session, token)
        assert who is not None
    assert [caller.get(f"{BASE}/projects/{mine.id}{path}").status_code for path in ("", "/items", "/votes")] == [403] * 3
    reached = {}
    for route in sorted(ROUTES.keys() - OPEN - STREAMS):
        method, path = route.split(" ")
        address = re.sub(r"\{(\w+)\}", lambda found: {"project_id": mine.id, "slot": f"{theirs}.1"}.get(found[1], "x"), path)
        try:
            scopes.refuse(who, method, address)
        except Forbidden:
            continue
        if ROUTES[route] != "person":  # of its own project too: the role refuses
            assert who.role == "rater" and path.startswith("/api/v1/feedback/projects"), route
            continue
        said = {"preference": 1} if path.endswith("/rate") else {"reason": "cut"}
        reached[route] = caller.request(method, address, json=said).status_code
    assert {re.sub(r"^\w+ (/api/v1)?", "", route).split("/")[1] for route in reached} == {"feedback", "rate", "me"}
    assert {reached[route] for route in reached if "/slots/{slot}" in route} == {404}, "slots of another project are not there"
    assert [each["id"] for each in caller.get(f"{BASE}/projects").json()["data"]] == [mine.id]
    assert "other" not in caller.get("/rate").text
    for path in (f"/rate/{other.id}", f"/rate/{other.id}/next", f"{BASE}/projects/{other.id}/history"):
        assert caller.get(path).status_code == 403
    for path in ("next", "undo"):
        assert caller.post(f"{BASE}/projects/{other.id}/{path}").status_code == 403
    task = caller.post(f"{BASE}/projects/{mine.id}/next").json()
    assert caller.post(f"{BASE}/slots/{task['slot']}/rate", json={"preference": 1}).status_code == 200
    with stack.database.write() as session:
        service.delete_project(session, session.get_one(Project, mine.id))
    assert caller.get("/api/v1/me").status_code == 401, "it went with its project"
