"""Kill -9 of trainer, worker and web at random moments: every run finishes, with one point a step and an undisturbed twin's weights."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.studio import Up, until
from tests.models import tiny_llama
from tests.servers import missing, postgres_database, redis_number

pytestmark = pytest.mark.train
STEPS, SAVE = 240, 20
TAKEOVER_SECONDS = 45


@pytest.fixture(params=["sqlite", "postgres"])
def up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Up]:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"LUTHIER_THREADS": "1", "LUTHIER_DEVICE": "cpu"}
    if request.param == "sqlite":
        studio = Up(home, environment)
        yield studio
        studio.stop()
        return
    try:
        with postgres_database() as postgres, redis_number() as redis:
            studio = Up(home, {**environment, "LUTHIER_DATABASE_URL": postgres, "LUTHIER_BROKER_URL": redis})
            yield studio
            studio.stop()
    except LookupError as error:
        missing("server", f"{error}.")


def _prepare(up: Up, folder: Path) -> dict[str, Any]:
    model = tiny_llama(folder / "tiny")
    checkpoint = up.ask("POST", "/checkpoints", json={"source": "folder", "ref": str(model), "name": "tiny"})
    chance = random.Random(7)
    rows = [
        {"prompt": f"What is {a} + {b}?", "completion": str(a + b)}
        for a, b in ((chance.randrange(100), chance.randrange(100)) for _ in range(300))
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    dataset = up.ask("POST", "/datasets", files={"file": ("sums.jsonl", text.encode())}, data={"name": "sums"})

    def _ready() -> bool:
        found = [up.ask("GET", f"/checkpoints/{checkpoint['id']}"), up.ask("GET", f"/datasets/{dataset['id']}")]
        assert all(item["status"] != "failed" for item in found), found
        return all(item["status"] == "ready" for item in found)

    until(_ready, 90, "model and data did not become ready")
    params = {
        "max_steps": STEPS,
        "save_steps": SAVE,
        "batch_size": 4,
        "precision": "fp32",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "keep_checkpoints": 2,
    }
    return {"method": "sft", "tuner": "lora", "checkpoint": checkpoint["id"], "dataset": dataset["id"], "params": params, "seed": 3}


def _start(up: Up, request: dict[str, Any], name: str) -> str:
    return str(up.ask("POST", "/runs", json={**request, "name": name})["id"])


def _final_hash(up: Up, run_id: str) -> str:
    run = up.ask("GET", f"/runs/{run_id}")
    assert run["status"] == "succeeded", (run["status"], run["reason"])
    newest = up.ask("GET", f"/runs/{run_id}/checkpoints")["data"][0]
    assert newest["step"] == STEPS
    return str(newest["sha256"])


def _check_curve(up: Up, run_id: str) -> None:
    points = up.ask("GET", f"/runs/{run_id}/metrics?points=100000&names=loss")["data"]["loss"]
    assert [step for step, _ in points] == list(range(1, STEPS + 1))


class Attempts:
    """Where each attempt began and how far it was seen to come."""

    def __init__(self) -> None:
        self.reached: dict[int, int] = {}
        self.began: dict[int, int] = {}

    def look(self, up: Up, run_id: str) -> dict[str, Any]:
        run: dict[str, Any] = up.ask("GET", f"/runs/{run_id}")
        self.reached[run["attempt"]] = max(self.reached.get(run["attempt"], 0), run["step"])
        return run

    def check(self, up: Up, run_id: str) -> None:
        for event in up.ask("GET", f"/runs/{run_id}/events")["data"]:
            if event["kind"] == "attempt":
                before = self.reached.get(event["attempt"] - 1, 0)
                assert before - event["data"]["step"] <= SAVE, f"attempt {event['attempt']} repeats {before - event['data']['step']} steps"


def _kill(up: Up, run_id: str, target: str, attempts: Attempts) -> float:
    """Kill one part; seconds until a trainer of the next attempt lives (or the web server answers)."""
    before = attempts.look(up, run_id)["attempt"]
    process = {"trainer": up.trainer, "worker": lambda: up.child("worker"), "web": lambda: up.child("web")}[target]()
    if process is None:
        return -1.0
    began = time.monotonic()
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return -1.0
    if target == "web":
        until(up.ready, TAKEOVER_SECONDS, "the web server did not come back")
        return time.monotonic() - began

    def _taken_over() -> bool:
        run = attempts.look(up, run_id)
        return run["status"] in ("succeeded", "failed") or (run["attempt"] > before and up.trainer() is not None)

    until(_taken_over, TAKEOVER_SECONDS, f"no new attempt within {TAKEOVER_SECONDS} s after the {target} was killed")
    return time.monotonic() - began


def _torture(up: Up, tmp_path: Path, targets: list[str], seed: int) -> None:
    chance = random.Random(seed)
    request = _prepare(up, tmp_path)
    twin = _start(up, request, "undisturbed")
    until(lambda: up.ask("GET", f"/runs/{twin}")["status"] in ("succeeded", "failed"), 180, "the twin did not end")
    expected = _final_hash(up, twin)
    _check_curve(up, twin)
    left, number = list(targets), 0
    while left:
        number += 1
        run_id = _start(up, request, f"disturbed {number}")
        attempts = Attempts()
        while left and attempts.look(up, run_id)["status"] not in ("succeeded", "failed"):
            until(lambda: attempts.look(up, run_id)["status"] in ("running", "succeeded", "failed"), 60, "the run did not go on")  # noqa: B023
            end = time.monotonic() + chance.uniform(0.2, 3.0)
            while time.monotonic() < end:
                attempts.look(up, run_id)
            took = _kill(up, run_id, left[0], attempts)
            if took >= 0:
                print(f"  {up.home.name}: {left.pop(0)} killed, going on after {took:.1f} s", flush=True)
        until(lambda: attempts.look(up, run_id)["status"] in ("succeeded", "failed"), 240, "the run did not end")  # noqa: B023
        assert _final_hash(up, run_id) == expected, "the weights differ from the undisturbed twin's"
        _check_curve(up, run_id)
        attempts.check(up, run_id)


@pytest.mark.slow
@pytest.mark.one_stack
def test_two_kills(up: Up, tmp_path: Path) -> None:
    _torture(up, tmp_path, ["trainer", "worker"], seed=1)


@pytest.mark.soak
def test_twenty_kills(up: Up, tmp_path: Path) -> None:
    _torture(up, tmp_path, ["trainer", "worker", "web"] * 3 + random.Random(2).choices(["trainer", "worker", "web"], k=11), seed=2)
