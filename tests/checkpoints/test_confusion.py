"""The table of classes beside a classifier's checkpoint, and where a run stands among what came from what."""

from __future__ import annotations

import json

import pytest
from starlette.testclient import TestClient

from app import storage
from app.checkpoints import confusion
from app.checkpoints.heads import CONFUSION_FILE
from app.checkpoints.tables import Checkpoint
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_run

pytestmark = pytest.mark.one_stack
TABLE = {"step": 40, "labels": ["ham", "<b>spam"], "rows": [[30, 10], [5, 55]]}


@pytest.fixture
def made(stack: Stack) -> Checkpoint:
    """A checkpoint of a run that began from a model."""
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, name="the classifier", method="classify", status="succeeded", step=40)
        found = add_checkpoint(
            session,
            stack.workspace_id,
            name="made 40",
            kind="adapter",
            base_id=run.checkpoint_id,
            run_id=run.id,
            step=40,
            path=f"runs/{run.id}/step-40",
        )
        session.flush()
        session.expunge(found)
    folder = storage.path(found.path or "")
    folder.mkdir(parents=True)
    (folder / CONFUSION_FILE).write_text(json.dumps(TABLE))
    return found


def test_the_table_is_on_the_pages_of_run_and_model(client: TestClient, made: Checkpoint) -> None:
    for path in (f"/runs/{made.run_id}?tab=checkpoints", f"/models/{made.id}"):
        text = client.get(path).text
        table = text[text.index('id="confusion-h"') :]
        assert "&lt;b&gt;spam" in table and "<b>spam" not in table
        assert table.index(">30<") < table.index(">10<") < table.index(">5<") < table.index(">55<")
        assert (
            ">75%<" in table.replace("\u2009", "").replace(" ", "").replace(".0%", "%") and 'class="r num right" style="--p:0.917"' in table
        )


def test_the_run_stands_in_the_line_it_belongs_to(client: TestClient, made: Checkpoint) -> None:
    text = client.get(f"/runs/{made.run_id}?tab=checkpoints").text
    tree = text[text.index('class="tree"') :]
    assert (
        tree.index(f"/models/{made.base_id}") < tree.index('<b aria-current="page">the classifier</b>') < tree.index(f"/models/{made.id}")
    )


@pytest.mark.parametrize(
    "told",
    [
        "",
        "[]",
        "{}",
        '{"step": 1, "labels": ["a"], "rows": [[1, 2]]}',
        '{"step": 1, "labels": [], "rows": []}',
        '{"step": 1, "labels": ["a"], "rows": [["x"]]}',
    ],
)
def test_a_table_that_cannot_be_read_is_none(client: TestClient, made: Checkpoint, told: str) -> None:
    (storage.path(made.path or "") / CONFUSION_FILE).write_text(told)
    assert confusion.of(made) is None
    assert client.get(f"/models/{made.id}").status_code == 200


def test_there_is_none_without_a_file(made: Checkpoint) -> None:
    (storage.path(made.path or "") / CONFUSION_FILE).unlink()
    assert confusion.of(made) is None and confusion.of(Checkpoint(name="importing")) is None
