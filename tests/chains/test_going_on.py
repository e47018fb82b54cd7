"""Chains go on as their runs do: each step once, in order, from what the ones before made; and nothing is lost or done twice."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from app import queue
from app.chains import service
from app.chains.tables import Chain, ChainStep
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, NotFound
from app.runs import progress
from app.runs import service as runs
from app.runs.schemas import RunCreate
from app.runs.tables import Run
from app.settings import get_settings
from tests.chains.links import add, all_runs, fail, finish, made, now_is, run_of, start, statuses, steps
from tests.conftest import Stack
from tests.factories import claim_run


def _end_first(stack: Stack) -> str:
    with stack.database.write() as session:
        return finish(session).id


def test_three_steps_follow_one_another_with_what_the_ones_before_made(stack: Stack) -> None:
    chain_id, ids = made(stack)
    assert statuses(stack, chain_id) == ["queued", "waiting", "waiting"]
    assert service.advance(stack.database) == 0 and len(all_runs(stack)) == 1, "nothing starts before the first step has ended"
    for number in (1, 2, 3):
        with stack.database.write() as session:
            finish(session, steps_done=number * 10)
        assert service.advance(stack.database) == 1
        assert service.advance(stack.database) == 0, "a second look changes nothing"
    assert statuses(stack, chain_id) == ["succeeded"] * 3
    told = now_is(stack, chain_id)
    assert told["status"] == "succeeded" and told["finished_at"] and told["reason"] is None
    sft, reward, rloo = (run_of(stack, chain_id, number) for number in (1, 2, 3))
    with stack.database.read() as session:
        after_sft, after_reward = (checkpoints.of_run(session, run.id)[0] for run in (sft, reward))
    assert (after_sft.step, after_reward.step) == (10, 20)
    assert reward.checkpoint_id == rloo.checkpoint_id == after_sft.id
    assert rloo.params["rewards"] == [{"weight": 1.0, "kind": "model", "checkpoint": after_reward.id}]
    assert (sft.parent_run_id, reward.parent_run_id, rloo.parent_run_id) == (None, sft.id, sft.id)
    assert (sft.name, rloo.name) == ("RLHF: 1 sft", "RLHF: 3 rloo") and rloo.dataset_id == ids["prompts"]
    assert rloo.created_by == stack.admin_id
    with stack.database.read() as session:
        events = [event.message for event in runs.events(session, stack.workspace_id, reward.id)]
    assert "Step 2 of 3 of the chain “RLHF”." in events
    assert len(all_runs(stack)) == 3


@pytest.mark.one_stack
def test_the_last_checkpoint_of_a_step_is_taken(stack: Stack) -> None:
    chain_id, _ = made(stack)
    with stack.database.write() as session:
        run = session.get_one(Run, run_of(stack, chain_id, 1).id)
        for step, status in ((2, "ready"), (9, "quarantined")):
            at = {"kind": "adapter", "source": "run", "base_id": run.checkpoint_id, "workspace_id": stack.workspace_id}
            session.add(Checkpoint(name=f"step {step}", status=status, run_id=run.id, step=step, attempt=1, **at))
        session.flush()
        finish(session, steps_done=7)
    service.advance(stack.database)
    with stack.database.read() as session:
        assert session.get_one(Checkpoint, run_of(stack, chain_id, 2).checkpoint_id).step == 7


def test_a_sweep_of_a_worker_and_the_end_of_a_run_start_the_next(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import run_training, tasks

    def train(database: Any, *_: Any) -> bool:
        with database.write() as session:
            finish(session)
        return True

    monkeypatch.setattr(run_training, "one", train)
    rung: list[str] = []
    monkeypatch.setattr(queue, "tick", rung.append)
    chain_id, _ = made(stack)
    assert rung == ["device"], "one bell for the first run, none for the rehearsal"
    station = tasks.Station(stack.database, stack.settings)
    station.arrive()
    assert station._device("cpu")
    assert statuses(stack, chain_id) == ["succeeded", "queued", "waiting"], "the worker that ended a run starts the next at once"
    _end_first(stack)
    station.sweep()
    assert statuses(stack, chain_id) == ["succeeded", "succeeded", "queued"], "what was lost on the way is found by the sweep"
    station.leave()


def test_two_sweeps_at_once_start_a_step_once(stack: Stack) -> None:
    chain_id, _ = made(stack)
    _end_first(stack)
    gate, faults = threading.Barrier(6), []

    def look() -> None:
        gate.wait()
        try:
            service.advance(stack.database)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=look) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and statuses(stack, chain_id) == ["succeeded", "queued", "waiting"]
    assert len(all_runs(stack)) == 2


def test_a_sweep_that_comes_while_another_holds_the_chain_leaves_it(stack: Stack) -> None:
    if stack.name == "sqlite":
        pytest.skip("SQLite has one writer: the second waits for the first")
    chain_id, _ = made(stack)
    _end_first(stack)
    with stack.database.write() as first:
        assert service.advance_one(first, chain_id)
        with stack.database.write() as second:
            assert not service.advance_one(second, chain_id)
    assert len(all_runs(stack)) == 2


def test_the_key_of_a_step_keeps_a_second_start_out(stack: Stack) -> None:
    from sqlalchemy.exc import IntegrityError

    chain_id, _ = made(stack)
    with stack.database.read() as session:
        other = session.get_one(ChainStep, (chain_id, 1)).run_id
    with pytest.raises(IntegrityError), stack.database.write() as session:
        session.add(ChainStep(chain_id=chain_id, number=1, run_id=other))


def test_a_rolled_back_end_of_a_run_starts_nothing(stack: Stack) -> None:
    chain_id, _ = made(stack)
    with pytest.raises(RuntimeError, match="killed"), stack.database.write() as session:
        finish(session)
        raise RuntimeError("killed")
    assert service.advance(stack.database) == 0
    assert statuses(stack, chain_id) == ["queued", "waiting", "waiting"] and len(all_runs(stack)) == 1
    _end_first(stack)
    assert service.advance(stack.database) == 1 and len(all_runs(stack)) == 2


def test_a_sweep_that_is_killed_before_its_commit_is_done_again(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    chain_id, _ = made(stack)
    _end_first(stack)
    with pytest.raises(RuntimeError, match="killed"), stack.database.write() as session:
        assert service.advance_one(session, chain_id)
        raise RuntimeError("killed")
    assert len(all_runs(stack)) == 1 and statuses(stack, chain_id) == ["succeeded", "waiting", "waiting"]
    assert service.advance(stack.database) == 1 and len(all_runs(stack)) == 2


def test_a_failed_step_pauses_and_resuming_its_run_lets_the_chain_go_on(stack: Stack) -> None:
    chain_id, _ = made(stack)
    with stack.database.write() as session:
        run_id = fail(session).id
    told = now_is(stack, chain_id)
    assert told["status"] == "paused" and told["reason"] == "Step 1 failed: The loss was no number." and told["reason_code"] == "run_failed"
    assert service.advance(stack.database) == 1
    with stack.database.read() as session:
        assert session.get_one(Chain, chain_id).status == "paused"
    assert service.advance(stack.database) == 0 and len(all_runs(stack)) == 1
    with stack.database.write() as session:
        runs.resume(session, stack.workspace_id, run_id)
    assert now_is(stack, chain_id)["status"] == "running", "seen at once, before any sweep"
    assert service.advance(stack.database) == 1
    _end_first(stack)
    service.advance(stack.database)
    assert statuses(stack, chain_id) == ["succeeded", "queued", "waiting"]


@pytest.mark.one_stack
@pytest.mark.parametrize("status", ["failed", "cancelled", "paused"])
def test_continuing_resumes_the_run_it_stopped_at(stack: Stack, status: str) -> None:
    chain_id, _ = made(stack)
    with stack.database.write() as session:
        if status == "failed":
            fail(session)
        else:
            stop = runs.cancel if status == "cancelled" else runs.pause
            stop(session, stack.workspace_id, run_of(stack, chain_id, 1).id)
    service.advance(stack.database)
    assert now_is(stack, chain_id)["status"] == "paused" and now_is(stack, chain_id)["reason_code"] == f"run_{status}"
    with stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)
    assert now_is(stack, chain_id)["status"] == "running" and statuses(stack, chain_id)[0] == "queued"
    with stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)  # twice changes nothing
    assert len(all_runs(stack)) == 1


@pytest.mark.one_stack
def test_a_step_that_failed_can_be_started_anew_with_other_settings(stack: Stack) -> None:
    chain_id, ids = made(stack)
    with stack.database.write() as session:
        fail(session)
    changed = RunCreate(method="sft", checkpoint=ids["model"], dataset=ids["answers"], params={"learning_rate": 1e-5})
    with pytest.raises(Invalid) as refused, stack.database.write() as session:
        service.go_on(session, stack.workspace_id, None, chain_id, changed.model_copy(update={"dataset": ids["pairs"]}))
    assert refused.value.field == "steps.0.dataset" and len(all_runs(stack)) == 1
    with stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id, changed)
    old, new = all_runs(stack)
    assert (old.status, new.status) == ("failed", "queued") and new.params["learning_rate"] == 1e-5
    assert run_of(stack, chain_id, 1).id == new.id and now_is(stack, chain_id)["steps"][0]["request"]["params"] == {"learning_rate": 1e-5}
    with pytest.raises(Conflict, match="running"), stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id, changed)
    _end_first(stack)
    service.advance(stack.database)
    assert statuses(stack, chain_id) == ["succeeded", "queued", "waiting"]


def test_a_step_that_is_refused_pauses_the_chain_until_somebody_mends_it(stack: Stack) -> None:
    chain_id, ids = made(stack)
    with stack.database.write() as session:
        session.delete(session.get_one(Dataset, ids["pairs"]))
    _end_first(stack)
    assert service.advance(stack.database) == 1
    told = now_is(stack, chain_id)
    assert told["status"] == "paused" and told["reason_code"] == "refused"
    assert told["reason"].startswith("Step 2: There is no such dataset")
    assert service.advance(stack.database) == 0 and len(all_runs(stack)) == 1, "nothing is tried again unasked"
    with pytest.raises(NotFound), stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)
    assert now_is(stack, chain_id)["reason_code"] == "refused", "a refusal leaves it as it was"
    with stack.database.write() as session:
        from tests.factories import add_dataset

        other = add_dataset(session, stack.workspace_id, shape="preference").id
        step = RunCreate(method="reward", checkpoint="$1", dataset=other)
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id, step)
    assert statuses(stack, chain_id) == ["succeeded", "queued", "waiting"]
    assert run_of(stack, chain_id, 2).dataset_id == other
    for _ in (2, 3):
        _end_first(stack)
        service.advance(stack.database)
    assert now_is(stack, chain_id)["status"] == "succeeded"


@pytest.mark.one_stack
def test_a_queue_that_is_full_is_mended_by_waiting(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    chain_id, _ = made(stack)
    monkeypatch.setattr(get_settings(), "max_queued_runs", 0)
    _end_first(stack)
    service.advance(stack.database)
    assert "runs already wait" in now_is(stack, chain_id)["reason"]
    monkeypatch.setattr(get_settings(), "max_queued_runs", 1)
    with stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)
    assert statuses(stack, chain_id) == ["succeeded", "queued", "waiting"]


def test_a_fault_of_our_own_holds_up_no_other_chain(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = start(stack)
    with stack.database.write() as session:
        broken = add(session, stack, steps(ids), name="broken")
        whole = add(session, stack, steps(ids), name="whole")
        finish(session), finish(session)
    real = runs.create

    def create(session: Any, workspace_id: str, user_id: str | None, request: RunCreate) -> Run:
        if (request.name or "").startswith("broken"):
            raise RuntimeError("a bug")
        return real(session, workspace_id, user_id, request)

    monkeypatch.setattr(runs, "create", create)
    service.advance(stack.database)
    assert statuses(stack, whole) == ["succeeded", "queued", "waiting"]
    assert now_is(stack, broken)["reason_code"] == "error" and now_is(stack, broken)["status"] == "paused"
    monkeypatch.setattr(runs, "create", real)
    assert service.advance(stack.database) == 0
    with stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, broken)
    assert statuses(stack, broken) == ["succeeded", "queued", "waiting"]


def test_cancelling_stops_the_run_and_everything_after_it(stack: Stack) -> None:
    chain_id, _ = made(stack)
    _end_first(stack)
    service.advance(stack.database)
    with stack.database.write() as session:
        service.cancel(session, stack.workspace_id, chain_id)
    assert statuses(stack, chain_id) == ["succeeded", "cancelled", "waiting"]
    with stack.database.write() as session:
        assert service.cancel(session, stack.workspace_id, chain_id).status == "cancelled"  # twice changes nothing
        runs.resume(session, stack.workspace_id, run_of(stack, chain_id, 2).id)
    _end_first(stack)
    assert service.advance(stack.database) == 0, "a run that is resumed by itself starts nothing"
    assert len(all_runs(stack)) == 2 and now_is(stack, chain_id)["status"] == "cancelled"
    with pytest.raises(Conflict, match="cancelled and does not go on"), stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)


def test_cancelling_while_a_worker_trains_asks_it_to_stop(stack: Stack) -> None:
    chain_id, _ = made(stack)
    with stack.database.write() as session:
        mine = claim_run(session)
        progress.begin(session, mine, 0)
    with stack.database.write() as session:
        service.cancel(session, stack.workspace_id, chain_id)
    assert statuses(stack, chain_id)[0] == "stopping"
    with stack.database.write() as session:
        progress.finish(session, mine)  # it was done before it saw that
    assert service.advance(stack.database) == 0 and len(all_runs(stack)) == 1


@pytest.mark.one_stack
def test_cancelling_between_two_steps_starts_nothing_more(stack: Stack) -> None:
    chain_id, _ = made(stack)
    _end_first(stack)
    with stack.database.write() as session:
        service.cancel(session, stack.workspace_id, chain_id)
    assert service.advance(stack.database) == 0 and len(all_runs(stack)) == 1


@pytest.mark.one_stack
def test_only_what_is_over_can_be_deleted_and_its_runs_stay(stack: Stack) -> None:
    chain_id, _ = made(stack)
    with pytest.raises(Conflict, match="Cancel it first"), stack.database.write() as session:
        service.delete(session, stack.workspace_id, chain_id)
    with stack.database.write() as session:
        service.cancel(session, stack.workspace_id, chain_id)
        service.delete(session, stack.workspace_id, chain_id)
    with stack.database.read() as session:
        assert session.get(Chain, chain_id) is None and session.get(ChainStep, (chain_id, 1)) is None
    assert len(all_runs(stack)) == 1


def test_a_run_that_is_deleted_pauses_its_chain_and_is_started_anew(stack: Stack) -> None:
    chain_id, _ = made(stack)
    with stack.database.write() as session:
        runs.delete(session, stack.workspace_id, run_of(stack, chain_id, 1).id)
    service.advance(stack.database)
    told = now_is(stack, chain_id)
    assert told["status"] == "paused" and told["reason_code"] == "run_deleted" and told["steps"][0]["status"] == "deleted"
    with stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)
    assert statuses(stack, chain_id) == ["queued", "waiting", "waiting"]


@pytest.mark.one_stack
def test_a_checkpoint_that_a_later_step_needs_and_that_is_gone_is_named(stack: Stack) -> None:
    chain_id, _ = made(stack)
    for _ in range(2):
        _end_first(stack)
        service.advance(stack.database)
    with stack.database.write() as session:
        reward = run_of(stack, chain_id, 2)
        runs.delete(session, stack.workspace_id, reward.id) if reward.status == "succeeded" else None
        third = run_of(stack, chain_id, 3)
        runs.cancel(session, stack.workspace_id, third.id)
        runs.delete(session, stack.workspace_id, third.id)
    with pytest.raises(Invalid, match="Step 2 has no checkpoint any more") as refused, stack.database.write() as session:
        service.go_on(session, stack.workspace_id, stack.admin_id, chain_id)
    assert refused.value.field == "steps.2.params.rewards.0.checkpoint"


@pytest.mark.one_stack
def test_a_succeeded_chain_is_left_alone(stack: Stack) -> None:
    chain_id, _ = made(stack)
    for _ in range(3):
        _end_first(stack)
        service.advance(stack.database)
    for act in (service.cancel, lambda *of: service.go_on(of[0], of[1], None, of[2])):
        with pytest.raises(Conflict, match="succeeded"), stack.database.write() as session:
            act(session, stack.workspace_id, chain_id)
    with stack.database.write() as session:
        service.delete(session, stack.workspace_id, chain_id)
