"""Finds or starts the PostgreSQL and Redis that tests run against; stops only what it started itself."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import make_url

ENDS_WITH_SESSION = "luthier-test-owner"


def missing(what: str, reason: str) -> None:
    """Skip a test for lack of `what`, or fail it when LUTHIER_TEST_REQUIRE names that."""
    if what in os.environ.get("LUTHIER_TEST_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"LUTHIER_TEST_REQUIRE asks for “{what}”, but {reason}", pytrace=False)
    pytest.skip(reason)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


# --- PostgreSQL -----------------------------------------------------------------------------------------------------------


def _connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, connect_timeout=5)


def postgres_answers(url: str) -> bool:
    """Whether a PostgreSQL lets us in."""
    try:
        _connect(url).close()
        return True
    except psycopg.OperationalError:
        return False


def _binary(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return str(found[0]) if found else shutil.which(name)


@contextmanager
def own_postgres() -> Iterator[str]:
    """A PostgreSQL started for the length of the block; its URL.

    Raises:
        LookupError: none is installed, or it does not start.
    """
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if initdb is None or postgres is None:
        raise LookupError(
            "no PostgreSQL answers at LUTHIER_TEST_POSTGRES_URL or 127.0.0.1:5432, and none is installed that could be started"
        )
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = next((name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()}), None)
    folder = Path(tempfile.mkdtemp(prefix="luthier-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "user": user, "cwd": folder}
    subprocess.run([initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"], check=True, timeout=120, **quiet)
    options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    server = subprocess.Popen([postgres, "-D", str(data), "-p", str(port), *options], **quiet)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        end = time.monotonic() + 30
        while not postgres_answers(url):
            if server.poll() is not None or time.monotonic() > end:
                raise LookupError("a PostgreSQL of our own could not be started")
            time.sleep(0.1)
        yield url
    finally:
        server.send_signal(2)  # fast shutdown
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_database() -> Iterator[str]:
    """URL of an empty database of our own, dropped at the end.

    Raises:
        LookupError: no server is there and none can be started; the message says so.
    """
    named = os.environ.get("LUTHIER_TEST_POSTGRES_URL", "")
    if named and not postgres_answers(named):
        raise LookupError("the PostgreSQL of LUTHIER_TEST_POSTGRES_URL does not answer")
    default = "postgresql://postgres@127.0.0.1:5432/postgres"
    if named or postgres_answers(default):
        with own_database(named or default) as url:
            yield url
    else:
        with own_postgres() as server, own_database(server) as url:
            yield url


@contextmanager
def own_database(server: str) -> Iterator[str]:
    """A new database on a PostgreSQL, dropped at the end; its URL."""
    name = f"luthier_test_{secrets.token_hex(6)}"
    with _connect(server) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")  # nobody pulls the plug on a test
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with _connect(server) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


# --- Redis ----------------------------------------------------------------------------------------------------------------


@contextmanager
def redis_number() -> Iterator[str]:
    """URL of a Redis database number that was empty and is ours for this session; at the end our keys are deleted.

    Raises:
        LookupError: no server is there and none can be started; the message says so.
    """
    named = os.environ.get("LUTHIER_TEST_REDIS_URL", "")
    if named and not redis_answers(named):
        raise LookupError("the Redis of LUTHIER_TEST_REDIS_URL does not answer")
    default = "redis://127.0.0.1:6379"
    if named or redis_answers(default):
        with own_number(named or default) as url:
            yield url
    else:
        with own_redis() as server, own_number(server) as url:
            yield url


def redis_answers(url: str) -> bool:
    """Whether a Redis lets us in."""
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


@contextmanager
def own_redis() -> Iterator[str]:
    """A Redis started for the length of the block; its URL.

    Raises:
        LookupError: none is installed, or it does not start.
    """
    binary = shutil.which("redis-server")
    if binary is None:
        raise LookupError("no Redis answers at LUTHIER_TEST_REDIS_URL or 127.0.0.1:6379, and none is installed that could be started")
    port = free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tempfile.gettempdir()]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"redis://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 15
        while not redis_answers(url):
            if server.poll() is not None or time.monotonic() > end:
                raise LookupError("a Redis of our own could not be started")
            time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait(15)


@contextmanager
def own_number(server: str) -> Iterator[str]:
    """A database number of a Redis that holds nothing, marked as taken; its URL."""
    for number in range(1, 16):
        url = make_url(server).set(database=str(number)).render_as_string(hide_password=False)
        with redis.Redis.from_url(url) as client:
            # Taken for two hours at most, should this process be killed.
            if client.dbsize() == 0 and client.set(ENDS_WITH_SESSION, os.getpid(), nx=True, ex=7200):
                if client.dbsize() != 1:
                    client.delete(ENDS_WITH_SESSION)
                    continue
                try:
                    yield url
                finally:
                    clear_redis(url)
                    client.delete(ENDS_WITH_SESSION)
                return
    raise LookupError("every database number of the Redis server is in use by somebody")


def clear_redis(url: str) -> None:
    """Delete the keys of a database number that is ours, one by one."""
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter():
            if key != ENDS_WITH_SESSION.encode():
                client.delete(key)
