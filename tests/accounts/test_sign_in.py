"""Signing in by a one-time link, and the sessions that come of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import select, text, update
from starlette.testclient import TestClient

from app.accounts import service
from app.accounts.tables import BrowserSession, LoginLink, User
from app.database import now
from app.errors import ConfigError
from app.main import create_app
from app.settings import get_settings
from tests.conftest import ADDRESS, Server, Stack, browser


def link(stack: Stack, user_id: str | None = None) -> str:
    with stack.database.write() as session:
        return service.link_for(session, stack.settings, user_id or stack.admin_id)


def token_of(address: str) -> str:
    return parse_qs(urlsplit(address).query)["token"][0]


def test_the_first_start_makes_one_workspace_and_one_admin(stack: Stack) -> None:
    with stack.database.write() as session:
        again = service.ensure_first(session)
        assert (again.id, again.name, again.role) == (stack.admin_id, "admin", "admin")
        assert [user.name for user in service.list_users(session)] == ["admin"]
        assert [workspace.name for workspace in service.list_workspaces(session, again.id)] == ["Default"]


def test_a_link_signs_in_once(stack: Stack, app: FastAPI) -> None:
    address = link(stack)
    assert address.startswith("http://127.0.0.1:8000/login?token=")
    first = browser(app)
    answer = first.get(address)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert first.get("/api/v1/sessions").status_code == 200

    assert first.get(address).headers["location"] == "/runs"

    again = browser(app)
    answer = again.get(address)
    assert answer.status_code == 401
    assert "has been used already" in answer.text and "luthier user link" in answer.text
    assert again.get("/api/v1/sessions").status_code == 401


def test_a_link_ends_after_a_quarter_of_an_hour(stack: Stack, anonymous: TestClient) -> None:
    address = link(stack)
    with stack.database.write() as session:
        left = session.scalar(select(LoginLink.expires_at - now()))
        assert left is not None and 14 * 60 < left <= 15 * 60 + 1
        session.execute(update(LoginLink).values(expires_at=now() - 1))
    answer = anonymous.get(address)
    assert answer.status_code == 401
    assert "older than 15 minutes" in answer.text


def test_looking_at_a_link_does_not_use_it_up(stack: Stack, app: FastAPI) -> None:
    address = link(stack)
    looked = browser(app).head(address)
    assert looked.status_code == 200 and not looked.cookies
    assert browser(app, **{"Sec-Purpose": "prefetch"}).get(address).status_code == 200
    assert browser(app).get(address).status_code == 303


def test_another_site_cannot_sign_a_browser_in_without_a_click(stack: Stack, app: FastAPI) -> None:
    address = link(stack)
    client = browser(app)
    answer = client.get(address, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert not answer.cookies
    assert "Sign in as <bdi>admin</bdi>" in answer.text
    hidden = re.search(r'name="token" value="([^"]+)"', answer.text)
    assert hidden is not None
    assert client.post("/login", data={"token": hidden[1]}).status_code == 303
    assert client.get("/api/v1/sessions").status_code == 200


def test_without_a_link_the_page_says_how_to_get_one(anonymous: TestClient) -> None:
    for path, status in (("/login", 200), ("/settings", 401)):
        answer = anonymous.get(path)
        assert answer.status_code == status
        assert "luthier user link" in answer.text


def test_the_cookie_is_bound_to_port_and_hidden_from_scripts(stack: Stack, anonymous: TestClient) -> None:
    cookie = anonymous.get(link(stack)).headers["set-cookie"]
    assert cookie.startswith("luthier_8000=")
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie


def test_behind_https_the_cookie_is_host_bound_and_secure(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_PUBLIC_URL", "https://luthier.example.org")
    get_settings.cache_clear()
    client = TestClient(
        create_app(),
        base_url="https://luthier.example.org",
        headers={"Sec-Fetch-Site": "none"},
        follow_redirects=False,
        client=("203.0.113.9", 1),
    )
    with stack.database.write() as session:
        address = service.link_for(session, get_settings(), stack.admin_id)
    assert address.startswith("https://luthier.example.org/login")
    answer = client.get(address)
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-luthier=") and "Secure" in cookie and "Domain" not in cookie
    assert "max-age" in answer.headers["strict-transport-security"]


def test_plain_http_from_another_machine_is_refused_unless_allowed(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    address = link(stack)
    answer = TestClient(create_app(), base_url=ADDRESS, follow_redirects=False, client=("192.168.1.20", 1)).get(address)
    assert answer.status_code == 403
    assert "LUTHIER_PUBLIC_URL" in answer.text and "LUTHIER_ALLOW_HTTP" in answer.text
    monkeypatch.setenv("LUTHIER_ALLOW_HTTP", "true")
    get_settings.cache_clear()
    elsewhere = TestClient(create_app(), base_url=ADDRESS, follow_redirects=False, client=("192.168.1.20", 1))
    assert elsewhere.post("/login", data={"token": token_of(address)}).status_code == 303


def test_what_does_not_say_that_a_user_opened_a_link_does_not_use_it_up(
    stack: Stack, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.state.settings, "allow_http", True)
    address = link(stack)
    preview = TestClient(app, base_url=ADDRESS, follow_redirects=False, client=("192.168.1.20", 1))
    looked = preview.get(address)
    assert looked.status_code == 200 and "Sign in as <bdi>admin</bdi>" in looked.text and not looked.cookies
    program = TestClient(app, base_url=ADDRESS, follow_redirects=False, client=("127.0.0.1", 1))
    assert program.get(address).status_code == 303, "a program of this machine"


@pytest.mark.parametrize(("trusted", "seen"), [(None, "203.0.113.5"), ("10.0.0.1, 10.2.0.0/16", "127.0.0.1"), ("*", "203.0.113.5")])
def test_only_a_proxy_that_is_trusted_says_where_somebody_comes_from(
    stack: Stack, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, trusted: str | None, seen: str
) -> None:
    if trusted:
        monkeypatch.setenv("LUTHIER_TRUSTED_PROXIES", trusted)
    server: Server = request.getfixturevalue("server")
    headers = {"X-Forwarded-For": "203.0.113.5", "X-Forwarded-Proto": "https", "Sec-Fetch-Site": "none"}
    with httpx.Client(headers=headers) as client:
        assert client.get(server.link()).status_code == 303
    with stack.database.read() as session:
        assert session.scalar(select(BrowserSession.address)) == seen


def test_trusted_proxies_that_are_no_addresses_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_TRUSTED_PROXIES", "gateway")
    with pytest.raises(ConfigError, match="LUTHIER_TRUSTED_PROXIES"):
        get_settings.__wrapped__()


def test_signing_out_ends_the_session_on_the_server(app: FastAPI, client: TestClient) -> None:
    kept = dict(client.cookies)
    assert client.post("/logout").headers["location"] == "/login"
    thief = browser(app)
    thief.cookies.update(kept)
    assert thief.get("/api/v1/sessions").status_code == 401


@pytest.mark.parametrize("column", ["expires_at", "seen_at"])
def test_sessions_end_after_a_week_and_after_idling(stack: Stack, client: TestClient, column: str) -> None:
    limit = service.IDLE_SECONDS if column == "seen_at" else 0
    with stack.database.write() as session:
        lifetime = session.scalar(select(BrowserSession.expires_at - now()))
        assert lifetime is not None and abs(lifetime - 7 * 24 * 3600) < 60
        session.execute(update(BrowserSession).values({column: now() - limit - 1}))
    assert client.get("/api/v1/sessions").status_code == 401


def test_use_keeps_a_session_alive(stack: Stack, client: TestClient) -> None:
    with stack.database.write() as session:
        session.execute(update(BrowserSession).values(seen_at=now() - 3600))
    assert client.get("/api/v1/sessions").status_code == 200
    with stack.database.read() as session:
        idle = session.scalar(select(now() - BrowserSession.seen_at))
    assert idle is not None and idle < 60


def test_signing_in_again_replaces_the_old_session(stack: Stack, client: TestClient) -> None:
    before = client.get("/api/v1/sessions").json()["data"]
    assert client.get(link(stack)).status_code == 303
    after = client.get("/api/v1/sessions").json()["data"]
    assert len(after) == len(before) == 1
    assert after[0]["id"] != before[0]["id"] and after[0]["current"]


def test_failed_sign_ins_of_an_address_are_limited(stack: Stack, app: FastAPI) -> None:
    client = browser(app)
    for _ in range(stack.settings.login_attempts_per_minute):
        assert client.get("/login?token=guess").status_code == 401
    for answer in (client.get("/login?token=guess"), client.get("/join?token=guess"), client.post("/join", data={"token": "guess"})):
        assert answer.status_code == 429
        assert "Wait a minute" in answer.text and answer.headers["retry-after"]
    elsewhere = TestClient(app, base_url=ADDRESS, follow_redirects=False, client=("127.0.0.2", 1))
    assert elsewhere.get("/login?token=guess").status_code == 401


def test_a_link_or_an_invite_that_works_is_taken_although_its_address_guessed(stack: Stack, app: FastAPI, client: TestClient) -> None:
    invited = client.post("/api/v1/invites", json={"name": "Grace"}).json()["link"]
    neighbour = browser(app)
    for _ in range(stack.settings.login_attempts_per_minute):
        assert neighbour.get("/login?token=guess").status_code == 401
    assert browser(app).get(invited).status_code == 200
    assert browser(app).post("/join", data={"token": token_of(invited), "name": "Grace"}).status_code == 303
    assert browser(app).get(link(stack)).status_code == 303
    assert neighbour.get("/login?token=guess").status_code == 429


def test_a_disabled_user_is_out_at_once(stack: Stack, app: FastAPI, client: TestClient, api: TestClient) -> None:
    late = link(stack)
    with stack.database.write() as session:
        session.execute(update(User).values(disabled_at=now()))
    assert client.get("/api/v1/sessions").status_code == 401
    assert api.get("/api/v1/sessions").status_code == 401
    assert browser(app).get(late).status_code == 401


def test_no_secret_lies_in_the_database(stack: Stack, client: TestClient, api: TestClient) -> None:
    address = link(stack)
    secrets = [token_of(address), client.cookies["luthier_8000"], api.headers["authorization"].split("_")[2]]
    with stack.database.read() as session:
        for table in ("login_links", "sessions", "tokens", "idempotency_keys"):
            kept = repr(session.execute(text(f"SELECT * FROM {table}")).all())
            assert not any(secret in kept for secret in secrets)


def test_one_can_end_ones_own_other_sessions_only(
    stack: Stack, app: FastAPI, client: TestClient, as_role: Callable[[str], TestClient]
) -> None:
    second = browser(app)
    assert second.get(link(stack)).status_code == 303
    viewer = as_role("viewer")
    ids = {each["id"]: each["current"] for each in client.get("/api/v1/sessions").json()["data"]}
    other = next(each for each, current in ids.items() if not current)
    assert viewer.delete(f"/api/v1/sessions/{other}").status_code == 404
    assert client.delete(f"/api/v1/sessions/{other}").status_code == 204
    assert second.get("/api/v1/sessions").status_code == 401
    assert client.delete(f"/api/v1/sessions/{other}").status_code == 404
    assert client.post("/settings/sessions/end-others").status_code == 303
    assert client.get("/api/v1/sessions").status_code == 200
