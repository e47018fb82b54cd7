"""Passwords, for those who want one: setting, signing in, being wrong, and what a change ends."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from sqlalchemy import select, text, update
from starlette.testclient import TestClient

from app.accounts import passwords, people
from app.accounts.tables import BrowserSession, User
from app.database import now
from app.security import Attempts
from tests.conftest import Stack, browser, signed_in

GOOD = "four plain words in a row"
NEW = "another row of plain words"


def set_password(client: TestClient, password: str = GOOD, *, again: str | None = None, current: str = "") -> int:
    data = {"password": password, "again": password if again is None else again, "current": current}
    return client.post("/settings/password", data=data).status_code


def sign_in(app: FastAPI, name: str, password: str, client: TestClient | None = None) -> TestClient:
    client = client or browser(app)
    client.answer = client.post("/login", data={"name": name, "password": password})  # type: ignore[attr-defined]  # for the test to look at
    return client


def works(client: TestClient) -> bool:
    return bool(client.get("/api/v1/me").status_code == 200)


def late(stack: Stack) -> None:
    """Have the sign-in by link be long ago."""
    with stack.database.write() as session:
        session.execute(update(BrowserSession).values(created_at=now() - 7200))


def test_somebody_without_a_password_sets_one_and_signs_in_with_it(stack: Stack, app: FastAPI, client: TestClient) -> None:
    assert "You have none" in client.get("/settings").text
    assert set_password(client) == 303
    assert works(client)
    second = sign_in(app, "admin", GOOD)
    assert second.answer.headers["location"] == "/runs" and works(second)  # type: ignore[attr-defined]
    with stack.database.read() as session:
        kept = session.scalar(select(User.password_hash))
    assert kept is not None and kept.startswith("$argon2id$") and GOOD not in kept


def test_one_signs_in_by_e_mail_address_too_whatever_its_case(app: FastAPI, client: TestClient) -> None:
    assert client.post("/settings/name", data={"name": "Ada Łukasiewicz", "email": "Ada@Example.org"}).status_code == 303
    set_password(client)
    for name in ("ada@example.ORG", "Ada Łukasiewicz", " Ada Łukasiewicz "):
        assert works(sign_in(app, name, GOOD))


@pytest.mark.parametrize("email", ["a@", "a b@example.org", "a,b@example.org", "<a@example.org", "a@[", '"a@b', "x@y,z@w"])
def test_an_address_no_mail_can_be_sent_to_is_refused(client: TestClient, email: str) -> None:
    refused = client.post("/api/v1/users", json={"name": "Ada", "email": email})
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "email", refused.text
    assert client.post("/api/v1/users", json={"name": "Ada", "email": "ada.l+x@sub.example.org"}).status_code == 201


@pytest.mark.parametrize("password", ["", "short", "aaaaaaaaaaaaaaaa", "admin123", "x" * 1001])
def test_a_poor_password_is_refused_in_words(stack: Stack, client: TestClient, password: str) -> None:
    answer = client.post("/settings/password", data={"password": password, "again": password})
    assert answer.status_code == 422 and "assword" in answer.text
    with stack.database.read() as session:
        assert session.scalar(select(User.password_hash)) is None


def test_two_different_passwords_are_not_one(client: TestClient) -> None:
    answer = client.post("/settings/password", data={"password": GOOD, "again": NEW})
    assert answer.status_code == 422 and "not the same" in answer.text


def test_changing_it_asks_for_the_old_one_unless_one_came_by_link_just_now(stack: Stack, client: TestClient) -> None:
    assert set_password(client) == 303
    assert set_password(client, NEW) == 303, "signed in by link within the hour"
    late(stack)
    assert "Password so far" in client.get("/settings").text
    assert set_password(client, GOOD) == 422
    assert set_password(client, GOOD, current="wrong") == 422
    assert set_password(client, GOOD, current=NEW) == 303


def test_a_change_turns_the_session_over_and_ends_all_others(stack: Stack, app: FastAPI, client: TestClient) -> None:
    other = signed_in(app, stack, stack.admin_id)
    stolen = browser(app)
    stolen.cookies.update(dict(client.cookies))
    assert works(other) and works(stolen)
    assert set_password(client) == 303
    assert works(client) and not works(other) and not works(stolen)


def test_wrong_names_and_wrong_passwords_get_the_same_answer(app: FastAPI, client: TestClient) -> None:
    set_password(client)
    texts = set()
    for name, password in (("admin", "wrong"), ("nobody at all", GOOD), ("", ""), ("admin", GOOD + "\x00"), ("a" * 10_000, "b" * 10_000)):
        answer = browser(app).post("/login", data={"name": name, "password": password})
        assert answer.status_code == 401 and not answer.cookies
        texts.add(answer.text.replace(name[:200], "") if name else answer.text)
        assert passwords.SHORTEST and "do not let anybody in" in answer.text
    assert len({text.split("<form")[0] for text in texts}) == 1


def test_an_unknown_name_takes_as_long_as_a_known_one(stack: Stack, client: TestClient) -> None:
    set_password(client)

    def seconds(name: str) -> float:
        took = []
        for _ in range(5):
            start = time.perf_counter()
            with stack.database.read() as session:
                assert passwords.check_sign_in(session, name, "wrong password") is None
            took.append(time.perf_counter() - start)
        return statistics.median(took)

    seconds("nobody")
    known, unknown = seconds("admin"), seconds("nobody")
    assert 0.4 < unknown / known < 2.5


def test_a_disabled_person_and_one_without_a_password_do_not_get_in(stack: Stack, app: FastAPI, client: TestClient) -> None:
    with stack.database.write() as session:
        ada = people.add_user(session, "Ada", "engineer").id
        bob = people.add_user(session, "Bob", "engineer").id
        passwords.set_hash(session, bob, passwords.hashed(GOOD))
    assert sign_in(app, "Ada", "").answer.status_code == 401  # type: ignore[attr-defined]
    assert works(sign_in(app, "Bob", GOOD))
    assert client.delete(f"/api/v1/users/{bob}").status_code == 204
    assert sign_in(app, "Bob", GOOD).answer.status_code == 401  # type: ignore[attr-defined]
    assert ada


def test_a_hash_of_older_rules_is_made_anew_at_sign_in(stack: Stack, app: FastAPI) -> None:
    from pwdlib.hashers.argon2 import Argon2Hasher

    old = Argon2Hasher(time_cost=1, memory_cost=8192, parallelism=1).hash(GOOD)
    with stack.database.write() as session:
        passwords.set_hash(session, stack.admin_id, old)
    assert works(sign_in(app, "admin", GOOD))
    with stack.database.read() as session:
        kept = session.scalar(select(User.password_hash))
    assert kept != old
    assert works(sign_in(app, "admin", GOOD))


def test_guessing_at_one_account_is_slowed_from_every_address(stack: Stack, app: FastAPI, client: TestClient) -> None:
    set_password(client)
    limit = stack.settings.login_attempts_per_minute
    for number in range(limit):
        guesser = TestClient(app, base_url="http://127.0.0.1:8000", client=(f"127.0.0.{number + 10}", 1), follow_redirects=False)
        assert guesser.post("/login", data={"name": "admin", "password": f"guess {number}"}).status_code == 401
    answer = sign_in(app, "admin", GOOD).answer  # type: ignore[attr-defined]
    assert answer.status_code == 429 and "Wait a minute" in answer.text and int(answer.headers["retry-after"]) > 30
    with stack.database.write() as session:
        from app.accounts import service

        link = service.link_for(session, stack.settings, stack.admin_id)
    assert browser(app).get(link).status_code == 303, "a link still works"


def test_signing_in_is_refused_to_other_sites(app: FastAPI, client: TestClient) -> None:
    set_password(client)
    answer = browser(app).post("/login", data={"name": "admin", "password": GOOD}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_no_password_lies_in_the_database_or_the_log(stack: Stack, app: FastAPI, client: TestClient) -> None:
    set_password(client)
    sign_in(app, "admin", "a wrong secret word")
    with stack.database.read() as session:
        for table in ("users", "sessions", "audit"):
            kept = repr(session.execute(text(f"SELECT * FROM {table}")).all())
            assert GOOD not in kept and "a wrong secret word" not in kept


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """A clock that is set by hand."""
    moment = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: moment[0])
    yield moment


def test_who_fails_again_waits_twice_as_long(clock: list[float]) -> None:
    attempts = Attempts(3)

    def wait() -> float:
        from app.errors import TooMany

        for _ in range(3):
            attempts.check("x")
            attempts.failed("x")
        with pytest.raises(TooMany) as caught:
            attempts.check("x")
        return float(caught.value.details["retry_after"]) - 1

    assert wait() == 60
    clock[0] += 61
    assert wait() == 120
    clock[0] += 121
    assert wait() == 240
    clock[0] += 241
    for _ in range(4):
        clock[0] += wait() + 1
    assert wait() == Attempts.LONGEST
    clock[0] += Attempts.LONGEST + Attempts.REMEMBERED + 1
    assert wait() == 60, "after a quiet hour it is forgotten"
    attempts.succeeded("x")
    attempts.check("x")
