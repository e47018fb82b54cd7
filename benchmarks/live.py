"""500 browsers on one run: does every point reach every one once, and how fast? `python -m benchmarks.live [sqlite|postgres] [clients]`"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import psutil

from app.accounts import service as accounts
from app.database import Database
from app.leases import Claim
from app.runs import progress
from app.runs.progress import Batch
from benchmarks.studio import Studio, add_run, header, quantile, studio

SECONDS = 20
EVERY = 0.25
POINTS = 5
READERS = 50
"""Streams of one token: a studio lets it open 100 at most."""


def write_points(url: str, run_id: str, stop: Any, written: Any) -> None:
    """A worker's writes, in a process of its own: five points each quarter of a second, the moment of writing as their value."""
    database = Database(url)
    step = 0
    mine = Claim(run_id, 1, "bench/1")
    while not stop.is_set():
        points = []
        for _ in range(POINTS):
            step += 1
            points.append(("loss", step, time.time()))
        with database.write() as session:
            progress.record(session, mine, Batch(points=points, step=step))
        written.value = step
        stop.wait(EVERY)


async def client(url: str, token: str, run_id: str, seen: list[int], late: list[float], ready: asyncio.Event, end: asyncio.Event) -> None:
    """One stream, read until the end."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"Host: {parts.netloc}\r\nAuthorization: Bearer {token}"
    request = f"GET /api/v1/events?topics=run:{run_id}&after=run:{run_id}=0 HTTP/1.1\r\n{head}\r\n\r\n"
    writer.write(request.encode())
    event = ""
    try:
        while not end.is_set():
            line = await asyncio.wait_for(reader.readline(), 30)
            if not line:
                raise SystemExit("a stream ended early")
            if line.startswith(b": connected"):
                ready.set()
            elif line.startswith(b"event: "):
                event = line[7:].strip().decode()
            elif line.startswith(b"data: ") and event == "metrics":
                arrived = time.time()
                for _, step, value, *_ in json.loads(line[6:])["points"]:
                    seen.append(step)
                    late.append(arrived - value)
    finally:
        writer.close()


async def measure(here: Studio, run_id: str, clients: int) -> None:
    """Open the streams, write for a while, count."""
    seen: list[list[int]] = [[] for _ in range(clients)]
    late: list[float] = []
    end = asyncio.Event()
    ready = [asyncio.Event() for _ in range(clients)]
    with here.database.write() as session:
        tokens = [
            accounts.create_token(session, name=f"readers {i}", role="viewer", user_id=here.user_id, workspace_id=here.workspace_id)[1]
            for i in range(clients // READERS + 1)
        ]
    tasks = [asyncio.create_task(client(here.url, tokens[i // READERS], run_id, seen[i], late, ready[i], end)) for i in range(clients)]
    await asyncio.wait_for(asyncio.gather(*(event.wait() for event in ready)), 60)
    assert here.process is not None
    web = psutil.Process(here.process.pid)
    before = sum(web.cpu_times()[:2])
    spawn = multiprocessing.get_context("spawn")
    stop, count = spawn.Event(), spawn.Value("q", 0)
    url = here.database.url.render_as_string(hide_password=False)
    writer = spawn.Process(target=write_points, args=(url, run_id, stop, count))
    writer.start()
    await asyncio.sleep(SECONDS)
    stop.set()
    await asyncio.to_thread(writer.join)
    written = count.value
    await asyncio.sleep(2)
    used = sum(web.cpu_times()[:2]) - before
    whole = sum(1 for steps in seen if steps == list(range(1, written + 1)))
    print(f"clients {clients}: points written {written}, clients with every point once and in order {whole} of {clients}")
    print(f"latency ms: p50 {quantile(late, 0.5) * 1000:.0f}, p99 {quantile(late, 0.99) * 1000:.0f}, most {max(late) * 1000:.0f}")
    print(f"web process: {100 * used / (SECONDS + 2):.0f} % of one core, {web.memory_info().rss / 1e6:.0f} MB")
    end.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Measure the stacks named, or both."""
    stacks = [argument for argument in sys.argv[1:] if argument in ("sqlite", "postgres")] or ["sqlite", "postgres"]
    clients = next((int(argument) for argument in sys.argv[1:] if argument.isdigit()), 500)
    for stack in stacks:
        header(f"live streams on {stack}")
        with studio(stack) as here:
            run_id = add_run(here.database, here.workspace_id, lease_owner="bench/1", lease_until=time.time() + 9999)
            asyncio.run(measure(here, run_id, clients))


if __name__ == "__main__":
    main()
