"""The audit log: what is in it, that nobody can change it unnoticed, and who may read it."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from starlette.testclient import TestClient

from app import migrations
from app.accounts import audit
from app.accounts.tables import AuditEntry
from app.database import Database
from app.settings import Settings
from tests.conftest import Stack, browser
from tests.servers import missing, postgres_database


def entries(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/api/v1/audit", params={"limit": 500, **query}).json()["data"]
    return found


def actions(client: TestClient, **query: Any) -> list[str]:
    return [each["action"] for each in reversed(entries(client, **query))]


def test_what_people_do_is_noted_with_who_what_and_from_where(client: TestClient) -> None:
    token = client.post("/api/v1/tokens", json={"name": "nightly", "role": "viewer", "scopes": ["read"]}).json()
    client.delete(f"/api/v1/tokens/{token['id']}")
    lab = client.post("/api/v1/workspaces", json={"name": "Lab"}).json()["id"]
    ada = client.post("/api/v1/users", json={"name": "Ada", "role": "viewer"}).json()["id"]
    client.patch(f"/api/v1/users/{ada}", json={"role": "engineer"})
    client.put(f"/api/v1/workspaces/{lab}/members/{ada}", json={"role": "admin"})
    invited = client.post("/api/v1/invites", json={"name": "Grace"}).json()["id"]
    client.delete(f"/api/v1/invites/{invited}")
    client.delete(f"/api/v1/users/{ada}")
    assert actions(client) == [
        "sign_in.ok",
        "tokens.create",
        "tokens.revoke",
        "workspaces.create",
        "users.create",
        "users.role",
        "members.role",
        "invites.create",
        "invites.revoke",
        "users.disable",
    ]
    role = entries(client, action="users.role")[0]
    assert role["actor"] == "admin" and role["via"] == "session" and role["subject"] == "Ada" and role["address"] == "127.0.0.1"
    assert role["details"] == {"user": ada, "before": "viewer", "after": "engineer"}
    assert entries(client, action="tokens", subject="nightly")[1]["details"]["scopes"] == "read"
    client.post("/logout")
    anew = browser(client.app)  # type: ignore[arg-type]  # the application under the client
    assert anew.get("/api/v1/audit").status_code == 401


def test_signing_in_and_failing_to_is_noted_without_the_secret(stack: Stack, app: FastAPI, client: TestClient) -> None:
    stranger = browser(app)
    assert stranger.post("/login", data={"name": "admin\x00\u202e" + "x" * 5000, "password": "guess-guess"}).status_code == 401
    assert stranger.get("/login?token=guess-guess").status_code == 401
    client.get("/runs")
    failed = entries(client, action="sign_in.failed")
    assert [each["via"] for each in failed] == ["link", "password"]
    assert failed[1]["subject"].startswith("admin") and len(failed[1]["subject"]) <= 200 and "\x00" not in failed[1]["subject"]
    assert "guess-guess" not in str(failed)
    with stack.database.read() as session:
        assert audit.check(session).broken_at is None


def test_no_route_is_forgotten(stack: Stack, api: TestClient, client: TestClient) -> None:
    """Routes of other nouns, which say nothing of the log themselves."""
    made = api.post("/api/v1/datasets", files={"file": ("sums.jsonl", b'{"prompt": "a", "completion": "b"}\n')}, data={"name": "sums"})
    assert made.status_code == 201, made.text
    dataset = made.json()["id"]
    assert api.delete(f"/api/v1/datasets/{dataset}").status_code in (200, 204)
    noted = [(each["action"], each["subject"]) for each in entries(client) if each["action"].startswith("datasets")]
    assert noted == [("datasets.delete", dataset), ("datasets.create", dataset)]
    assert entries(client)[0]["via"] == "token"


def test_what_was_refused_or_changed_nothing_is_not_noted(client: TestClient) -> None:
    before = len(entries(client))
    assert client.post("/api/v1/tokens", json={"name": ""}).status_code == 422
    assert client.post("/settings/tokens", data={"name": ""}).status_code == 422
    assert client.delete("/api/v1/runs/run_nothing").status_code == 404
    assert client.patch("/api/v1/users/nobody", json={"role": "viewer"}).status_code == 404
    assert client.post("/api/v1/runs/plan", json={}).status_code in (200, 404, 422)
    assert len(entries(client)) == before
    headers = {"Idempotency-Key": "k"}
    for _ in range(3):
        client.post("/api/v1/workspaces", json={"name": "Once"}, headers=headers)
    assert len(entries(client)) == before + 1


def test_downloads_are_noted(client: TestClient) -> None:
    assert client.get("/settings/audit.csv").status_code == 200
    assert entries(client)[0]["action"] == "audit.download"
    count = len(entries(client))
    assert client.head("/settings/audit.csv").status_code == 200
    assert len(entries(client)) == count


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE audit SET actor = 'nobody' WHERE number = 2",
        "UPDATE audit SET hash = 'x' WHERE number = 3",
        "DELETE FROM audit WHERE number = 2",
        "DELETE FROM audit WHERE number = 1",
        'UPDATE audit SET details = \'{"x": "y"}\' WHERE number = 2',
    ],
)
def test_a_changed_log_is_found_out(stack: Stack, client: TestClient, tamper: str) -> None:
    for number in range(4):
        client.post("/api/v1/tokens", json={"name": f"token {number}"})
    assert client.get("/api/v1/audit/check").json()["broken_at"] is None
    assert "as they were written" in client.get("/settings/audit?check=1").text
    with stack.database.write() as session:
        session.execute(text(tamper))
    found = client.get("/api/v1/audit/check").json()["broken_at"]
    assert found in (1, 2, 3)
    assert "is not what it was" in client.get("/settings/audit?check=1").text


def test_many_at_once_make_one_chain(stack: Stack, app: FastAPI, api: TestClient) -> None:
    start = threading.Barrier(6)

    def make(number: int) -> int:
        start.wait()
        return int(api.post("/api/v1/tokens", json={"name": f"token {number}"}).status_code)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(make, range(6))) == {201}
    with stack.database.read() as session:
        numbers = session.scalars(select(AuditEntry.number).order_by(AuditEntry.number)).all()
        chain = audit.check(session)
    assert list(numbers) == list(range(1, len(numbers) + 1)) and chain.broken_at is None and chain.entries == len(numbers)


def test_an_undone_transaction_leaves_no_entry(stack: Stack) -> None:
    with pytest.raises(RuntimeError), stack.database.write() as session:
        audit.record(session, None, "things.make", "x")
        raise RuntimeError("undone")
    with stack.database.read() as session:
        assert audit.entries(session) == []


def test_an_admin_of_one_workspace_sees_what_concerns_it(stack: Stack, client: TestClient, as_role: Callable[[str], TestClient]) -> None:
    boss = as_role("engineer")
    boss_id = boss.get("/api/v1/me").json()["user_id"]
    assert client.put(f"/api/v1/workspaces/{stack.workspace_id}/members/{boss_id}", json={"role": "admin"}).status_code == 200
    client.post("/api/v1/workspaces", json={"name": "Secret lab"})
    assert "workspaces.create" in actions(client)
    assert "members.role" in actions(boss) and "workspaces.create" not in actions(boss) and "sign_in.ok" not in actions(boss)
    page = boss.get("/settings/audit")
    assert page.status_code == 200 and "Secret lab" not in page.text
    assert boss.get("/api/v1/audit/check").status_code == 403
    assert as_role("engineer").get("/api/v1/audit").status_code == 403


def test_the_page_filters_pages_and_escapes(client: TestClient) -> None:
    for number in range(55):
        client.post("/api/v1/tokens", json={"name": f"<i>{number}</i>"})
    page = client.get("/settings/audit")
    assert "&lt;i&gt;54&lt;/i&gt;" in page.text and "<i>" not in page.text and "Older" in page.text
    assert "No entry matches" in client.get("/settings/audit?actor=nobody%25").text
    older = client.get("/settings/audit?action=tokens&after=10").text
    assert "&lt;i&gt;54&lt;/i&gt;" not in older and "&lt;i&gt;3&lt;/i&gt;" in older
    pieces: list[int] = []
    after: str | None = ""
    while after is not None:
        piece = client.get("/api/v1/audit", params={"limit": 20, "after": after} if after else {"limit": 20}).json()
        pieces += [each["number"] for each in piece["data"]]
        after = piece["next"]
    assert pieces == list(range(len(pieces), 0, -1))


def test_the_csv_opens_in_a_spreadsheet_without_running_formulas(client: TestClient) -> None:
    client.post("/api/v1/tokens", json={"name": '=HYPERLINK("http://evil.example")'})
    answer = client.get("/settings/audit.csv?action=tokens")
    assert "attachment" in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 1 and rows[0]["subject"] == '\'=HYPERLINK("http://evil.example")'


@pytest.fixture(params=["sqlite", "postgres"])
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database made by the migrations, with their triggers."""
    if request.param == "sqlite":
        settings = Settings(home=tmp_path, database_url="")
        migrations.upgrade(settings)
        yield Database(settings.database)
        return
    try:
        with postgres_database() as url:
            migrations.upgrade(Settings(home=tmp_path, database_url=url))
            database = Database(url)
            yield database
            database.dispose()
    except LookupError as error:
        missing("server", f"{error}.")


@pytest.mark.parametrize("statement", ["UPDATE audit SET actor = 'x'", "DELETE FROM audit"])
def test_the_database_itself_refuses_to_change_the_log(migrated: Database, statement: str) -> None:
    with migrated.write() as session:
        audit.record(session, None, "things.make", "x")
    with pytest.raises(DBAPIError, match="only ever added to"), migrated.write() as session:
        session.execute(text(statement))
    with migrated.write() as session:
        audit.record(session, None, "things.make", "y")
    with migrated.read() as session:
        assert audit.check(session).entries == 2
