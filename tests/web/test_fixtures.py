"""The fixtures themselves: own servers where none is there, nothing left behind, and no way out of this machine."""

from __future__ import annotations

import socket

import pytest
import redis

from tests import servers


def test_tests_cannot_leave_this_machine() -> None:
    with pytest.raises(AssertionError, match="stay on this machine"), socket.socket() as connection:
        connection.connect(("192.0.2.1", 80))
    with pytest.raises(OSError, match="stay on this machine"):
        socket.getaddrinfo("example.org", 80)


def test_a_missing_server_is_a_skip_unless_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUTHIER_TEST_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no PostgreSQL"):
        servers.missing("server", "no PostgreSQL.")
    monkeypatch.setenv("LUTHIER_TEST_REQUIRE", "server, browser")
    with pytest.raises(pytest.fail.Exception, match="asks for “server”"):
        servers.missing("server", "no PostgreSQL.")


def test_a_named_server_that_is_away_is_no_reason_to_take_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:1/postgres")
    monkeypatch.setenv("LUTHIER_TEST_REDIS_URL", "redis://127.0.0.1:1")
    with pytest.raises(LookupError, match="LUTHIER_TEST_POSTGRES_URL"), servers.postgres_database():
        pass
    with pytest.raises(LookupError, match="LUTHIER_TEST_REDIS_URL"), servers.redis_number():
        pass


def test_servers_of_our_own_start_and_stop() -> None:
    try:
        with servers.own_postgres() as server:
            with servers.own_database(server) as url:
                assert servers.postgres_answers(url)
            assert not servers.postgres_answers(url) and servers.postgres_answers(server)
        assert not servers.postgres_answers(server)
        with servers.own_redis() as server:
            with servers.own_number(server) as url, redis.Redis.from_url(url) as client:
                client.set("luthier:x", 1)
            with redis.Redis.from_url(url) as client:
                assert client.dbsize() == 0
    except LookupError as error:
        servers.missing("server", f"{error}.")


def test_keys_of_others_are_left_alone() -> None:
    try:
        with servers.redis_number() as first, servers.redis_number() as second:
            assert first != second
            with redis.Redis.from_url(first) as theirs, redis.Redis.from_url(second) as ours:
                theirs.set("theirs", 1)
                ours.set("ours", 1)
                servers.clear_redis(second)
                assert theirs.get("theirs") == b"1" and ours.get("ours") is None
    except LookupError as error:
        servers.missing("server", f"{error}.")
