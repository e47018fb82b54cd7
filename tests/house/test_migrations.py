"""Migrations on both databases: up, down, no difference to the tables, refusals in words. Every test has a database of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from app import migrations
from app.accounts.tables import User
from app.database import Database
from app.errors import ConfigError
from app.settings import Settings
from app.tables import metadata
from tests.servers import free_port, missing, postgres_database

TABLES = {table.name for table in metadata.sorted_tables}


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings that name a database with nothing in it."""
    if request.param == "sqlite":
        yield Settings(home=tmp_path, database_url="")
        return
    try:
        with postgres_database() as url:
            yield Settings(home=tmp_path, database_url=url)
    except LookupError as error:
        missing("server", f"{error}.")


def test_up_gives_every_table_and_nothing_else(empty: Settings) -> None:
    assert migrations.upgrade(empty) is None
    assert migrations.tables(empty) == TABLES
    assert migrations.current(empty) == migrations.head()
    migrations.check(empty)


def test_the_migrated_database_does_not_differ_from_the_tables(empty: Settings) -> None:
    migrations.upgrade(empty)
    assert migrations.drift(empty) == [], 'run `make migration m="what changes"`'


def test_down_to_nothing_and_up_again(empty: Settings) -> None:
    migrations.upgrade(empty)
    migrations.downgrade(empty, "base")
    assert migrations.tables(empty) == set()
    assert migrations.current(empty) is None
    migrations.upgrade(empty)
    assert migrations.drift(empty) == []


def test_each_step_can_be_taken_alone_both_ways(empty: Settings) -> None:
    revisions = list(reversed([each.revision for each in migrations.script().walk_revisions()]))
    for revision in revisions:
        migrations.upgrade(empty, revision)
        assert migrations.current(empty) == revision
    for revision in [*reversed(revisions[:-1]), "base"]:
        migrations.downgrade(empty, revision)
        assert migrations.current(empty) == (None if revision == "base" else revision)


def test_a_second_up_changes_nothing_and_keeps_the_rows(empty: Settings) -> None:
    migrations.upgrade(empty)
    database = Database(empty.database)
    with database.write() as session:
        session.add(User(name="Ada", role="admin"))
    assert migrations.upgrade(empty) == migrations.head()
    with database.read() as session:
        assert session.query(User).one().name == "Ada"
    database.dispose()


def test_two_at_once_migrate_once(empty: Settings) -> None:
    problems: list[BaseException] = []

    def up() -> None:
        try:
            migrations.upgrade(empty)
        except BaseException as error:  # a thread's error must reach the test
            problems.append(error)

    threads = [threading.Thread(target=up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert migrations.tables(empty) == TABLES


def test_an_empty_database_is_told_what_to_run(empty: Settings) -> None:
    with pytest.raises(ConfigError, match=r"empty\. Run `luthier migrate`"):
        migrations.check(empty)


def test_a_database_of_a_newer_version_is_refused_by_name(empty: Settings) -> None:
    migrations.upgrade(empty)
    database = Database(empty.database)
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.dispose()
    for refused in (migrations.check, migrations.upgrade):
        with pytest.raises(ConfigError, match="revision 9999, which this version of Luthier does not know"):
            refused(empty)


def test_an_unknown_revision_is_a_sentence(empty: Settings) -> None:
    migrations.upgrade(empty)
    with pytest.raises(ConfigError, match="cannot go back to “nowhere”"):
        migrations.downgrade(empty, "nowhere")
    assert migrations.tables(empty) == TABLES


def test_a_failing_migration_leaves_nothing_behind(empty: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ConfigError("stopped on purpose")

    monkeypatch.setattr(migrations, "check_references", fail)
    with pytest.raises(ConfigError, match="on purpose"):
        migrations.upgrade(empty)
    monkeypatch.undo()
    assert migrations.tables(empty) == set()


def test_deleting_works_along_the_keys_after_migrating(empty: Settings) -> None:
    """The key that closes the circle between runs and checkpoints is there on both databases."""
    migrations.upgrade(empty)
    engine = create_engine(Database(empty.database).url)
    with engine.connect() as connection:
        keys = {(key["constrained_columns"][0], key["referred_table"]) for key in inspect(connection).get_foreign_keys("checkpoints")}
    engine.dispose()
    assert ("run_id", "runs") in keys and ("base_id", "checkpoints") in keys


def test_a_server_that_is_away_is_a_sentence_without_the_password(tmp_path: Path) -> None:
    away = Settings(home=tmp_path, database_url=f"postgresql://luthier:geheim@127.0.0.1:{free_port()}/luthier")
    with pytest.raises(ConfigError, match=r"cannot be migrated: .*Check LUTHIER_DATABASE_URL") as caught:
        migrations.upgrade(away)
    assert "geheim" not in caught.value.message
