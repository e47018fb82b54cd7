"""API tokens: making, using, listing and revoking them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from app.accounts import service
from app.accounts.tables import Member, Token, Workspace
from app.database import now
from tests.conftest import ADDRESS, Stack


def program(app: FastAPI, token: str) -> TestClient:
    return TestClient(
        app, base_url=ADDRESS, headers={"Authorization": f"Bearer {token}"}, follow_redirects=False, raise_server_exceptions=False
    )


def make(client: TestClient, **body: object) -> dict[str, str]:
    answer = client.post("/api/v1/tokens", json={"name": "a script", **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


def test_a_token_is_shown_once_and_works_until_revoked(app: FastAPI, client: TestClient) -> None:
    made = make(client, role="viewer")
    assert made["token"].startswith(f"lt_{made['id']}_")
    script = program(app, made["token"])
    assert script.get("/api/v1/workspaces").json()["data"][0]["name"] == "Default"
    listed = client.get("/api/v1/tokens").json()["data"]
    assert [each["id"] for each in listed] == [made["id"]] and "token" not in listed[0]
    assert client.delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    answer = script.get("/api/v1/workspaces")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "unauthorized" and "luthier token create" in answer.json()["error"]["message"]
    assert client.get("/api/v1/tokens").json()["data"] == []
    assert client.delete(f"/api/v1/tokens/{made['id']}").status_code == 404


def test_wrong_tokens_are_refused(app: FastAPI, api: TestClient) -> None:
    good = api.headers["authorization"].removeprefix("Bearer ")
    for wrong in (good[:-1] + ("0" if good[-1] != "0" else "1"), good + "0", "lt__", "lt_x_y", "x", "", good.replace("lt_", "tl_")):
        assert program(app, wrong).get("/api/v1/workspaces").status_code == 401
    for header in (good, f"Basic {good}", f"Token {good}"):
        assert TestClient(app, base_url=ADDRESS, headers={"Authorization": header}).get("/api/v1/workspaces").status_code == 401
    plain = TestClient(app, base_url=ADDRESS)
    assert plain.get(f"/api/v1/workspaces?token={good}").status_code == 401
    assert plain.get("/api/v1/workspaces", headers={"X-Api-Key": good}).status_code == 401


def test_a_bad_token_is_not_made_good_by_a_cookie(client: TestClient) -> None:
    assert client.get("/api/v1/workspaces").status_code == 200
    assert client.get("/api/v1/workspaces", headers={"Authorization": "Bearer lt_x_y"}).status_code == 401


def test_a_token_does_no_more_than_who_made_it(app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    engineer = as_role("engineer")
    answer = engineer.post("/api/v1/tokens", json={"name": "x", "role": "admin"})
    assert answer.status_code == 403 and "engineer" in answer.json()["error"]["message"]
    assert as_role("viewer").post("/api/v1/tokens", json={"name": "x", "role": "engineer"}).status_code == 403
    assert make(engineer)["role"] == "engineer"
    weak = program(app, make(client, role="viewer")["token"])
    assert weak.get("/api/v1/users").status_code == 403
    assert weak.post("/api/v1/tokens", json={"name": "x", "role": "admin"}).status_code == 403
    rater = program(app, make(client, role="rater")["token"])
    answer = rater.get("/api/v1/workspaces")
    assert answer.status_code == 403 and "rater" in answer.json()["error"]["message"]


def test_a_token_weakens_with_its_owner(stack: Stack, app: FastAPI, as_role: Callable[[str], TestClient]) -> None:
    made = make(as_role("admin"))
    assert program(app, made["token"]).get("/api/v1/users").status_code == 200
    with stack.database.write() as session:
        session.execute(update(Member).where(Member.user_id == made["user_id"]).values(role="viewer"))
    assert program(app, made["token"]).get("/api/v1/users").status_code == 403


def test_a_token_can_run_out(stack: Stack, app: FastAPI, client: TestClient) -> None:
    answer = client.post("/api/v1/tokens", json={"name": "x", "expires_at": "2020-01-01T00:00:00Z"})
    assert answer.status_code == 422 and answer.json()["error"]["field"] == "expires_at"
    made = make(client, expires_at="2099-01-01T00:00:00Z")
    assert made["expires_at"] == "2099-01-01T00:00:00Z"
    assert program(app, made["token"]).get("/api/v1/workspaces").status_code == 200
    with stack.database.write() as session:
        session.execute(update(Token).values(expires_at=now() - 1))
    assert program(app, made["token"]).get("/api/v1/workspaces").status_code == 401


def test_last_use_is_written_at_most_once_a_minute(stack: Stack, api: TestClient) -> None:
    def used() -> float | None:
        with stack.database.read() as session:
            return session.scalar(select(Token.used_at))

    assert used() is None
    api.get("/api/v1/workspaces")
    first = used()
    assert first is not None
    api.get("/api/v1/workspaces")
    assert used() == first
    with stack.database.write() as session:
        session.execute(update(Token).values(used_at=now() - 61))
    api.get("/api/v1/workspaces")
    again = used()
    assert again is not None and again >= first


def test_tokens_of_others_are_not_seen(client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    mine = make(client)["id"]
    engineer = as_role("engineer")
    theirs = make(engineer)["id"]
    assert [each["id"] for each in engineer.get("/api/v1/tokens").json()["data"]] == [theirs]
    assert {each["id"] for each in client.get("/api/v1/tokens").json()["data"]} == {mine, theirs}
    assert engineer.delete(f"/api/v1/tokens/{mine}").status_code == 404
    assert client.delete(f"/api/v1/tokens/{theirs}").status_code == 204


def test_another_workspace_is_not_there(stack: Stack, api: TestClient) -> None:
    with stack.database.write() as session:
        other = Workspace(name="Other")
        session.add(other)
        session.flush()
        stranger = service.add_user(session, "stranger", "admin", workspace_id=other.id)
        token, _ = service.create_token(session, name="theirs", role="admin", user_id=stranger.id, workspace_id=other.id)
    assert api.delete(f"/api/v1/tokens/{token.id}").status_code == 404
    assert [each["name"] for each in api.get("/api/v1/tokens").json()["data"]] == ["tests"]
    assert [each["name"] for each in api.get("/api/v1/users").json()["data"]] == ["admin"]
    assert [each["name"] for each in api.get("/api/v1/workspaces").json()["data"]] == ["Default"]


def test_lists_come_in_pieces(api: TestClient) -> None:
    for number in range(4):
        make(api, name=f"token {number}")
    seen, after = [], ""
    while True:
        piece = api.get(f"/api/v1/tokens?limit=2{after}").json()
        seen += [each["name"] for each in piece["data"]]
        if not piece["has_more"]:
            assert piece["next"] is None
            break
        after = f"&after={piece['next']}"
    assert seen == ["token 3", "token 2", "token 1", "token 0", "tests"]


def test_a_repeated_request_makes_one_token_and_never_shows_its_secret_again(stack: Stack, api: TestClient) -> None:
    headers = {"Idempotency-Key": "5f0c"}
    first = api.post("/api/v1/tokens", json={"name": "x"}, headers=headers)
    again = api.post("/api/v1/tokens", json={"name": "x"}, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == {**first.json(), "token": None}
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Token)) == 2
    other = api.post("/api/v1/tokens", json={"name": "y"}, headers=headers)
    assert other.status_code == 422 and other.json()["error"]["code"] == "idempotency_key_reused"


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "  "}, {"name": "x" * 101}, {"name": "x", "role": "king"}, {"name": "x", "scope": "all"}, [], "x"]
)
def test_bad_bodies_are_answered_in_words(api: TestClient, body: object) -> None:
    answer = api.post("/api/v1/tokens", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "invalid" and error["field"] and "pydantic" not in answer.text and "Input should" not in answer.text


def test_the_settings_page_makes_and_revokes_tokens(app: FastAPI, client: TestClient) -> None:
    assert "None yet" in client.get("/settings/tokens").text
    answer = client.post("/settings/tokens", data={"name": "<b>night</b>", "role": "viewer"})
    assert answer.status_code == 200 and "&lt;b&gt;night&lt;/b&gt;" in answer.text
    plain = answer.text.split('<code class="secret" id="made">')[1].split("</code>")[0]
    assert program(app, plain).get("/api/v1/workspaces").status_code == 200
    shown = client.get("/settings/tokens").text
    assert plain not in shown and "viewer" in shown
    assert client.post("/settings/tokens", data={"name": "", "role": "viewer"}).status_code == 422
    assert client.post(f"/settings/tokens/{plain.split('_')[1]}/revoke").status_code == 303
    assert program(app, plain).get("/api/v1/workspaces").status_code == 401


def test_a_token_does_not_outlive_the_token_that_made_it(app: FastAPI, client: TestClient) -> None:
    maker = make(client, expires_at="2099-01-01T00:00:00Z")
    script = program(app, maker["token"])
    assert make(script)["expires_at"] == maker["expires_at"]
    assert make(script, expires_at="2098-01-01T00:00:00Z")["expires_at"] == "2098-01-01T00:00:00Z"
    assert make(script, expires_at=maker["expires_at"])["expires_at"] == maker["expires_at"]
    refused = script.post("/api/v1/tokens", json={"name": "x", "expires_at": "2099-01-02T00:00:00Z"})
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "expires_at"
    assert "2099-01-01" in refused.json()["error"]["message"]
    assert make(client)["expires_at"] is None, "a browser sets no end"
    assert make(program(app, make(client)["token"]))["expires_at"] is None
