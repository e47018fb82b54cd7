"""Leases as a state machine: whatever happens in whatever order, a row has one owner and only the owner's writes count."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import update

from app import leases
from app.database import now
from app.jobs.tables import Job
from app.leases import Claim, LeaseLost


def _machine(database: Any, workspace_id: str) -> type[RuleBasedStateMachine]:
    class Leases(RuleBasedStateMachine):
        @initialize()
        def clear(self) -> None:
            self.claims: list[Claim] = []
            self.live: dict[str, Claim] = {}
            self.attempts: dict[str, int] = {}
            with database.write() as session:
                session.query(Job).delete()

        @rule()
        def submit(self) -> None:
            with database.write() as session:
                session.add(Job(workspace_id=workspace_id, kind="x"))

        @rule(worker=strategies.sampled_from(["a", "b"]))
        def take(self, worker: str) -> None:
            with database.write() as session:
                mine = leases.claim(session, Job, worker_id=worker, lease_seconds=60, taken="running")
            if mine is None:
                return
            assert mine.id not in self.live, "a row that is held was claimed"
            assert mine.attempt == self.attempts.get(mine.id, 0) + 1
            self.attempts[mine.id] = mine.attempt
            self.live[mine.id] = mine
            self.claims.append(mine)

        @precondition(lambda self: self.claims)
        @rule(which=strategies.integers(0, 50))
        def renew(self, which: int) -> None:
            mine = self.claims[which % len(self.claims)]
            with database.write() as session:
                if self.live.get(mine.id) == mine:
                    assert leases.renew(session, Job, mine, lease_seconds=60) == "running"
                else:
                    with pytest.raises(LeaseLost):
                        leases.renew(session, Job, mine, lease_seconds=60)

        @precondition(lambda self: self.claims)
        @rule(which=strategies.integers(0, 50))
        def finish(self, which: int) -> None:
            mine = self.claims[which % len(self.claims)]
            with database.write() as session:
                if self.live.get(mine.id) == mine:
                    row = leases.hold(session, Job, mine)
                    row.status = "succeeded"
                    leases.free(row)
                    del self.live[mine.id]
                else:
                    with pytest.raises(LeaseLost):
                        leases.hold(session, Job, mine)

        @precondition(lambda self: self.live)
        @rule()
        def expire_and_sweep(self) -> None:
            gone = next(iter(self.live))
            with database.write() as session:
                session.execute(update(Job).where(Job.id == gone).values(lease_until=now() - 1))
            with database.write() as session:
                rows = leases.expired(session, Job)
                assert [row.id for row in rows] == [gone]
                for row in rows:
                    row.status = "queued"
                    leases.free(row)
            del self.live[gone]

        @invariant()
        def held_rows_are_ours(self) -> None:
            with database.read() as session:
                held = {job.id: job.lease_owner for job in session.query(Job) if job.lease_owner}
            assert held == {job_id: mine.owner for job_id, mine in getattr(self, "live", {}).items()}

    return Leases


def test_a_row_has_one_owner_whatever_happens(stack: Any, workspace_id: str) -> None:
    machine = _machine(stack.database, workspace_id)
    run_state_machine_as_test(
        machine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
    )


def test_waits_grow_but_not_for_a_first_failure() -> None:
    assert [leases.back_off_seconds(n) for n in (0, 1, 2, 3, 4)] == [0, 0, 5, 10, 20]
    assert leases.back_off_seconds(50) == 360
