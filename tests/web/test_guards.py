"""The guards around every request: host names, forged requests, headers, body sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from fastapi import FastAPI, Request, UploadFile
from sqlalchemy import func, select
from starlette.testclient import TestClient

from app.accounts import api as accounts_api
from app.accounts import service as accounts
from app.accounts.tables import Token
from app.main import create_app
from app.security import Attempts, TrustedHosts
from app.settings import get_settings
from app.web import Reader, api_router, upload
from tests.conftest import ADDRESS, Stack, browser

UNSAFE = ("POST", "PUT", "PATCH", "DELETE")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", "", "127.0.0.1:8000/x"]
)
@pytest.mark.parametrize("path", ["/login", "/api/v1/tokens", "/healthz", "/static/css/app.css"])
def test_foreign_host_names_are_not_answered(client: TestClient, host: str, path: str) -> None:
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 400
    assert "LUTHIER_ALLOWED_HOSTS" in answer.text
    assert "admin" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000"])
def test_own_host_names_are_answered(anonymous: TestClient, host: str) -> None:
    assert anonymous.get("/healthz", headers={"Host": host}).status_code == 200


def test_host_patterns() -> None:
    guard = TrustedHosts(None, hosts=["*.example.org", "lab"], refuse=None)  # type: ignore[arg-type]  # only the matching is tried
    assert guard.trusts("a.example.org:80") and guard.trusts("lab")
    assert not guard.trusts("example.org") and not guard.trusts("evilexample.org") and not guard.trusts("lab.evil")


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": ADDRESS}, False),
        ({"Origin": ADDRESS}, True),
        ({"Origin": "http://127.0.0.1:9000"}, False),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({}, False),
    ],
)
def test_a_forged_request_is_refused(stack: Stack, app: FastAPI, client: TestClient, headers: dict[str, str], taken: bool) -> None:
    forged = TestClient(app, base_url=ADDRESS, cookies=dict(client.cookies))
    answer = forged.post("/api/v1/tokens", json={"name": "forged"}, headers=headers)
    assert answer.status_code == (201 if taken else 403)
    with stack.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Token)) == int(taken)
    for method in UNSAFE:
        assert taken or forged.request(method, "/settings", headers=headers).status_code == 403


def test_a_bearer_token_without_a_cookie_needs_no_origin(api: TestClient) -> None:
    assert api.post("/api/v1/tokens", json={"name": "x"}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 201


def test_another_site_cannot_post_a_sign_in(stack: Stack, anonymous: TestClient) -> None:
    with stack.database.write() as session:
        secret = accounts.create_login_link(session, stack.admin_id)
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9000"}):
        assert anonymous.post("/login", data={"token": secret}, headers=headers).status_code == 403
    assert anonymous.post("/login", data={"token": secret}).status_code == 303


def test_scripts_of_other_sites_cannot_use_the_cookie_to_read(client: TestClient) -> None:
    foreign = {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:9000"}
    for path in ("/api/v1/tokens", "/settings", "/openapi.json"):
        assert client.get(path, headers={**foreign, "Sec-Fetch-Mode": "cors"}).status_code == 403
        assert client.get(path, headers={**foreign, "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert client.get("/settings", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_no_other_site_may_read_answers(api: TestClient) -> None:
    answer = api.get("/api/v1/tokens", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert (
        api.options("/api/v1/tokens", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}).status_code
        == 405
    )


@pytest.mark.parametrize("path", ["/login", "/healthz", "/api/v1/tokens", "/nothing", "/static/nothing", "/settings"])
def test_every_answer_carries_the_protective_headers(anonymous: TestClient, path: str) -> None:
    headers = anonymous.get(path).headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert (
        policy["default-src"] == policy["script-src"] == policy["connect-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    )
    assert policy["object-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "permissions-policy" in headers
    assert headers["cache-control"] == "no-store" or path.startswith("/static")
    assert "strict-transport-security" not in headers


def test_pages_hold_no_inline_script(client: TestClient) -> None:
    for path in ("/login", "/settings", "/docs", "/nothing"):
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|javascript:", text), path


# --- body sizes -----------------------------------------------------------------------------------------------------------


def pieces(size: int) -> Iterator[bytes]:
    """A body without a Content-Length."""
    for _ in range(size // 65536):
        yield b" " * 65536


@pytest.fixture
def taking_files(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application with a route that takes files, and with small limits."""
    monkeypatch.setenv("LUTHIER_MAX_UPLOAD_BYTES", str(6 * 1024**2))
    get_settings.cache_clear()
    router = api_router("test")

    @router.post("/take-file")
    @upload
    async def take_file(request: Request, who: Reader) -> dict[str, int]:
        return {"bytes": sum([len(piece) async for piece in request.stream()])}

    @router.post("/take-form")
    @upload
    async def take_form(file: UploadFile, who: Reader) -> dict[str, int]:
        return {"bytes": len(await file.read())}

    @router.post("/take-json")
    async def take_json(request: Request, who: Reader) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    monkeypatch.setattr(accounts_api.router, "routes", [*accounts_api.router.routes, *router.routes])
    return create_app()


def test_bodies_are_limited(taking_files: FastAPI, api: TestClient) -> None:
    program = TestClient(taking_files, base_url=ADDRESS, headers=dict(api.headers), raise_server_exceptions=False)
    for path, size, status in (
        ("/api/v1/take-json", 3, 200),
        ("/api/v1/take-json", 5, 413),
        ("/api/v1/take-file", 5, 200),
        ("/api/v1/take-file", 8, 413),
        ("/api/v1/tokens", 5, 413),
        ("/nothing", 5, 413),
    ):
        answer = program.post(path, content=b" " * size * 1024**2)
        assert answer.status_code == status, path
        if not path.startswith("/nothing"):
            unsaid = program.post(path, content=pieces(size * 1024**2))
            assert unsaid.status_code == status, path
        if status == 413 and path.startswith("/api"):
            assert answer.json()["error"]["code"] == unsaid.json()["error"]["code"] == "too_large"
            assert ("6 MB" if "file" in path else "4 MB") in answer.json()["error"]["message"]
            assert answer.json() == unsaid.json()
    form = program.post("/api/v1/take-form", files={"file": ("x", b" " * 8 * 1024**2)})
    assert form.status_code == 413 and "LUTHIER_MAX_UPLOAD_BYTES" in form.json()["error"]["message"]
    assert program.post("/api/v1/take-form", files={"file": ("x", b" " * 5 * 1024**2)}).json() == {"bytes": 5 * 1024**2}


def test_a_strangers_upload_is_not_read(taking_files: FastAPI) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for piece in pieces(5 * 1024**2):
            sent += len(piece)
            yield piece

    stranger = TestClient(taking_files, base_url=ADDRESS)
    answer = stranger.post("/api/v1/take-form", content=body(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 401
    assert sent <= 65536
    assert stranger.post("/api/v1/tokens", content=b"{not json", headers={"Content-Type": "application/json"}).status_code == 401


def test_a_content_length_that_is_no_number_is_refused(app: FastAPI) -> None:
    assert browser(app).post("/login", content=b"", headers={"Content-Length": "-5"}).status_code == 400


def test_attempts_of_many_addresses_do_not_fill_the_memory() -> None:
    attempts = Attempts(5)
    for number in range(25_000):
        attempts.failed(str(number))
    assert len(attempts._failures) <= 10_001
