"""Fixtures every test may use: the two stacks, a signed-in browser, a REST client, other roles. Nothing here leaves this machine."""

from __future__ import annotations

import ipaddress
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from starlette.testclient import TestClient

from app.accounts import service as accounts
from app.database import Database, get_database
from app.main import create_app
from app.queue import get_celery
from app.server import Server as WebServer
from app.settings import Settings, files, get_settings
from app.tables import metadata
from tests.servers import clear_redis, free_port, missing, postgres_database, redis_number

if find_spec("tests.conftest_worker"):
    from tests.conftest_worker import *  # noqa: F403  # the fixture `work`

ADDRESS = "http://127.0.0.1:8000"


def pytest_configure() -> None:
    """Have Ctrl-C reach what tests start: a shell that runs us in the background has it ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out on PostgreSQL what is marked `one_stack`."""
    left_out = {item for item in items if item.get_closest_marker("one_stack") and _stack_of(item) == "postgres"}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _stack_of(item: pytest.Item) -> object:
    called = getattr(item, "callspec", None)
    return called.params.get("stack", called.params.get("up")) if called else None


@pytest.fixture(scope="session", autouse=True)
def only_loopback() -> Iterator[None]:
    """Refuse every connection that would leave this machine."""
    patch = pytest.MonkeyPatch()
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
            raise AssertionError(f"A test wanted to connect to {address}; tests stay on this machine.")
        connect(self, address)

    def guarded_look_up(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host is not None and not _is_loopback(host.decode() if isinstance(host, bytes) else host):
            raise socket.gaierror(f"A test wanted to look up {host}; tests stay on this machine.")
        return look_up(host, *args, **kwargs)

    patch.setattr(socket.socket, "connect", guarded)
    patch.setattr(socket, "getaddrinfo", guarded_look_up)
    yield
    patch.undo()


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# --- stacks ---------------------------------------------------------------------------------------------------------------


@dataclass
class Stack:
    """One of the two ways Luthier runs, with nothing in it but the first workspace and its admin."""

    name: str
    settings: Settings
    database: Database
    workspace_id: str
    admin_id: str

    @property
    def home(self) -> Path:
        """The throw-away HOME."""
        return self.settings.home


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema, copied for each test."""
    file = tmp_path_factory.mktemp("schema") / "luthier.db"
    database = Database(f"sqlite:///{file}")
    metadata.create_all(database.engine)
    with database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.exec_driver_sql("BEGIN")
    database.dispose()
    return file


@pytest.fixture(scope="session")
def servers() -> Iterator[tuple[str, str]]:
    """URLs of a PostgreSQL database with the schema and of a Redis database number, both ours alone."""
    with ExitStack() as open_until_the_end:
        try:
            postgres = open_until_the_end.enter_context(postgres_database())
            redis = open_until_the_end.enter_context(redis_number())
        except LookupError as error:
            missing("server", f"{error}.")
        database = Database(postgres)
        metadata.create_all(database.engine)
        database.dispose()
        yield postgres, redis


@pytest.fixture(params=["sqlite", "postgres"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Each test that asks for this runs twice: on SQLite with the folder queue, and on PostgreSQL with Redis."""
    home = tmp_path / "home"
    home.mkdir()
    for name in Settings.model_fields:
        monkeypatch.delenv(f"LUTHIER_{name.upper()}", raising=False)
    monkeypatch.setenv("LUTHIER_HOME", str(home))
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("empty_sqlite"), home / "luthier.db")
    else:
        postgres, broker = request.getfixturevalue("servers")
        monkeypatch.setenv("LUTHIER_DATABASE_URL", postgres)
        monkeypatch.setenv("LUTHIER_BROKER_URL", broker)
    for cached in (get_settings, get_database, get_celery):
        cached.cache_clear()
    settings, database = get_settings(), get_database()
    with database.write() as session:
        admin = accounts.ensure_first(session)
        workspace = accounts.first_workspace(session)
    yield Stack(request.param, settings, database, workspace.id, admin.id)
    if request.param == "postgres":
        _empty(database)
        clear_redis(settings.broker)
    database.dispose()
    for cached in (get_settings, get_database, get_celery):
        cached.cache_clear()


