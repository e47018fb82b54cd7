"""What the user reads when something does not work: always a sentence, never a stack trace."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from app import web
from app.accounts import api as accounts_api
from app.accounts import pages as accounts_pages
from app.accounts.tables import Workspace
from app.errors import ConfigError, Conflict
from app.main import check_assets, create_app
from app.settings import get_settings
from app.web import Reader, ReadSession, WriteSession, api_router, pages_router
from tests.conftest import ADDRESS, Stack, signed_in

TRACES = ("Traceback", ".py", "sqlalchemy", "File &#34;", "psycopg", "sqlite3")


class Body(BaseModel):
    """A body with the common limits."""

    rate: float = Field(0.1, gt=0, le=0.01)
    steps: int = Field(1, ge=1)
    mode: str = "x"


@pytest.fixture
def failing(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The application with routes that fail in every way."""
    rest, pages = api_router("test"), pages_router()
    faults: dict[str, Exception] = {
        "fault": ValueError("secret inner words"),
        "conflict": Conflict("The run has ended already.", details={"status": "succeeded"}),
        "locked": OperationalError("SELECT 1", {}, sqlite3.OperationalError("database is locked")),
        "full": OSError(errno.ENOSPC, "No space left on device"),
        "database-full": OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full")),
        "huge": OverflowError("Python int too large to convert to SQLite INTEGER"),
        "gone": ClientDisconnect(),
    }

    def fail(kind: str, who: Reader) -> None:
        raise faults[kind]

    rest.add_api_route("/fail/{kind}", fail, methods=["GET"])
    pages.add_api_route("/fail/{kind}", fail, methods=["GET"])

    @rest.post("/body")
    def body(given: Body, who: Reader) -> Body:
        return given

    @rest.post("/name/{name}")
    def name(name: str, who: Reader, session: WriteSession) -> None:
        session.add(Workspace(name=name))

    @rest.post("/late/{name}")
    def late(name: str, who: Reader, session: WriteSession) -> None:
        session.add(Workspace(name=name))
        session.flush()
        raise Conflict("Too late.")

    @rest.get("/tables")
    def tables(who: Reader, session: ReadSession) -> None:
        session.execute(text("SELECT * FROM not_there"))

    monkeypatch.setattr(accounts_api.router, "routes", [*accounts_api.router.routes, *rest.routes])
    monkeypatch.setattr(accounts_pages.router, "routes", [*accounts_pages.router.routes, *pages.routes])
    return create_app()


