"""200 running runs, a step a second each: how soon does a step stand in the list of a browser? `python -m benchmarks.list_live [runs]`"""

from __future__ import annotations

import multiprocessing
import sys
import time
from typing import Any

import httpx
import psutil
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import insert

from app.accounts import service as accounts
from app.database import Database, new_id
from app.leases import Claim
from app.runs import progress
from app.runs.progress import Batch
from app.runs.tables import Run
from app.settings import Settings
from benchmarks.studio import Studio, add_run, header, quantile, studio
from tests.browser.conftest import chromium

RUNS = 200
TOGETHER = 5
"""Steps in one transaction: one disk flush for each would be the limit of SQLite on a slow disk, and is not what is measured here."""
SECONDS = 30
WARM_UP = 8
START = 10_000
"""Step the runs are at before: all numbers then have the same number of digits."""

WATCH = """() => {
  window.seen = [];
  new MutationObserver((changes) => {
    const now = Date.now();
    const rows = new Set();
    for (const { target } of changes) {
      const row = (target.nodeType === 1 ? target : target.parentElement)?.closest("tr[id]");
      if (row) rows.add(row);
    }
    for (const row of rows) {
      const step = row.querySelector("[aria-valuenow]")?.getAttribute("aria-valuenow");
      if (step) window.seen.push([row.id.slice(4), Number(step), now]);
    }
  }).observe(document.querySelector("#runs"), { subtree: true, childList: true, characterData: true, attributes: true });
}"""


def fill(here: Studio, count: int) -> list[str]:
    """Running runs, each with a curve."""
    first = add_run(here.database, here.workspace_id, status="succeeded")
    ids = sorted(new_id("run") for _ in range(count))
    with here.database.write() as session:
        model = session.get_one(Run, first)
        common = {name: getattr(model, name) for name in ("workspace_id", "method", "tuner", "checkpoint_id", "dataset_id")}
        spark = [[step, 3 / (step + 1)] for step in range(0, 640, 10)]
        rows = [
            {
                **common,
                "id": run_id,
                "name": f"running {number}",
                "status": "running",
                "attempt": 1,
                "step": START,
                "total_steps": 99_999,
                "lease_owner": "bench/1",
                "lease_until": time.time() + 9999,
                "started_at": time.time(),
                "latest": {"loss": 1.0, "learning_rate": 1e-4, "tokens_per_second": 1500.0, "elapsed_seconds": 10.0},
                "spark": spark,
                "params": {"batch_size": 8, "learning_rate": 1e-4, "max_length": 1024, "scheduler": "cosine"},
                "tuner_params": {"r": 16},
                "tags": ["bench"],
            }
            for number, run_id in enumerate(ids)
        ]
        session.execute(insert(Run), rows)
    return ids


def write_steps(url: str, ids: list[str], stop: Any, written: Any) -> None:
    """The workers, in a process of their own: every run makes a step each second, spread over it."""
    database = Database(url)
    step = START
    began = time.monotonic()
    while not stop.is_set():
        step += 1
        for place in range(0, len(ids), TOGETHER):
            wait = began + (step - START) + place / len(ids) - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            if stop.is_set():
                break
            group = ids[place : place + TOGETHER]
            points = [("loss", step, 1 + 1 / step), ("elapsed_seconds", step, float(step))]
            with database.write() as session:
                for run_id in group:
                    progress.record(session, Claim(run_id, 1, "bench/1"), Batch(points=points, step=step))
            now = time.time()
            for run_id in group:
                written.put((run_id, step, now))
    written.put(None)
    database.dispose()


def signed_in(browser: Browser, here: Studio) -> Page:
    """A page of somebody who has just signed in."""
    settings = Settings(home=here.home, database_url=here.environment["LUTHIER_DATABASE_URL"], port=int(here.environment["LUTHIER_PORT"]))
    with here.database.write() as session:
        link = accounts.link_for(session, settings, here.user_id)
    answer = httpx.get(link, headers={"Sec-Fetch-Site": "none"})
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_cookies([{"name": name, "value": value, "url": here.url} for name, value in answer.cookies.items()])
    return context.new_page()


def cpu(process: psutil.Process) -> float:
    """Seconds of processor that a process and its children have used."""
    return sum(sum(each.cpu_times()[:2]) for each in [process, *process.children(recursive=True)])


def measure(here: Studio, count: int) -> None:
    """Open the list, let the runs step, compare the moments of writing with those of showing."""
    ids = fill(here, count)
    assert here.process is not None
    web = psutil.Process(here.process.pid)
    spawn = multiprocessing.get_context("spawn")
    stop, written = spawn.Event(), spawn.Queue()
    writer = spawn.Process(target=write_steps, args=(here.database.url.render_as_string(hide_password=False), ids, stop, written))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = signed_in(browser, here)
        page.goto(f"{here.url}/runs?rows=200")
        assert page.locator("#runs tr").count() == min(count, 200)
        writer.start()
        page.wait_for_timeout(WARM_UP * 1000)
        page.evaluate(WATCH)
        before, began = cpu(web), time.time()
        page.wait_for_timeout(SECONDS * 1000)
        used, ended = cpu(web) - before, time.time()
        stop.set()
        page.wait_for_timeout(2000)
        shown = page.evaluate("window.seen")
        browser.close()
    moments = {(run_id, step): at for run_id, step, at in iter(written.get, None)}
    writer.join()
    # A step is shown when its row first shows it or a later one.
    late = []
    by_run: dict[str, list[tuple[int, float]]] = {}
    for run_id, step, at in shown:
        by_run.setdefault(run_id, []).append((step, at / 1000))
    for (run_id, step), at in moments.items():
        if began < at < ended - 2:
            late.append(min((then for seen, then in by_run.get(run_id, []) if seen >= step), default=ended + 9) - at)
    print(f"{len(late):,} steps of {count} runs in {ended - began - 2:.0f} s ({len(late) / (ended - began - 2):.0f} a second)")
    print(
        f"step to row, ms: p50 {quantile(late, 0.5) * 1000:.0f}, p95 {quantile(late, 0.95) * 1000:.0f}, "
        f"p99 {quantile(late, 0.99) * 1000:.0f}, most {max(late) * 1000:.0f}"
    )
    print(f"web process: {100 * used / (ended - began):.0f} % of one core, {web.memory_info().rss / 1e6:.0f} MB")


def main() -> None:
    """Measure the stacks named, or SQLite."""
    count = next((int(argument) for argument in sys.argv[1:] if argument.isdigit()), RUNS)
    for stack in [argument for argument in sys.argv[1:] if argument in ("sqlite", "postgres")] or ["sqlite"]:
        header(f"{count} running runs in the list, on {stack}")
        with studio(stack) as here:
            measure(here, count)


if __name__ == "__main__":
    main()
