"""Scopes of tokens: what each opens, for every route there is, and that none can be widened."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from app.accounts.scopes import SCOPES, noun_of
from tests.accounts.matrix import ROUTES, STREAMS
from tests.conftest import ADDRESS

SAFE = ("GET", "HEAD")
PEOPLE = {"users", "invites", "workspaces", "tokens", "sessions", "audit", "webhooks", "settings"}
OPENED_BY = {
    "runs": "runs",
    "chains": "runs",
    "datasets": "datasets",
    "recipes": "datasets",
    "checkpoints": "checkpoints",
    "models": "checkpoints",
    "exports": "checkpoints",
    "chats": "chats",
    "playground": "chats",
    "feedback": "feedback",
    "rate": "feedback",
}


def script(app: FastAPI, client: TestClient, **body: Any) -> TestClient:
    made = client.post("/api/v1/tokens", json={"name": "a script", **body})
    assert made.status_code == 201, made.text
    headers = {"Authorization": f"Bearer {made.json()['token']}"}
    return TestClient(app, base_url=ADDRESS, headers=headers, follow_redirects=False, raise_server_exceptions=False)


def opens(scope: str, method: str, path: str) -> bool:
    """What the documentation of scopes promises, said another way than the code does."""
    noun = noun_of(path)
    if noun == "me":
        return True
    if noun in PEOPLE:
        return scope == "admin"
    if scope == "read":
        return method in SAFE
    return OPENED_BY.get(noun) == scope or (noun not in OPENED_BY and scope == "admin" and method not in SAFE)


@pytest.mark.one_stack
@pytest.mark.parametrize("scope", list(SCOPES))
def test_every_route_is_open_to_the_scopes_that_say_so(app: FastAPI, client: TestClient, scope: str) -> None:
    program = script(app, client, scopes=[scope])
    wrong = []
    for route, needs in ROUTES.items():
        method, path = route.split(" ")
        if needs == "public" or route in STREAMS:
            continue
        answer = program.request(method, re.sub(r"\{[^}]+\}", "nothing", path))
        refused = answer.status_code == 403 and "This token is for" in answer.text
        if refused == opens(scope, method, path):
            wrong.append(f"{route} answers {answer.status_code} to a token for {scope}")
    assert wrong == []


def test_a_refusal_names_the_scope_that_is_missing(app: FastAPI, client: TestClient) -> None:
    answer = script(app, client, scopes=["read", "chats"]).post("/api/v1/runs", json={})
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["code"] == "scope" and "for read, chats only" in error["message"] and "needs runs" in error["message"]


def test_scopes_never_reach_beyond_the_role(app: FastAPI, client: TestClient) -> None:
    viewer = script(app, client, role="viewer", scopes=["runs", "admin"])
    assert viewer.post("/api/v1/runs", json={}).status_code == 403
    assert viewer.get("/api/v1/users").status_code == 403


def test_a_token_without_scopes_may_do_what_its_role_may(app: FastAPI, client: TestClient) -> None:
    program = script(app, client)
    assert program.get("/api/v1/users").status_code == 200
    assert program.get("/api/v1/me").json()["scopes"] is None
    assert script(app, client, scopes=["runs", "read"]).get("/api/v1/me").json()["scopes"] == ["read", "runs"]


def test_a_scoped_token_makes_no_wider_one(app: FastAPI, client: TestClient) -> None:
    program = script(app, client, scopes=["admin", "read"])
    assert program.post("/api/v1/tokens", json={"name": "x", "scopes": ["runs"]}).status_code == 403
    assert program.post("/api/v1/tokens", json={"name": "x"}).json()["scopes"] == ["read", "admin"]
    assert program.post("/api/v1/tokens", json={"name": "x", "scopes": ["read"]}).status_code == 201


@pytest.mark.parametrize("scopes", [["all"], [], ["read", "king"], "read", [3], ["read"] * 30])
def test_scopes_that_are_none_are_refused_in_words(client: TestClient, scopes: Any) -> None:
    answer = client.post("/api/v1/tokens", json={"name": "x", "scopes": scopes})
    assert answer.status_code == 422 and "scope" in answer.json()["error"]["field"]


def test_the_document_says_who_may_call_what_with_which_scope(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    assert document["x-scopes"] == SCOPES
    start = document["paths"]["/api/v1/runs"]["post"]
    assert start["security"] == [{"token": ["runs"]}] and start["x-roles"] == ["admin", "engineer"]
    assert document["paths"]["/api/v1/runs"]["get"]["security"] == [{"token": ["read"]}, {"token": ["runs"]}]
    silent = [
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if not operation.get("x-roles") or "Token scope:" not in operation["description"]
    ]
    assert silent == []
    assert "Token scope" in api.get("/docs").text


def test_the_page_makes_tokens_with_scopes_and_an_end(client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    form = {"name": "nightly", "role": "viewer", "scope": ["read", "chats"], "days": "30"}
    assert client.post("/settings/tokens", data=form).status_code == 200
    made = client.get("/api/v1/tokens").json()["data"][0]
    assert made["scopes"] == ["read", "chats"] and made["role"] == "viewer" and made["expires_at"] is not None
    shown = client.get("/settings/tokens").text
    assert "chats</span>" in shown and made["expires_at"][:10] in shown
    assert client.post("/settings/tokens", data={**form, "days": "9999"}).status_code == 422
    wrong = client.post("/settings/tokens", data={**form, "name": "", "scope": ["runs"]})
    assert wrong.status_code == 422 and 'value="runs" checked' in wrong.text
