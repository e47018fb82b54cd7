"""A morning's work in a studio of its own, through REST: real data, real fine-tuning of a small model. The pictures show it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parents[1]
GSM8K = ROOT.parent / "shared" / "data" / "gsm8k" / "train.jsonl"
FIRST = {"max_steps": 40, "batch_size": 4, "eval_steps": 10, "save_steps": 20, "answer_check": "last_integer", "answer_check_rows": 40}
FIRST |= {"learning_rate": 1e-3, "max_length": 64, "sample_tokens": 24}
RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("small", "sums, rank 4", {"tuner_params": {"r": 4}, "tags": ["rank"]}),
    ("good", "sums, rank 16", {"tuner_params": {"r": 16}, "tags": ["rank", "keep"]}),
    ("full", "sums, every weight", {"tuner": "full", "params": {"learning_rate": 3e-5, "max_steps": 20}}),
    ("wild", "sums, killed by hand", {"params": {"max_steps": 30}}),
    (
        "dpo",
        "right before wrong",
        {"method": "dpo", "dataset": "pairs", "eval_dataset": None, "params": {"max_steps": 12, "batch_size": 2}},
    ),
]


class Work:
    """A running studio, a client of it, and the ids of what was made, by short names."""

    def __init__(self, url: str, token: str, home: Path, pid: int) -> None:
        self.url, self.home, self.pid = url, home, pid
        self.ids: dict[str, str] = {}
        self.client = httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=60)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """A call that has to work."""
        answer = self.client.request(method, path, **options)
        if not answer.is_success:
            raise SystemExit(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def ended(self, path: str, seconds: float = 1800) -> dict[str, Any]:
        """Wait until a row is neither waiting nor in the works."""
        return until(lambda: (row := self.ask("GET", path))["status"] not in UNDER_WAY and row, seconds)  # type: ignore[no-any-return]


UNDER_WAY = ("importing", "counting", "queued", "preparing", "running", "stopping", "pausing")


def until(found: Callable[[], Any], seconds: float) -> Any:
    """Wait for something and return it.

    Raises:
        TimeoutError: it did not come about.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            if value := found():
                return value
        time.sleep(0.5)
    raise TimeoutError("What the pictures need did not come about; the log of the studio says more.")


@contextlib.contextmanager
def studio(home: Path) -> Iterator[Work]:
    """`luthier up` in a folder, as long as the block lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    with open(home / "studio.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", "up"],
            cwd=ROOT,
            env={**kept, "LUTHIER_HOME": str(home), "LUTHIER_PORT": str(port)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: httpx.get(f"{url}/readyz", timeout=2).status_code == 200 and (home / "token").exists(), 120)
        yield Work(url, (home / "token").read_text().strip(), home, process.pid)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def bring_data(work: Work) -> None:
    """Datasets: sums with held-out ones, school maths, pairs of a right and a wrong answer, and a file with mistakes."""
    recipe = {"rows": 800, "held_out": 80, "min_digits": 2, "max_digits": 2, "seed": 7}
    work.ask("POST", "/recipes/arithmetic/runs", json={"name": "sums", **recipe})
    made = until(lambda: [each for each in work.ask("GET", "/datasets?q=sums")["data"] if each["status"] == "ready"][1:] and 1, 120)
    assert made
    for each in work.ask("GET", "/datasets?q=sums")["data"]:
        work.ids["held_out" if "held" in each["name"] else "sums"] = each["id"]
    rows = work.ask("GET", f"/datasets/{work.ids['sums']}/rows?limit=200")["data"]
    sums = [row.get("row", row) for row in rows]
    pairs = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": f"{int(row['completion']) + 1 + number % 9}"}
        for number, row in enumerate(sums)
    ]
    odd = [json.dumps(row) for row in sums[:60]]
    odd[11], odd[29], odd[44] = (
        '{"prompt": "What is 3 + 4?"',
        json.dumps({"prompt": "What is 5 + 5?"}),
        json.dumps({"prompt": 7, "completion": 8}),
    )
    files = {
        "pairs": ("right-and-wrong.jsonl", "\n".join(json.dumps(pair) for pair in pairs)),
        "odd": ("typed-by-hand.jsonl", "\n".join(odd)),
    }
    if GSM8K.is_file():
        files["school"] = ("gsm8k.jsonl", GSM8K.read_text())
    for short, (name, text) in files.items():
        fields = {"name": Path(name).stem}
        if short == "school":
            fields["mapping"] = json.dumps({"prompt": "question", "completion": "answer"})
        sent = work.ask("POST", "/datasets", files={"file": (name, text.encode())}, data=fields)
        work.ids[short] = sent["id"]
        work.ended(f"/datasets/{sent['id']}", 120)


def train(work: Work, say: Callable[[str], None]) -> None:
    """Runs of every kind that ended, one that goes on and one that waits."""
    model = until(
        lambda: [each for each in work.ask("GET", "/checkpoints")["data"] if each["status"] == "ready" and each["kind"] == "base"], 300
    )[0]
    work.ids["model"] = model["id"]
    for short, name, more in RUNS:
        if short in work.ids:
            continue
        say(f"training “{name}”")
        work.ids[short] = work.ask("POST", "/runs", json=request(work, name, more))["id"]
        run = kill(work) if short == "wild" else work.ended(f"/runs/{work.ids[short]}")
        say(f"  {run['status']} {run.get('reason') or ''}")
    long = {"params": {"max_steps": 400, "eval_steps": 50}, "tags": ["long"]}
    work.ids["live"] = work.ask("POST", "/runs", json=request(work, "sums, all morning", long))["id"]
    work.ids["queued"] = work.ask("POST", "/runs", json=request(work, "sums, rank 16 again", {"parent_run": work.ids["good"]}))["id"]
    tuned = work.ask("GET", f"/runs/{work.ids['good']}/checkpoints")["data"]
    work.ids["tuned"] = tuned[0]["id"]


def kill(work: Work) -> dict[str, Any]:
    """Kill the trainer of the run whenever it has come a little way, until the studio gives the run up."""
    while (run := work.ask("GET", f"/runs/{work.ids['wild']}"))["status"] in UNDER_WAY:
        for process in psutil.Process(work.pid).children(recursive=True) if run["step"] > 8 else ():
            with contextlib.suppress(psutil.Error):
                if "worker.child" in process.cmdline():
                    process.kill()
        time.sleep(0.5)
    return run  # type: ignore[no-any-return]


def request(work: Work, name: str, more: dict[str, Any]) -> dict[str, Any]:
    """The body of a run: the usual settings with some of its own."""
    asked: dict[str, Any] = {
        "method": "sft",
        "tuner": "lora",
        "checkpoint": work.ids["model"],
        "dataset": "sums",
        "eval_dataset": "held_out",
    }
    asked |= {"name": name, **more, "params": {**FIRST, **more.get("params", {})}}
    if asked["method"] != "sft":
        for setting in ("answer_check", "answer_check_rows"):
            asked["params"].pop(setting, None)
    asked["dataset"] = work.ids[asked["dataset"]]
    asked["eval_dataset"] = work.ids[asked["eval_dataset"]] if asked["eval_dataset"] else None
    return {key: value for key, value in asked.items() if value is not None}