@pytest.fixture
def program(failing: FastAPI, api: TestClient) -> TestClient:
    return TestClient(failing, base_url=ADDRESS, headers=dict(api.headers), raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("kind", "status", "code", "words"),
    [
        ("fault", 500, "internal", "as fault"),
        ("conflict", 409, "conflict", "ended already"),
        ("locked", 503, "unavailable", "try again"),
        ("full", 507, "disk_full", "Free some space"),
        ("gone", 400, "bad_request", "broke off"),
        ("database-full", 507, "disk_full", "Free some space"),
        ("huge", 422, "invalid", "too large"),
    ],
)
def test_failures_are_sentences(stack: Stack, failing: FastAPI, program: TestClient, kind: str, status: int, code: str, words: str) -> None:
    answer = program.get(f"/api/v1/fail/{kind}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert words in answer.json()["error"]["message"]
    assert (answer.headers.get("retry-after") is not None) == (status == 503)
    person = signed_in(failing, stack, stack.admin_id)
    page = person.get(f"/fail/{kind}")
    assert page.status_code == status and "<h1>" in page.text and words.split("'")[0] in page.text
    fragment = person.get(f"/fail/{kind}", headers={"HX-Request": "true", "HX-Request-Type": "partial"})
    assert fragment.status_code == status and 'role="alert"' in fragment.text and "<html" not in fragment.text
    for shown in (answer, page, fragment):
        assert not [trace for trace in (*TRACES, "secret inner words") if trace in shown.text]
        assert "content-security-policy" in shown.headers


def test_a_fault_is_in_the_log_under_its_number(program: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    message = program.get("/api/v1/fail/fault").json()["error"]["message"]
    number = message.split("as fault ")[1].split(".")[0]
    assert f"Fault {number} at GET /api/v1/fail/fault" in caplog.text and "secret inner words" in caplog.text


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"rate": 5}, "rate", "Must be at most 0.01, and it is 5."),
        ({"rate": 0}, "rate", "Must be more than 0"),
        ({"steps": 0}, "steps", "Must be at least 1, and it is 0."),
        ({"steps": "many"}, "steps", "Must be a whole number."),
        ({"rate": [1]}, "rate", "Must be a number."),
        ({"mode": 3}, "mode", "Must be text."),
        ([], "body", "Must be an object."),
    ],
)
def test_wrong_fields_are_named_in_plain_words(program: TestClient, body: Any, field: str, words: str) -> None:
    answer = program.post("/api/v1/body", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field and words in answer.json()["error"]["message"]


def test_all_wrong_fields_are_listed(program: TestClient) -> None:
    details = program.post("/api/v1/body", json={"rate": 5, "steps": 0}).json()["error"]["details"]
    assert [each["field"] for each in details] == ["rate", "steps"]


@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"rate": }', b"\xff\xfe", b"[" * 5000 + b"]" * 5000, b"[" * 200_000])
def test_broken_json_is_a_clear_refusal(program: TestClient, body: bytes) -> None:
    answer = program.post("/api/v1/body", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"].endswith(".")


def test_unknown_addresses_and_methods(program: TestClient, client: TestClient) -> None:
    answer = program.get("/api/v1/nothing")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    answer = program.put("/api/v1/tokens")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    page = client.get("/nothing")
    assert page.status_code == 404 and "<h1>Not found</h1>" in page.text


def test_characters_and_doubles_the_database_refuses(stack: Stack, program: TestClient) -> None:
    assert program.post("/api/v1/name/Second").status_code == 200
    twice = program.post("/api/v1/name/Second")
    assert twice.status_code == 409 and "same moment" in twice.json()["error"]["message"]
    if stack.name == "postgres":
        assert program.post("/api/v1/name/a%00b").status_code == 422


def test_a_refused_request_leaves_nothing_behind(program: TestClient) -> None:
    assert program.post("/api/v1/late/Half").status_code == 409
    assert program.post("/api/v1/name/Half").status_code == 200


def test_missing_tables_say_what_to_run(program: TestClient) -> None:
    answer = program.get("/api/v1/tables")
    assert answer.status_code == 503 and "luthier migrate" in answer.json()["error"]["message"]


def test_health_needs_nobody_and_tells_nothing(anonymous: TestClient) -> None:
    for path in ("/healthz", "/readyz"):
        answer = anonymous.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_not_ready_without_its_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: Stack) -> None:
    monkeypatch.setenv(
        "LUTHIER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none" if stack.name == "postgres" else f"sqlite:///{tmp_path}/none/none.db"
    )
    get_settings.cache_clear()
    web.templates.cache_clear()
    client = TestClient(create_app(get_settings().model_copy()), base_url=ADDRESS, raise_server_exceptions=False)
    assert client.get("/healthz").status_code == 200
    answer = client.get("/readyz")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert "none" not in answer.text and "nobody" not in answer.text
    page = client.get("/settings", headers={"Cookie": "luthier_8000=x"})
    assert page.status_code == 503 and "<h1>" in page.text


def test_the_rest_document_is_for_those_who_are_signed_in(anonymous: TestClient, client: TestClient) -> None:
    assert anonymous.get("/openapi.json").status_code == anonymous.get("/docs").status_code == 401
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == "Luthier" and "/api/v1/tokens" in document["paths"]
    assert not [path for path in document["paths"] if not path.startswith("/api/v1/")]
    shown = client.get("/docs").text
    assert "POST /api/v1/tokens" in shown and "expires_at" in shown


def test_missing_browser_assets_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.main.files", lambda name: tmp_path)
    with pytest.raises(ConfigError, match="make setup"):
        check_assets()


def test_the_front_door_leads_to_the_runs(anonymous: TestClient) -> None:
    answer = anonymous.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
