"""What a worker writes: once, fenced, and cut back to the checkpoint when an attempt is void."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from app.checkpoints.tables import Checkpoint
from app.database import now
from app.leases import LeaseLost
from app.metrics import service as metrics
from app.metrics.tables import Metric, MetricChunk
from app.runs import progress, service
from app.runs.progress import Batch
from app.runs.tables import Run
from tests.factories import add_run, claim_run


def _points(first: int, last: int) -> list[tuple[str, int, float]]:
    return [("loss", step, 1.0 / step) for step in range(first, last + 1)]


def _commit(session: Any, run: Run, step: int) -> None:
    checkpoint = Checkpoint(
        workspace_id=run.workspace_id,
        name="c",
        kind="adapter",
        status="ready",
        source="run",
        run_id=run.id,
        step=step,
        attempt=run.attempt,
        base_id=run.checkpoint_id,
    )
    session.add(checkpoint)
    session.flush()
    progress.committed(session, run, checkpoint)


def test_a_resumed_attempt_leaves_one_point_for_each_step(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        first = claim_run(session)
        progress.begin(session, first, 0)
        run = progress.record(session, first, Batch(points=_points(1, 10), step=10, total=30))
        _commit(session, run, 10)
        progress.record(session, first, Batch(points=_points(11, 17), step=17))
    with stack.database.write() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_until=now() - 1))
    with stack.database.write() as session:
        assert progress.reap(session) == 1
    with stack.database.write() as session:
        second = claim_run(session)
        run = progress.begin(session, second, 10)
        assert run.step == 10 and run.latest["loss"] == pytest.approx(0.1)
        assert [point[0] for point in run.spark][-1] == 10
        progress.record(session, second, Batch(points=_points(11, 20), step=20))
    with stack.database.read() as session:
        steps = session.execute(select(Metric.step, Metric.attempt).where(Metric.run_id == run_id).order_by(Metric.step)).all()
    assert [row.step for row in steps] == list(range(1, 21))
    assert [row.attempt for row in steps] == [1] * 10 + [2] * 10


def test_a_worker_that_lost_its_lease_writes_nothing(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        old = claim_run(session)
    with stack.database.write() as session:
        session.execute(update(Run).where(Run.id == run_id).values(lease_until=now() - 1))
    with stack.database.write() as session:
        progress.reap(session)
    with stack.database.write() as session:
        new = claim_run(session)
        assert new.attempt == old.attempt + 1
    for write in (
        lambda session: progress.record(session, old, Batch(points=_points(1, 3), step=3)),
        lambda session: progress.finish(session, old),
        lambda session: progress.failed(session, old, "crash", "x"),
        lambda session: progress.stopped(session, old),
    ):
        with pytest.raises(LeaseLost), stack.database.write() as session:
            write(session)
    with stack.database.read() as session:
        assert session.scalars(select(Metric).where(Metric.run_id == run_id)).all() == []
        assert session.get_one(Run, run_id).status == "preparing"


def test_the_same_step_twice_is_kept_once(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        progress.record(session, mine, Batch(points=[("loss", 1, 2.0)]))
        progress.record(session, mine, Batch(points=[("loss", 1, 1.5)]))
    with stack.database.read() as session:
        steps, values = metrics.series(session, run_id)["loss"]
    assert steps.tolist() == [1] and values.tolist() == [1.5]


def test_values_that_are_no_number_are_shown_as_what_they_are(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        run = progress.record(
            session, mine, Batch(points=[("loss", 1, 2.0), ("loss", 2, math.nan), ("loss", 3, math.inf), ("loss", 4, -math.inf)], step=4)
        )
        assert run.latest["loss"] == "-inf"
    with stack.database.read() as session:
        shown = metrics.as_json(metrics.series(session, run_id))
    assert shown == {
        "data": {"loss": [[1, 2.0], [2, None], [3, None], [4, None]]},
        "nonfinite": {"loss": [[2, "nan"], [3, "inf"], [4, "-inf"]]},
    }


def test_poison_counts_only_attempts_that_committed_nothing(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
    step = 0
    for attempt in range(8):
        with stack.database.write() as session:
            mine = claim_run(session)
            run = progress.begin(session, mine, step)
            if attempt < 3:  # these three each leave a checkpoint behind
                step += 5
                _commit(session, run, step)
            progress.failed(session, mine, "killed", "The trainer was killed.")
        with stack.database.write() as session:
            session.execute(update(Run).values(not_before=None))
        with stack.database.read() as session:
            run = session.get_one(Run, run_id)
            assert run.status == ("failed" if attempt == 7 else "queued"), attempt
    assert "5 times in a row" in (run.reason or "") and run.reason_code == "killed"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("config", "failed"),
        ("diverged", "failed"),
        ("no_torch", "failed"),
        ("disk_full", "paused"),
        ("killed", "queued"),
        ("crash", "queued"),
        ("oom", "queued"),
    ],
)
def test_what_becomes_of_a_failed_attempt(stack: Any, workspace_id: str, code: str, status: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        progress.failed(session, mine, code, "It went wrong.")
    with stack.database.read() as session:
        run = session.get_one(Run, run_id)
        assert run.status == status and run.reason_code == code and run.reason
        assert run.lease_owner is None
        assert run.adjustments == ({"batch_divisor": 2} if code == "oom" else {})


def test_out_of_memory_ends_when_the_batch_cannot_be_halved_any_more(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id, params={"batch_size": 4}).id
    seen = []
    for _ in range(3):
        with stack.database.write() as session:
            mine = claim_run(session)
            progress.begin(session, mine, 0)
            progress.failed(session, mine, "oom", "The device ran out of memory.")
            run = session.get_one(Run, run_id)
            seen.append((run.status, run.adjustments.get("batch_divisor")))
    assert seen == [("queued", 2), ("queued", 4), ("failed", 4)]


def test_a_person_who_asked_to_stop_or_pause_gets_that_even_when_the_worker_dies(stack: Any, workspace_id: str) -> None:
    for ask, after in ((service.cancel, "cancelled"), (service.pause, "paused")):
        with stack.database.write() as session:
            run_id = add_run(session, workspace_id).id
            mine = claim_run(session)
            progress.begin(session, mine, 0)
            ask(session, workspace_id, run_id)
            session.execute(update(Run).where(Run.id == run_id).values(lease_until=now() - 1))
        with stack.database.write() as session:
            progress.reap(session)
            assert session.get_one(Run, run_id).status == after
        with stack.database.write() as session, pytest.raises(LeaseLost):
            progress.record(session, mine, Batch(step=3))


def test_long_histories_are_sealed_and_still_whole(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        run = progress.record(session, mine, Batch(points=[("loss", step, float(step)) for step in range(1, 13_001)], step=13_000))
        _commit(session, run, 12_500)
        assert run.sealed_seq > 0
        assert len(session.scalars(select(Metric.step).where(Metric.run_id == run_id)).all()) == 3_000
    with stack.database.write() as session:
        steps, values = metrics.series(session, run_id, points=100_000)["loss"]
        assert steps.tolist() == list(range(1, 13_001)) and values.tolist() == [float(step) for step in range(1, 13_001)]
        metrics.truncate(session, run_id, 7_321)
        steps, _ = metrics.series(session, run_id, points=100_000)["loss"]
        assert steps.tolist() == list(range(1, 7_322))
        assert metrics.last_values(session, run_id) == {"loss": 7321.0}
        thinned, _ = metrics.series(session, run_id, points=500)["loss"]
        assert len(thinned) <= 500 and thinned[0] == 1 and thinned[-1] == 7_321


def test_a_long_curve_is_drawn_from_outlines_and_hides_nothing(stack: Any, workspace_id: str) -> None:
    values = [math.sin(step / 900) for step in range(1, 26_001)]
    values[7_776], values[18_000], values[12_344] = 9.0, -9.0, math.nan
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        points = [("loss", step, value) for step, value in enumerate(values, 1)]
        _commit(session, progress.record(session, mine, Batch(points=points, step=26_000)), 26_000)
        chunks = session.scalars(select(MetricChunk).order_by(MetricChunk.first_step)).all()
        assert len(chunks) == 5 and all(len(chunk.outline or b"") <= 16 * (metrics.OUTLINE + 3) for chunk in chunks)

        def drawn(points: int) -> dict[int, float]:
            steps, found = metrics.series(session, run_id, points=points)["loss"]
            return dict(zip(steps.tolist(), found.tolist(), strict=True))

        few, whole = drawn(300), drawn(30_000)
        assert len(few) <= 301 and len(whole) == 26_000
        assert few[7_777] == 9.0 and few[18_001] == -9.0 and math.isnan(few[12_345]) and {1, 26_000} <= few.keys()
        assert all(few[step] == values[step - 1] for step in few.keys() - {12_345})
        # Cut in the middle of a chunk: no outline shows what is void.
        metrics.truncate(session, run_id, 17_500)
        few = drawn(200)
        assert max(few) == 17_500 and min(value for value in few.values() if math.isfinite(value)) > -2
        # Chunks that an older version sealed have none.
        session.execute(update(MetricChunk).values(outline=None))
        session.expire_all()
        assert drawn(200)[7_777] == 9.0


def test_a_zoom_shows_only_later_steps(stack: Any, workspace_id: str) -> None:
    with stack.database.write() as session:
        run_id = add_run(session, workspace_id).id
        mine = claim_run(session)
        progress.begin(session, mine, 0)
        _commit(session, progress.record(session, mine, Batch(points=_points(1, 13_000), step=13_000)), 13_000)
        steps, _ = metrics.series(session, run_id, after_step=6_000, points=100)["loss"]
        assert steps[0] == 6_001 and steps[-1] == 13_000 and len(steps) <= 100


def test_names_stand_for_several_metrics() -> None:
    known = ["epoch", "eval_loss", "eval_runtime", "loss", "system/gpu"]
    assert metrics.chosen(known, []) == known
    assert metrics.chosen(known, ["loss", "nothing"]) == ["loss"]
    assert metrics.chosen(known, ["eval_*", "-eval_runtime"]) == ["eval_loss"]
    assert metrics.chosen(known, ["-system/*", "-epoch"]) == ["eval_loss", "eval_runtime", "loss"]


@pytest.mark.parametrize("value", [0.1234567890123, -9.87654321e-12, 1.5, 3.0000004e-7, 9999999.4, -123.45678951])
def test_fewer_digits_are_those_a_person_would_write(value: float) -> None:
    assert float(metrics.rounded(np.array([value]), 7)[0]) == float(f"{value:.7g}")


@pytest.mark.parametrize("value", [0.0, 123456789.123, 1e-300, math.inf, -math.inf, math.nan])
def test_values_of_unusual_size_are_not_rounded(value: float) -> None:
    assert repr(float(metrics.rounded(np.array([value]), 7)[0])) == repr(value)
