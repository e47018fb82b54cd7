"""The trackers themselves, with their own libraries and without a network: MLflow in a SQLite file, trackio in its files, W&B offline."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.runs import service
from app.settings import get_settings
from tests.trackers.toy import TOTAL, log_of, rest, start, status, toy, train, until

__all__ = ["toy"]
pytestmark = pytest.mark.slow


def killed_and_resumed(stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """A run that is told to one tracker, killed, failed, resumed and finished."""
    monkeypatch.setattr(get_settings(), "trackers", name)
    toy["accident"] = {"what": "kill", "step": 8}
    run_id = start(stack)
    train(stack, attempts=1)
    toy["accident"] = {"what": "config", "step": 11, "attempts": 9}
    train(stack)
    assert status(stack, run_id) == "failed"
    toy.pop("accident")
    with stack.database.write() as session:
        service.resume(session, stack.workspace_id, run_id)
    train(stack)
    assert status(stack, run_id) == "succeeded", log_of(stack, run_id)
    from worker import curves

    until(lambda: run_id not in curves._at_work)
    assert "does not take" not in log_of(stack, run_id), log_of(stack, run_id)
    return run_id


@pytest.mark.filterwarnings("ignore")  # MLflow's own, about its database library
def test_mlflow_holds_each_step_once(stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the trackers extra")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_id = killed_and_resumed(stack, toy, monkeypatch, "mlflow")
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("luthier")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.tags["luthier.run_id"] == run_id and run.info.run_name == "curves" and run.info.status == "FINISHED"
    assert run.data.params["params.batch_size"] == "8"
    history = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "loss")]
    assert sorted(history) == [(step, 1.0 / step) for step in range(1, TOTAL + 1)]


def test_trackio_holds_each_step_once(stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="needs the trackers extra")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run_id = killed_and_resumed(stack, toy, monkeypatch, "trackio")
    import sqlite3

    (file,) = (tmp_path / "trackio").glob("luthier*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, _, _ in rows} == {f"curves ({run_id})"}
    assert [(step, json.loads(metrics)["loss"]) for _, step, metrics in rows] == [(step, 1.0 / step) for step in range(1, TOTAL + 1)]


def records(content: bytes) -> Iterator[bytes]:
    """The records of an offline file of W&B: seven bytes, then LevelDB's log format in blocks of 32 KiB."""
    place, whole = 7, b""
    while place + 7 <= len(content):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_weights_and_biases_offline_holds_each_step_once(
    stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb", reason="needs the trackers extra")
    from wandb.proto import wandb_internal_pb2

    from app import storage

    monkeypatch.setenv("WANDB_MODE", "offline")
    run_id = killed_and_resumed(stack, toy, monkeypatch, "wandb")
    found: list[tuple[int, float]] = []
    names = set()
    for file in sorted(storage.path(f"runs/{run_id}").rglob("*.wandb")):
        for data in records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                names.add((record.run.run_id, record.run.display_name))
            if record.HasField("history"):
                values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
                found.append((int(record.history.step.num or values.get("_step", 0)), values["loss"]))
    assert names == {(run_id, "curves")}
    assert found == [(step, 1.0 / step) for step in range(1, TOTAL + 1)]
    assert rest(stack, run_id)["loss"][-1][0] == TOTAL
