"""Brings a database to this program's tables and back, with Alembic. Says nothing about what the tables are: `migrations/versions` does."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from app.database import Database
from app.errors import ConfigError
from app.settings import Settings, files

# Any number does, as long as no other program takes the same lock in the same database.
_LOCK = 5_584_001


@contextmanager
def connect(settings: Settings, *, exclusive: bool = True) -> Iterator[Connection]:
    """A connection in one transaction, committed at the end of the block; an exclusive one alone may migrate, and others wait for it.

    Raises:
        ConfigError: the database cannot be reached.
    """
    if not settings.database_url:
        settings.home.mkdir(parents=True, exist_ok=True)
    database = Database(settings.database)
    # An engine of its own: Alembic copies SQLite tables to change them, and with foreign keys enforced (as they are everywhere else)
    # dropping the old copy would delete the rows that point to it.
    options = {"isolation_level": None, "timeout": 60.0} if database.is_sqlite else {}
    engine = create_engine(database.url, poolclass=NullPool, connect_args=options)
    if database.is_sqlite:
        event.listen(engine, "connect", lambda connection, _record: connection.execute("PRAGMA foreign_keys=OFF"))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE" if exclusive else "BEGIN"))
    database.dispose()
    try:
        with engine.connect() as connection, connection.begin():
            if exclusive and not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            yield connection
    except OperationalError as error:
        reason = (str(error.orig).strip() or "no answer").splitlines()[0]
        raise ConfigError(
            f"The database {database.safe_url} cannot be migrated: {reason}. Check LUTHIER_DATABASE_URL and that the server runs.",
            field="database_url",
        ) from None
    finally:
        engine.dispose()


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration: where the migrations lie, and the connection they run on."""
    made = Config(stdout=io.StringIO())
    made.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    made.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    made.attributes["connection"] = connection
    return made


def script() -> ScriptDirectory:
    """The migrations there are."""
    return ScriptDirectory.from_config(config())


def head() -> str | None:
    """The revision this program's tables are at."""
    return script().get_current_head()


def _known(revision: str | None) -> bool:
    return revision is None or any(each.revision == revision for each in script().walk_revisions())


def _refuse_newer(revision: str | None) -> None:
    if not _known(revision):
        raise ConfigError(
            f"The database is at revision {revision}, which this version of Luthier does not know: a newer version migrated it. "
            "Install that version, or go back to a backup made before the update.",
            field="database_url",
        )


def current(settings: Settings) -> str | None:
    """The revision the database is at; None when it is empty.

    Raises:
        ConfigError: the database cannot be reached.
    """
    with connect(settings, exclusive=False) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def upgrade(settings: Settings, revision: str = "head") -> str | None:
    """Bring the database up to a revision, in one transaction; does nothing when it is there. Returns the revision it was at.

    Several processes may call this at once: one migrates and the others wait for it.

    Raises:
        ConfigError: the database cannot be reached, or a newer version of Luthier migrated it.
    """
    with connect(settings) as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        _refuse_newer(before)
        if before == head() and revision == "head":
            return before
        command.upgrade(config(connection), revision)
        check_references(connection)
    return before


def downgrade(settings: Settings, revision: str) -> None:
    """Take the database back to an earlier revision (`base` empties it), in one transaction; tables that go take their rows along.

    Raises:
        ConfigError: the database cannot be reached, or there is no such revision below its own.
    """
    with connect(settings) as connection:
        _refuse_newer(MigrationContext.configure(connection).get_current_revision())
        try:
            command.downgrade(config(connection), revision)
        except CommandError as error:
            raise ConfigError(f"The database cannot go back to “{revision}”: {error}.", field="database_url") from None
        check_references(connection)


def check(settings: Settings) -> None:
    """Make sure that the database is at this program's revision.

    Raises:
        ConfigError: it is empty, older or newer; the message says what to run.
    """
    revision = current(settings)
    _refuse_newer(revision)
    if revision is None:
        raise ConfigError("The database is empty. Run `luthier migrate` first.", field="database_url")
    if revision != head():
        raise ConfigError(
            f"The database is at revision {revision} and this version of Luthier needs {head()}. Make a backup and run `luthier migrate`.",
            field="database_url",
        )


def drift(settings: Settings) -> list[str]:
    """What differs between the migrated database and `app.tables`, one line each; empty when a migration has everything."""
    from app.tables import metadata

    with connect(settings, exclusive=False) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return [str(difference) for difference in compare_metadata(context, metadata)]


def check_references(connection: Connection) -> None:
    """Foreign keys were not enforced while SQLite migrated, so every row is checked before the commit."""
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").first()):
        raise ConfigError(
            f"The migration would leave rows of {broken[0]} that point to nothing in {broken[2]}; nothing was changed.",
            field="database_url",
        )


def tables(settings: Settings) -> set[str]:
    """Names of the tables that are there, without Alembic's own."""
    with connect(settings, exclusive=False) as connection:
        return set(inspect(connection).get_table_names()) - {"alembic_version"}
