"""The runs page over 10,000 runs, a chart of 1,000,000 points, and what the web process costs. `python -m benchmarks.pages`"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import urllib.request

import numpy as np
import psutil
from sqlalchemy import insert, text

from app.metrics.service import outline
from app.metrics.tables import Metric, MetricChunk
from app.runs.schemas import STATUSES
from app.runs.tables import Run
from benchmarks.studio import Studio, add_run, header, quantile, studio, wait_ready

RUNS = 10_000
POINTS = 1_000_000


def ask(here: Studio, path: str, times: int = 20) -> list[float]:
    """Seconds of each of some requests, the first (cold) one left out."""
    found = []
    for _ in range(times + 1):
        request = urllib.request.Request(here.url + path, headers={"Authorization": f"Bearer {here.token}"})
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=300) as answer:
            answer.read()
        found.append(time.perf_counter() - began)
    return found[1:]


def runs_page(here: Studio) -> None:
    """The list over many runs."""
    first = add_run(here.database, here.workspace_id)
    with here.database.write() as session:
        model = session.get_one(Run, first)
        fixed = {name: getattr(model, name) for name in ("workspace_id", "method", "tuner", "checkpoint_id", "dataset_id")}
        chance = random.Random(1)
        rows = [
            {
                **fixed,
                "id": f"run_{i:018d}",
                "name": f"run {i}",
                "status": chance.choice(STATUSES),
                "step": i % 1000,
                "total_steps": 1000,
                "latest": {"loss": chance.random()},
                "spark": [[s, chance.random()] for s in range(40)],
                "params": {},
                "tuner_params": {},
                "tags": [],
            }
            for i in range(RUNS)
        ]
        for start in range(0, RUNS, 1000):
            session.execute(insert(Run), rows[start : start + 1000])
    with here.database.write() as session:
        if not here.database.is_sqlite:  # as Postgres does itself within a minute
            session.execute(text("ANALYZE"))
    for path in ("/runs", "/runs?status=failed", "/runs?q=run+99", "/api/v1/runs?limit=50"):
        found = ask(here, path)
        print(f"{path} over {RUNS:,} runs, ms: median {quantile(found, 0.5) * 1000:.0f}, p95 {quantile(found, 0.95) * 1000:.0f}")


def chart(here: Studio) -> None:
    """One metric of a million points: 198 chunks of 5,000 and 10,000 live rows, as the worker leaves them at most."""
    run_id = add_run(here.database, here.workspace_id)
    steps = np.arange(POINTS, dtype="<i8")
    values = np.exp(-steps / 3e5) + np.random.default_rng(1).normal(0, 0.05, POINTS)
    live = 6_000
    with here.database.write() as session:
        for start in range(0, POINTS - live, 5_000):
            end = min(start + 5_000, POINTS - live)
            cut = slice(start, end)
            session.add(
                MetricChunk(
                    run_id=run_id,
                    name="loss",
                    first_step=start,
                    last_step=end - 1,
                    count=end - start,
                    last_seq=0,
                    steps=steps[cut].tobytes(),
                    values=values[cut].astype("<f8").tobytes(),
                    outline=outline(steps[cut], values[cut]),
                )
            )
        rows = [
            {"run_id": run_id, "name": "loss", "step": step, "value": float(values[step]), "nonfinite": None, "attempt": 1, "seq": 1}
            for step in range(POINTS - live, POINTS)
        ]
        session.execute(insert(Metric), rows)
    found = ask(here, f"/api/v1/runs/{run_id}/metrics?points=2000")
    print(
        f"chart of {POINTS:,} points thinned to 2,000, ms: median {quantile(found, 0.5) * 1000:.0f}, p95 {quantile(found, 0.95) * 1000:.0f}"
    )


def start(here: Studio) -> None:
    """How soon the web process answers, and what it holds after every page was opened."""
    times = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli import main; main()", "web"], env=here.environment, stdout=subprocess.DEVNULL
        )
        times.append(wait_ready(here.url))
        for path in ("/runs", "/runs/new", "/datasets", "/models", "/api/v1/methods"):
            ask(here, path, times=1)
        memory = psutil.Process(process.pid).memory_info().rss
        process.terminate()
        process.wait(timeout=20)
    print(f"web process: ready after {', '.join(f'{t:.2f}' for t in times)} s (three starts), {memory / 1e6:.0f} MB after every page")


def main() -> None:
    """Measure the stacks named, or both."""
    for stack in [argument for argument in sys.argv[1:] if argument in ("sqlite", "postgres")] or ["sqlite", "postgres"]:
        header(f"pages on {stack}")
        with studio(stack) as here:
            runs_page(here)
            chart(here)
        with studio(stack, web=False) as here:
            start(here)


if __name__ == "__main__":
    main()
