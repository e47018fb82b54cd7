"""One request is one transaction: committed before the answer, once for an Idempotency-Key, and reading never waits for a writer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel
from sqlalchemy import func, select, text
from starlette.testclient import TestClient

from app.accounts import api as accounts_api
from app.accounts.tables import Workspace
from app.database import after_commit
from app.errors import Conflict
from app.main import create_app
from app.web import Reader, WriteSession, api_router, idempotent
from tests.conftest import ADDRESS, Stack


class Named(BaseModel):
    """A thing to make."""

    name: str
    slow: bool = False
    refused: bool = False


@pytest.fixture
def making(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application with a route that makes one row a call."""
    router = api_router("test")

    @router.post("/things")
    def make(request: Request, body: Named, who: Reader, session: WriteSession) -> Response:
        def do() -> dict[str, Any]:
            count = session.scalar(select(func.count()).select_from(Workspace))
            workspace = Workspace(name=f"{body.name} {count} {time.monotonic_ns()}")
            session.add(workspace)
            session.flush()
            if body.slow:
                time.sleep(0.2)
            if body.refused:
                raise Conflict("Not now.")
            return {"id": workspace.id, "name": workspace.name}

        return idempotent(request, session, who, body, do)

    @router.post("/told")
    def told(who: Reader, session: WriteSession) -> dict[str, str]:
        session.add(Workspace(name="told"))
        after_commit(session, lambda: seen.append("committed"))
        return {"status": "made"}

    seen: list[str] = []
    monkeypatch.setattr(accounts_api.router, "routes", [*accounts_api.router.routes, *router.routes])
    app = create_app()
    app.state.seen = seen
    return app


def count(stack: Stack) -> int:
    with stack.database.read() as session:
        return int(session.scalar(select(func.count()).select_from(Workspace)) or 0) - 1


def program(app: FastAPI, api: TestClient) -> TestClient:
    return TestClient(app, base_url=ADDRESS, headers=dict(api.headers), raise_server_exceptions=False)


def test_without_a_key_each_request_counts(stack: Stack, making: FastAPI, api: TestClient) -> None:
    client = program(making, api)
    answers = [client.post("/api/v1/things", json={"name": "a"}) for _ in range(2)]
    assert [each.status_code for each in answers] == [201, 201] and count(stack) == 2


def test_a_key_is_done_once_even_by_many_at_the_same_moment(stack: Stack, making: FastAPI, api: TestClient) -> None:
    start = threading.Barrier(8)

    def post(_: int) -> tuple[int, str, bool]:
        client = program(making, api)
        start.wait()
        answer = client.post("/api/v1/things", json={"name": "a", "slow": True}, headers={"Idempotency-Key": "k"})
        return answer.status_code, answer.text, "idempotency-replayed" in answer.headers

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert {(status, text) for status, text, _ in answers} == {(201, answers[0][1])}
    assert sum(replayed for _, _, replayed in answers) == 7
    assert count(stack) == 1


def test_a_key_belongs_to_its_request(stack: Stack, making: FastAPI, api: TestClient) -> None:
    client = program(making, api)
    key = {"Idempotency-Key": "k"}
    assert client.post("/api/v1/things", json={"name": "a"}, headers=key).status_code == 201
    other = client.post("/api/v1/things", json={"name": "b"}, headers=key)
    assert other.status_code == 422 and "another request" in other.json()["error"]["message"]
    assert client.post("/api/v1/things", json={"name": "a"}, headers={"Idempotency-Key": "l"}).status_code == 201
    assert client.post("/api/v1/things", json={"name": "a"}, headers={"Idempotency-Key": "x" * 256}).status_code == 400
    assert count(stack) == 2


def test_a_refused_request_leaves_its_key_free(stack: Stack, making: FastAPI, api: TestClient) -> None:
    client = program(making, api)
    key = {"Idempotency-Key": "k"}
    assert client.post("/api/v1/things", json={"name": "a", "refused": True}, headers=key).status_code == 409
    assert client.post("/api/v1/things", json={"name": "a"}, headers=key).status_code == 201
    assert count(stack) == 1


def test_the_work_is_committed_before_the_answer(stack: Stack, making: FastAPI, api: TestClient) -> None:
    order = making.state.seen

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                order.append("answered")
            await send(message)

        await making(scope, receive, sending)

    client = TestClient(watch, base_url=ADDRESS, headers=dict(api.headers))
    assert client.post("/api/v1/told").status_code == 200
    assert order == ["committed", "answered"]


def test_reading_waits_for_no_writer(stack: Stack, client: TestClient) -> None:
    with stack.database.write() as session:
        session.execute(text("UPDATE workspaces SET name = 'held'"))
        start = time.monotonic()
        assert client.get("/api/v1/workspaces").json()["data"][0]["name"] == "Default"
        assert time.monotonic() - start < 2
