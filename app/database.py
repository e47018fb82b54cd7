"""One database code path for SQLite and Postgres: engines, sessions, the database's clock. Knows no table."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, Engine, MetaData, create_engine, event, make_url, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.expression import FunctionElement

from app.errors import ConfigError, Unavailable
from app.settings import get_settings

Json = JSON().with_variant(JSONB(), "postgresql")
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_id_lock = threading.Lock()
_last_id = 0


class Base(DeclarativeBase):
    """Base of every table; constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # An INTEGER of Postgres ends at 2 GiB or 2 billion parameters.
    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: Json, list[Any]: Json, list[str]: Json, float: Double, int: BigInteger}


class now(FunctionElement[float]):
    """The database's clock, in seconds since 1970 (UTC). Leases use no other clock."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **kwargs: Any) -> str:
    # unixepoch('subsec') needs SQLite 3.42 and is silently NULL before it.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgres(element: now, compiler: Any, **kwargs: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


def iso(seconds: float | None) -> str | None:
    """ISO 8601 in UTC of a moment in seconds since 1970."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id(prefix: str) -> str:
    """A fresh opaque id such as `run_01jd8x3k9mq7w2b5cd`; ids made later sort later (in one process always, else by the millisecond)."""
    global _last_id
    with _id_lock:
        number = (int(time.time() * 1000) << 40) | secrets.randbits(40)
        _last_id = number = number if number > _last_id else _last_id + 1 + secrets.randbits(32)
    digits = []
    for _ in range(18):
        digits.append(_ALPHABET[number & 31])
        number >>= 5
    return f"{prefix}_{''.join(reversed(digits))}"


def drawn_id(prefix: str) -> str:
    """An opaque id that does not tell when it was made, for what people see who must not know; ids come in no order."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(18))}"


class Database:
    """Sessions on one database. On SQLite writers take the write lock at once (BEGIN IMMEDIATE) and readers never do."""

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
        except (ArgumentError, ValueError):
            raise ConfigError(
                "LUTHIER_DATABASE_URL cannot be read. It has the form postgresql://user:password@host:5432/name, or sqlite:////path/to/file.db.",
                field="database_url",
            ) from None
        if parsed.drivername in ("postgres", "postgresql"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigError(
                f"LUTHIER_DATABASE_URL names “{parsed.drivername}”; Luthier runs on SQLite and PostgreSQL.", field="database_url"
            )
        self.url = parsed
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self._writer = self._sqlite_engine("BEGIN IMMEDIATE")
            self._reader = self._sqlite_engine("BEGIN")
        else:
            try:
                self._writer = create_engine(
                    parsed, pool_size=20, max_overflow=20, pool_pre_ping=True, connect_args={"connect_timeout": 10}
                )
            except ModuleNotFoundError:
                raise ConfigError(
                    f"LUTHIER_DATABASE_URL names the driver “{parsed.drivername}”, which is not installed.", field="database_url"
                ) from None
            event.listen(self._writer, "before_cursor_execute", _as_binary)
            event.listen(self._writer, "connect", _without_compiling)
            # One view for the whole session, as on SQLite; the default of Postgres is a fresh one for every statement.
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ")

    def _sqlite_engine(self, begin: str) -> Engine:
        engine = create_engine(
            self.url, pool_size=20, max_overflow=20, connect_args={"isolation_level": None, "timeout": 15.0, "check_same_thread": False}
        )

        @event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows ASCII only
            cursor = connection.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=15000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql(begin)

        return engine

    @property
    def engine(self) -> Engine:
        """The engine that writes; migrations and listeners use it."""
        return self._writer

    @property
    def safe_url(self) -> str:
        """The URL without its password, for people to read."""
        return self.url.render_as_string(hide_password=True)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose work is committed at the end of the block, or undone when it raises."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading: one consistent view, nothing is kept."""
        with Session(self._reader, expire_on_commit=False, autoflush=False) as session:
            yield session

    def check(self) -> None:
        """Connect once.

        Raises:
            ConfigError: the database cannot be reached; the message says which and why.
        """
        try:
            with self.read() as session:
                session.execute(text("SELECT 1"))
        except OperationalError as error:
            reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no answer"
            raise ConfigError(
                f"The database {self.safe_url} cannot be reached: {reason}. Check LUTHIER_DATABASE_URL and that the server runs.",
                field="database_url",
            ) from None

    def dispose(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()


def _lower(value: Any) -> str | None:
    return None if value is None else str(value).lower()


def _without_compiling(connection: Any, _: object) -> None:
    """Have Postgres run statements as they are: it would compile some of the rating queue anew each time, 35 to 450 ms for one of work.

    Said after connecting, since a pooler between us and the database refuses what it does not know at the start of a connection.
    """
    connection.execute("SET jit = off")
    connection.commit()


def _as_binary(_connection: Any, cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool) -> None:
    """Statements with `execution_options(binary=True)` fetch bytes as bytes; Postgres otherwise writes them in hexadecimal."""
    if context is not None and context.execution_options.get("binary"):
        cursor.format = 1


def after_commit(session: Session, action: Callable[[], None]) -> None:
    """Do `action` once the session's transaction is committed; never, when it is undone."""
    waiting: list[Callable[[], None]] = session.info.setdefault("after_commit", [])
    if not waiting:

        def _run(_: Session) -> None:
            actions, session.info["after_commit"] = session.info.pop("after_commit", []), []
            event.remove(session, "after_rollback", _drop)
            for each in actions:
                each()

        def _drop(_: Session) -> None:
            session.info["after_commit"] = []
            event.remove(session, "after_commit", _run)

        event.listen(session, "after_commit", _run, once=True)
        event.listen(session, "after_rollback", _drop, once=True)
    waiting.append(action)


def notify(session: Session, topic: str) -> None:
    """Tell listeners on Postgres, when this commits, that `topic` changed. On SQLite they watch the file."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_notify('luthier', :topic)"), {"topic": topic})


def as_unavailable(error: OperationalError) -> Unavailable:
    """The answer to a request when the database does not: a sentence without a stack trace."""
    return Unavailable("The database does not answer right now. Nothing was changed; try again in a moment.")


@lru_cache
def get_database() -> Database:
    """The database of this process."""
    settings = get_settings()
    if not settings.database_url:
        settings.home.mkdir(parents=True, exist_ok=True)
    return Database(settings.database)