def _empty(database: Database) -> None:
    """Delete every row. DELETE takes milliseconds where TRUNCATE of all tables takes half a second, but it minds foreign keys."""
    names = [table.name for table in metadata.tables.values()]
    with database.write() as session:
        session.execute(text("SET LOCAL lock_timeout = '10s'"))
        full = set(session.scalars(text(" UNION ALL ".join(f"SELECT '{name}' WHERE EXISTS (SELECT 1 FROM {name})" for name in names))))
        for name in [*(name for name in ("runs", "checkpoints", "datasets") if name in full), *full]:
            try:
                with session.begin_nested():
                    session.execute(text(f"DELETE FROM {name}"))
            except IntegrityError:
                session.execute(text(f"TRUNCATE {', '.join(names)} CASCADE"))
                return


@pytest.fixture
def workspace_id(stack: Stack) -> str:
    """Id of the first workspace."""
    return stack.workspace_id


@dataclass
class Server:
    """A web server of our own in this process, on a free port of this machine."""

    url: str
    app: FastAPI
    admin_id: str
    stop: Callable[[], None]

    def link(self) -> str:
        """An address that signs the admin in."""
        with self.app.state.database.write() as session:
            return accounts.link_for(session, self.app.state.settings, self.admin_id)


@pytest.fixture
def server(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A real server with the live hub, for streams and browsers."""
    if not (files("static") / "vendor" / "htmx.js").is_file():
        missing("server", "the browser assets are not there; run `make setup`.")
    port = free_port()
    monkeypatch.setenv("LUTHIER_PORT", str(port))
    get_settings.cache_clear()
    app = create_app()
    running = WebServer(app, port=port)
    thread = threading.Thread(target=running.run, name="server", daemon=True)
    thread.start()
    end = time.monotonic() + 20
    while not running.started:
        assert thread.is_alive() and time.monotonic() < end, "the server did not start"
        time.sleep(0.02)

    def stop() -> None:
        running.should_exit = True
        thread.join(10)

    yield Server(f"http://127.0.0.1:{port}", app, stack.admin_id, stop)
    stop()


# --- clients --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def app(stack: Stack) -> FastAPI:
    """The web application on the stack. Its live hub runs only where a test enters `TestClient(app)` or starts a server."""
    return create_app()


def browser(app: FastAPI, **headers: str) -> TestClient:
    """A client that sends what a browser on our own pages sends; it follows no redirect by itself."""
    return TestClient(
        app,
        base_url=ADDRESS,
        headers={"Sec-Fetch-Site": "same-origin", **headers},
        follow_redirects=False,
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
    )


def signed_in(app: FastAPI, stack: Stack, user_id: str) -> TestClient:
    """A browser signed in by a fresh link."""
    with stack.database.write() as session:
        link = accounts.link_for(session, stack.settings, user_id)
    client = browser(app)
    answer = client.get(link)
    assert answer.status_code == 303, answer.text
    return client


@pytest.fixture
def anonymous(app: FastAPI) -> TestClient:
    """A browser nobody is signed in with."""
    return browser(app)


@pytest.fixture
def client(app: FastAPI, stack: Stack) -> TestClient:
    """A browser signed in as the admin."""
    return signed_in(app, stack, stack.admin_id)


@pytest.fixture
def api(app: FastAPI, stack: Stack) -> TestClient:
    """A program with an admin's bearer token."""
    with stack.database.write() as session:
        _, token = accounts.create_token(session, name="tests", role="admin", user_id=stack.admin_id, workspace_id=stack.workspace_id)
    return TestClient(
        app,
        base_url=ADDRESS,
        headers={"Authorization": f"Bearer {token}"},
        follow_redirects=False,
        client=("127.0.0.1", 50001),
        raise_server_exceptions=False,
    )


@pytest.fixture
def as_role(app: FastAPI, stack: Stack) -> Callable[[str], TestClient]:
    """`as_role("viewer")`: a browser signed in as a new user with that role."""

    numbers = count(1)

    def _as_role(role: str) -> TestClient:
        number = next(numbers)
        with stack.database.write() as session:
            user = accounts.add_user(session, f"a {role}" if number == 1 else f"a {role} {number}", role)
        return signed_in(app, stack, user.id)

    return _as_role
