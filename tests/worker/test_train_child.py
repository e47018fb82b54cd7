"""The training child as a worker starts it: a process of its own, told by a file, heard through its output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from app.checkpoints import manifest as manifests
from app.settings import CHECKOUT
from tests.methods import child
from worker.allocator import preload_env
from worker.sampling import Question, last_integer

pytestmark = pytest.mark.train


def test_the_child_trains_under_the_tuned_allocator_and_starts_soon(tmp_path: Path) -> None:
    job = {
        **child.spec(tmp_path, "sft", "lora", held_out=2, params={"max_steps": 2, "precision": "auto"}, sample_prompts=1),
        "module": "worker.train",
    }
    (tmp_path / "spec.json").write_text(json.dumps(job))
    preload = preload_env()
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "worker.child", str(tmp_path / "spec.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **preload},
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-3000:]
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert messages[-1] == {"kind": "result", "result": {"outcome": "finished", "step": 2}}
    told = next(message["config"] for message in messages if message["kind"] == "resolved")
    assert (told["allocator"] != "of the system") == bool(preload)
    assert set(told["versions"]) >= {"torch", "transformers", "trl", "peft"}
    used = [message["values"] for message in messages if message["kind"] == "metrics" and "system/rss_bytes" in message["values"]]
    assert used and used[-1]["system/rss_bytes"] > 1e7, "what the machine did is measured, of a short run too"
    manifests.verify_manifest(Path(job["work"]) / "checkpoint-2")
    assert not [line for line in done.stderr.splitlines() if not line.startswith(("INFO ", "WARNING "))], "the log has one line a message"
    assert seconds < 60, "ten seconds when nothing else runs; tests may share the machine"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The sum is 42.", 42),
        ("12 - 30 = -18", -18),
        ("#### 1,072", 1072),
        ("12-3", 3),
        ("so −5 it is", -5),
        ("none", None),
        ("", None),
        ("1, 2", 2),
    ],
)
def test_the_last_whole_number_of_an_answer(text: str, number: int | None) -> None:
    assert last_integer(text) == number


def test_a_prompt_is_shown_as_people_read_it() -> None:
    assert Question([{"role": "user", "content": "Hello"}], "").shown == "Hello"
    assert (
        Question([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}], "").shown
        == "system: Be kind.\n\nuser: Hello"
    )
    assert Question("once upon", "").shown == "once upon"
