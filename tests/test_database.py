"""Ids: opaque, never twice, and in the order they were made in. Sessions: one view to read from, one idea of what is lower case."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import func, select, text

from app.accounts.tables import Workspace
from app.database import new_id
from tests.conftest import Stack


def test_ids_made_later_sort_later() -> None:
    made = [new_id("run") for _ in range(20_000)]
    assert made == sorted(made)
    assert {len(each) for each in made} == {len("run_") + 18}


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [each for batch in pool.map(lambda _: [new_id("run") for _ in range(2_000)], range(8)) for each in batch]
    assert len(set(made)) == len(made)
    shared = len({each[-4:] for each in made})
    assert shared > len(made) / 4, "the end of an id is not a counter"


def test_a_session_that_reads_keeps_one_view_while_another_writes(stack: Stack) -> None:
    names = select(Workspace.name).order_by(Workspace.id)
    with stack.database.read() as reading:
        before = reading.scalars(names).all()
        with stack.database.write() as session:
            session.add(Workspace(name="made meanwhile"))
        assert reading.scalars(names).all() == before
    with stack.database.read() as reading:
        assert reading.scalars(names).all() == [*before, "made meanwhile"]
    with stack.database.write() as session:
        if stack.name == "postgres":
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed", "who writes sees what others wrote"


def test_lower_case_is_the_same_on_both_databases(stack: Stack) -> None:
    with stack.database.read() as session:
        assert session.scalar(select(func.lower("ÄHM Łódź ΔЖ A"))) == "ähm łódź δж a"
        assert session.scalar(select(func.lower(None))) is None
