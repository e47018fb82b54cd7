"""Trackers of runs that are killed, resumed, cancelled: each step once, with the values REST gives; on both stacks."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from app import storage, trackers
from app.runs import service
from app.runs.tables import Run
from app.settings import Settings, get_settings
from tests.trackers.toy import TOTAL, log_of, rest, start, status, toy, train, until
from worker import run_training
from worker.event_files import EventFile
from worker.trackers.base import Row

__all__ = ["toy"]
pytest.importorskip("tensorboardX", reason="the event files need the train extra")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

pytestmark = pytest.mark.one_stack


def shown(run_id: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads."""
    accumulator = EventAccumulator(str(trackers.folder(run_id)), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(each.step, each.value) for each in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


# --- TensorBoard ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 8, 11])
def test_a_killed_and_resumed_run_has_each_step_once_with_the_values_of_rest(stack: Any, toy: dict[str, Any], step: int) -> None:
    toy["accident"] = {"what": "kill", "step": step, "attempts": 2}
    run_id = start(stack)
    train(stack)
    assert status(stack, run_id) == "succeeded"
    assert [each for each, _ in shown(run_id)["loss"]] == list(range(1, TOTAL + 1))
    assert shown(run_id) == rest(stack, run_id)


def test_a_worker_killed_between_writing_and_noting_doubles_nothing(stack: Any, toy: dict[str, Any]) -> None:
    toy["accident"] = {"what": "kill", "step": 8}
    run_id = start(stack)
    train(stack, attempts=1)
    (file,) = trackers.event_files(run_id)
    whole = file.read_bytes()
    note = trackers.state_file(run_id)
    before = note.read_text()
    train(stack)
    finished = file.read_bytes()
    # As if the worker had died after it had appended more, and half a record, and before it noted any of it.
    file.write_bytes(finished[: len(whole) + 20])
    note.write_text(before)
    with stack.database.write() as session:
        session.execute(update(Run).values(status="failed"))
        service.resume(session, stack.workspace_id, run_id)
    train(stack)
    assert shown(run_id) == rest(stack, run_id) and file.read_bytes() == finished


def test_only_what_a_committed_checkpoint_has_made_final_is_shown_while_a_run_goes_on(stack: Any, toy: dict[str, Any]) -> None:
    toy["pause"] = 0.3
    run_id = start(stack)
    thread = threading.Thread(target=train, args=(stack, 1))
    thread.start()
    seen: list[int] = []
    while thread.is_alive():
        files = trackers.event_files(run_id)
        if files and files[0].stat().st_size:
            seen.append(max((step for step, _ in shown(run_id).get("loss", [])), default=0))
        time.sleep(0.1)
    thread.join()
    assert {5, 10} <= set(seen) <= {0, 5, 10, 12} and seen == sorted(seen)


def test_a_run_that_failed_shows_all_it_did_and_after_a_resume_only_what_counts(stack: Any, toy: dict[str, Any]) -> None:
    toy["accident"] = {"what": "config", "step": 8}
    run_id = start(stack)
    train(stack)
    assert status(stack, run_id) == "failed"
    assert [step for step, _ in shown(run_id)["loss"]] == list(range(1, 9)) and shown(run_id) == rest(stack, run_id)
    toy.pop("accident")
    with stack.database.write() as session:
        service.resume(session, stack.workspace_id, run_id)
    train(stack)
    assert status(stack, run_id) == "succeeded" and shown(run_id) == rest(stack, run_id)


def test_a_damaged_checkpoint_takes_its_stretch_of_the_curve_back(stack: Any, toy: dict[str, Any]) -> None:
    toy["accident"] = {"what": "kill", "step": 11}
    run_id = start(stack)
    train(stack, attempts=1)
    for file in storage.path(f"runs/{run_id}/checkpoints").glob("step-10-*/adapter_model.safetensors"):
        file.write_bytes(b"??")
    train(stack)
    assert status(stack, run_id) == "succeeded" and shown(run_id) == rest(stack, run_id)


def test_values_that_are_no_numbers_and_removed_files_are_no_trouble(tmp_path: Path) -> None:
    file = EventFile(tmp_path, [], started_at=1000.0)
    file.append([Row(1, 1001.0, {"loss": float("nan"), "b": 1.0}), Row(2, 1002.5, {"loss": float("inf")})], 2)
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    first, second = accumulator.Scalars("loss")
    assert np.isnan(first.value) and np.isinf(second.value) and (first.wall_time, second.wall_time) == (1001.0, 1002.5)
    file.file.unlink()
    file.cut(5)
    assert file.last == -1


def test_a_full_disk_is_said_in_the_log_and_fails_nothing(stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: EventFile, rows: Any, up_to: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventFile, "append", full)
    run_id = start(stack)
    train(stack)
    assert status(stack, run_id) == "succeeded"
    until(lambda: "TensorBoard files cannot be written" in log_of(stack, run_id))


def test_the_files_come_as_an_archive_and_the_page_says_how_to_read_them(
    stack: Any, toy: dict[str, Any], api: TestClient, client: TestClient
) -> None:
    run_id = start(stack)
    early = api.get(f"/api/v1/runs/{run_id}/tensorboard")
    assert early.status_code == 404 and "no TensorBoard file yet" in early.json()["error"]["message"]
    train(stack)
    answer = api.get(f"/api/v1/runs/{run_id}/tensorboard")
    assert answer.status_code == 200 and f"{run_id}-tensorboard.zip" in answer.headers["content-disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        (name,) = archive.namelist()
        (file,) = trackers.event_files(run_id)
        assert name == f"{run_id}/{file.name}" and archive.read(name) == file.read_bytes()
    assert client.get(f"/runs/{run_id}/tensorboard.zip").content == answer.content
    assert api.get("/api/v1/runs/run_000000000000000000/tensorboard").status_code == 404


# --- the others -----------------------------------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_a_line_in_the_log(stack: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "trackers", "wandb")
    monkeypatch.setattr("worker.curves.find_spec", lambda name: None if name == "wandb" else find_spec(name))
    run_id = start(stack)
    train(stack)
    assert status(stack, run_id) == "succeeded"
    assert "Weights & Biases is not told of this run" in log_of(stack, run_id) and "luthier[trackers]" in log_of(stack, run_id)


def test_a_tracker_nobody_knows_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no tracker “neptun”"):
        Settings(home=tmp_path, trackers="wandb, neptun")
    assert Settings(home=tmp_path, trackers=" MLflow,,wandb , mlflow").tracker_names == ["mlflow", "wandb"]


FAKE = '''
import json, os
from pathlib import Path
from worker.trackers.base import Tracker

class Fake(Tracker):
    """Appends to a file, and fails as often as another file says."""

    name, title, package, environment = "wandb", "Fake", "json", ("WANDB_",)

    def open(self, story, folder):
        self.file = Path(os.environ["WANDB_FILE"])
        trouble = Path(os.environ["WANDB_FILE"] + ".trouble")
        if trouble.exists():
            trouble.unlink()
            raise ConnectionError("away")
        self._say({"open": story.run_id, "name": story.name, "config": story.config, "environment": sorted(os.environ)})
        return -1

    def _say(self, what):
        with open(self.file, "a") as stream:
            stream.write(json.dumps(what) + chr(10))

    def write(self, rows):
        for row in rows:
            self._say({"step": row.step, "values": row.values})

    def close(self, status):
        self._say({"status": status})
'''


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tracker that stands in for W&B, in the real child process."""
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "fake.py").write_text(FAKE)
    (folder / "sitecustomize.py").write_text(
        "import worker.trackers as t\n"
        "from app.registry import declared\n"
        f"t.registry = lambda: declared('worker.trackers', [{str(folder)!r}], t.Tracker)\n"
        f"t.__path__ = [{str(folder)!r}]\n"
    )
    from worker import trackers as external

    monkeypatch.setattr(external, "__path__", [str(folder)])
    real = run_training.Curves

    from worker import curves

    environment = curves._environment
    monkeypatch.setattr(curves, "_environment", lambda names: {**environment(names), "PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"})
    assert real is curves.Curves
    monkeypatch.setattr(get_settings(), "trackers", "wandb")
    file = tmp_path / "fake.jsonl"
    monkeypatch.setenv("WANDB_FILE", str(file))
    monkeypatch.setenv("LUTHIER_DATABASE_URL", get_settings().database)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    return file


def told(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def over(file: Path, how: str) -> Callable[[], bool]:
    return lambda: any(each.get("status") == how for each in told(file))


def test_other_trackers_get_each_step_once_and_no_secret_of_the_worker(stack: Any, toy: dict[str, Any], fake: Path) -> None:
    toy["accident"] = {"what": "kill", "step": 8}
    run_id = start(stack)
    train(stack)
    until(over(fake, "succeeded"))
    found = told(fake)
    assert [each["step"] for each in found if "step" in each] == list(range(1, TOTAL + 1))
    assert [(each["step"], each["values"]["loss"]) for each in found if "step" in each][-1] == (TOTAL, 1 / TOTAL)
    opened = [each for each in found if "open" in each]
    assert opened[0]["open"] == run_id and opened[0]["config"]["params.batch_size"] == 8 and opened[0]["name"] == "curves"
    for each in opened:
        assert "WANDB_FILE" in each["environment"]
        assert not {"LUTHIER_DATABASE_URL", "AWS_SECRET_ACCESS_KEY"} & set(each["environment"])


def test_a_tracker_that_was_away_gets_what_it_missed(stack: Any, toy: dict[str, Any], fake: Path) -> None:
    Path(f"{fake}.trouble").touch()
    toy["pause"] = 0.2
    run_id = start(stack)
    train(stack)
    until(over(fake, "succeeded"))
    assert [each["step"] for each in told(fake) if "step" in each] == list(range(1, TOTAL + 1))
    assert status(stack, run_id) == "succeeded"
    until(lambda: "Fake does not take the curves just now" in log_of(stack, run_id))


def test_a_run_that_failed_told_others_only_what_was_final(stack: Any, toy: dict[str, Any], fake: Path) -> None:
    toy["accident"] = {"what": "config", "step": 8}
    run_id = start(stack)
    train(stack)
    until(over(fake, "failed"))
    assert [each["step"] for each in told(fake) if "step" in each] == [1, 2, 3, 4, 5]
    toy.pop("accident")
    with stack.database.write() as session:
        service.resume(session, stack.workspace_id, run_id)
    train(stack)
    until(over(fake, "succeeded"))
    assert [each["step"] for each in told(fake) if "step" in each] == list(range(1, TOTAL + 1))
