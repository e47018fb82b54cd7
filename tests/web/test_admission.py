"""Rates of change, HEAD, and open streams whose reader is sent away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app import admission
from app.accounts import people, service, sessions
from app.accounts.tables import LoginLink, Member, Token, User
from app.database import now
from app.errors import TooMany
from app.main import create_app
from app.security import Rates
from app.settings import get_settings
from tests.conftest import ADDRESS, Server, Stack, browser
from tests.factories import add_run

pytestmark = pytest.mark.one_stack

PAGES = ("/runs", "/datasets", "/models", "/settings", "/settings/tokens", "/settings/audit", "/docs", "/login", "/nothing")


# --- rates ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application with room for five changes a minute."""
    monkeypatch.setenv("LUTHIER_CHANGES_PER_MINUTE", "5")
    get_settings.cache_clear()
    return create_app()


def test_too_many_changes_of_a_token_have_to_wait(stack: Stack, slow: FastAPI, api: TestClient) -> None:
    program = TestClient(slow, base_url=ADDRESS, headers=dict(api.headers))
    made = [program.post("/api/v1/tokens", json={"name": str(number)}) for number in range(6)]
    assert [each.status_code for each in made] == [201] * 5 + [429]
    error = made[5].json()["error"]
    assert error["code"] == "too_many_requests" and "LUTHIER_CHANGES_PER_MINUTE" in error["message"]
    assert 1 <= int(made[5].headers["retry-after"]) <= 13
    assert program.get("/api/v1/tokens").status_code == 200, "reading goes on"
    other = TestClient(slow, base_url=ADDRESS, headers={"Authorization": f"Bearer {made[0].json()['token']}"})
    assert other.post("/api/v1/tokens", json={"name": "x"}).status_code == 201, "each token has its own count"
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Token)) == 7


def test_what_was_not_used_comes_back_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    rates = Rates(60)

    def taken() -> int:
        for number in range(1000):
            try:
                rates.take("x")
            except TooMany:
                return number
        return 1000

    assert taken() == 60
    moment[0] += 10
    assert taken() == 10
    moment[0] += 3600
    assert taken() == 60
    assert [Rates(0).take("x") for _ in range(100)] == [None] * 100
    for number in range(25_000):
        rates.take(str(number))
    assert len(rates._left) <= 10_000


# --- HEAD -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/healthz", "/api/v1/tokens", "/static/css/app.css"])
def test_head_answers_as_get_without_the_body(client: TestClient, path: str) -> None:
    got, looked = client.get(path), client.head(path)
    assert looked.status_code == got.status_code and looked.content == b""
    for name in ("content-type", "content-security-policy", "cache-control"):
        assert looked.headers.get(name) == got.headers.get(name)


def test_head_changes_nothing_and_waits_for_no_stream(stack: Stack, server: Server) -> None:
    with httpx2.Client(base_url=server.url, timeout=10) as person:
        link = server.link()
        assert person.head(link).status_code == 200
        with stack.database.read() as session:
            assert session.scalar(select(func.count()).select_from(LoginLink).where(LoginLink.used_at.is_not(None))) == 0
        assert person.get(link).status_code == 303
        start = time.monotonic()
        answer = person.head("/events?topics=queue")
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        assert time.monotonic() - start < 5


# --- streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["session", "token", "role", "disabled"])
def test_a_stream_ends_soon_after_its_reader_was_sent_away(
    stack: Stack, server: Server, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    assert admission.LOOK_SECONDS <= 15
    monkeypatch.setattr(admission, "LOOK_SECONDS", 0.5)
    headers: dict[str, str] = {}
    with stack.database.write() as session:
        ada = people.add_user(session, "Ada", "engineer").id
        if ending == "token":
            token, plain = service.create_token(session, name="x", role="viewer", user_id=ada, workspace_id=stack.workspace_id)
            headers["Authorization"] = f"Bearer {plain}"
        else:
            link = service.link_for(session, server.app.state.settings, ada)
    with httpx2.Client(base_url=server.url, timeout=20, headers=headers) as person:
        if ending != "token":
            assert person.get(link).status_code == 303
        with person.stream("GET", "/api/v1/events?topics=queue") as stream:
            assert stream.status_code == 200
            parts = stream.iter_bytes()
            assert next(parts)
            time.sleep(1.2)  # it was looked at least once, and went on
            with stack.database.write() as session:
                if ending == "session":
                    sessions.end_other_sessions(session, ada, but="")
                elif ending == "token":
                    token = session.merge(token)
                    token.revoked_at = session.scalar(select(now()))
                elif ending == "role":
                    member = session.get(Member, (stack.workspace_id, ada))
                    assert member is not None
                    member.role = "rater"
                else:
                    user = session.get(User, ada)
                    assert user is not None
                    user.disabled_at = session.scalar(select(now()))
            start = time.monotonic()
            left: list[Any] = list(parts)
            assert time.monotonic() - start < 8, left


def test_many_streams_opened_at_once_all_open(stack: Stack, server: Server) -> None:
    """More of them than threads or connections: none may hold a connection while it waits for a thread."""
    many = 90
    with stack.database.write() as session:
        _, plain = service.create_token(session, name="x", role="viewer", user_id=server.admin_id, workspace_id=stack.workspace_id)
        run_id = add_run(session, stack.workspace_id).id

    async def first(person: httpx2.AsyncClient) -> bytes:
        async with person.stream("GET", f"/api/v1/events?topics=run:{run_id}") as stream:
            assert stream.status_code == 200
            return await anext(stream.aiter_bytes())

    async def all_of_them() -> list[bytes]:
        limits = httpx2.Limits(max_connections=many)
        headers = {"Authorization": f"Bearer {plain}"}
        async with httpx2.AsyncClient(base_url=server.url, timeout=20, headers=headers, limits=limits) as person:
            return await asyncio.gather(*(first(person) for _ in range(many)))

    assert all(b"connected" in part for part in asyncio.run(all_of_them()))


def test_an_address_that_is_refused_says_so_in_words(client: TestClient) -> None:
    answer = browser(client.app, Authorization="Bearer lt_x_y").get("/runs")  # type: ignore[arg-type]  # the application under the client
    assert answer.status_code == 401 and "Sign in" in answer.text
