"""Rewards in Python: refused until an admin allows them, checked before, and run where they can do little."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.methods.grpo import GrpoParams
from app.rewards.base import Answered
from app.rewards.python import PythonParams
from app.settings import get_settings
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from worker.reporting import Failed

CODE = "def score(prompt, answer, expected):\n    return len(answer) + (answer == expected)\n"
PLAIN = [Answered("2 + 2 =", "4", 1, "4"), Answered([{"role": "user", "content": "hi"}], "hello", 2)]


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LUTHIER_PYTHON_REWARDS", "true")
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def scores(code: str, answers: list[Answered] | None = None) -> list[float]:
    pytest.importorskip("torch")
    from worker.engines.python_reward import ScoredByPython

    return list(ScoredByPython(PythonParams(code=code), {}, "cpu", "float32")(PLAIN if answers is None else answers))


def asked(stack: Stack) -> dict[str, Any]:
    with stack.database.write() as session:
        checkpoint, dataset = add_checkpoint(session, stack.workspace_id), add_dataset(session, stack.workspace_id, shape="prompt")
        params = {"rewards": [{"kind": "length", "maximum": 9}, {"kind": "python", "code": CODE}]}
        return {"method": "grpo", "checkpoint": checkpoint.id, "dataset": dataset.id, "params": params}


@pytest.mark.one_stack
def test_it_is_refused_until_an_admin_allows_it(api: TestClient, client: TestClient, stack: Stack) -> None:
    body = asked(stack)
    for path in ("/api/v1/runs/plan", "/api/v1/runs"):
        refused = api.post(path, json=body)
        assert refused.status_code == 422 and refused.json()["error"]["field"] == "params.rewards.1", refused.text
        assert "LUTHIER_PYTHON_REWARDS" in refused.json()["error"]["message"]
    assert "params.rewards:length" in client.get("/runs/new?method=grpo").text
    assert "params.rewards:python" not in client.get("/runs/new?method=grpo").text


@pytest.mark.one_stack
def test_where_it_is_allowed_the_form_offers_it(api: TestClient, client: TestClient, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_settings(), "python_rewards", True)
    assert "params.rewards:python" in client.get("/runs/new?method=grpo").text
    assert api.post("/api/v1/runs", json=asked(stack)).status_code == 201


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def score(prompt, answer:\n", "Line 1 is no Python"),
        ("x = 1\n", "defines no function score"),
        ("def score(answer):\n    return 1.0\n", "takes 1 arguments, and is called with three"),
    ],
)
def test_code_is_read_before_it_is_run(code: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GrpoParams.model_validate({"rewards": [{"kind": "python", "code": code}]})


def test_a_worker_that_does_not_allow_it_runs_nothing() -> None:
    with pytest.raises(Failed, match="LUTHIER_PYTHON_REWARDS"):
        scores(CODE)


def test_it_gives_each_answer_a_number(allowed: None) -> None:
    assert scores(CODE) == [2.0, 5.0]
    assert scores("def score(*all):\n    print('to nobody')\n    return len(all[0])\n") == [7.0, 1.0]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def score(p, a, e):\n    x = 1\n    return x / 0\n", "failed in line 3: ZeroDivisionError"),
        ("import torch\ndef score(p, a, e): return 1\n", "failed in line 1: ModuleNotFoundError"),
        ("def score(p, a, e): return None\n", "failed: TypeError"),
        ("import os\ndef score(p, a, e): os._exit(0)\n", "The process of the reward python ended"),
        ("def score(p, a, e): raise SystemExit\n", "SystemExit"),
        ("def score(p, a, e): return float('nan')\n", "did not give each answer a finite number"),
        ("def score(p, a, e): return len(bytearray(3 * 2**30))\n", "MemoryError"),
    ],
)
def test_what_goes_wrong_is_said_with_its_line(allowed: None, code: str, words: str) -> None:
    with pytest.raises(Failed, match=words):
        scores(code)


def test_one_that_does_not_end_is_ended(allowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from worker.engines import python_reward

    monkeypatch.setattr(python_reward, "SECONDS", 0.5)
    made = python_reward.ScoredByPython(PythonParams(code="def score(p, a, e):\n    while True: pass\n"), {}, "cpu", "float32")
    with pytest.raises(Failed, match="longer than"):
        made(PLAIN)
    assert made._process.wait(timeout=5) < 0


def test_it_can_do_little(allowed: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What it sees of the worker, and what of it reaches the world; a test that the system does not permit says so by its number."""
    monkeypatch.setenv("LUTHIER_DATABASE_URL", "postgresql://somebody:secret@nowhere/x")
    tmp_path.chmod(0o777)
    target = tmp_path / "written"
    attempts = {
        "environment": "len(os.environ) > 2",
        "write": f"write({str(target)!r})",
        "fork": "forks()",
    }
    code = f"""
import os
def write(path):
    try:
        with open(path, "w") as file:
            file.write("x" * 100)
        return True
    except OSError:
        return False
def forks():
    try:
        if os.fork() == 0:
            os._exit(0)
        return True
    except OSError:
        return False
def score(p, a, e):
    return float({" or ".join(attempts.values())})
"""
    # A limit on written bytes ends the process by a signal where Python has not been told to ignore it; either way nothing is written.
    assert scores(code) == [0.0, 0.0]
    assert not target.exists() or target.stat().st_size == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives up its rights; others have none to give")
def test_of_a_worker_run_by_root_it_is_nobody_and_has_no_network(allowed: None) -> None:
    code = "import os, re, statistics\ndef score(p, a, e): return os.getuid() + len(open('/proc/self/net/dev').readlines()) / 100\n"
    assert scores(code) == [pytest.approx(65534.03)] * 2  # two lines of titles, and the loopback


def test_it_goes_with_the_run(allowed: None) -> None:
    pytest.importorskip("torch")
    from worker.engines.python_reward import ScoredByPython

    made = ScoredByPython(PythonParams(code=CODE), {}, "cpu", "float32")
    process = made._process
    del made
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < 5:
        time.sleep(0.01)
    assert process.poll() is not None
