"""`python -m worker`: one worker process with its Celery consumer, lanes, heartbeat and sweep."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

from celery import signals
from celery.platforms import SecurityWarning

from app import queue
from app.database import get_database
from app.errors import StudioError
from app.settings import get_settings
from worker.tasks import Station

log = logging.getLogger("worker")


def follow_parent() -> None:
    """End when the process that holds the other end of the pipe is gone (set by `luthier up`)."""
    descriptor = os.environ.pop("LUTHIER_PARENT_FD", None)
    if descriptor is None:
        return

    def _wait() -> None:
        os.read(int(descriptor), 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)  # nobody is left to kill a worker that hangs while it shuts down
        os._exit(70)

    threading.Thread(target=_wait, name="parent", daemon=True).start()


def main() -> int:
    """Serve until told to stop. Exit code 1 with one sentence when a setting is wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for noisy in ("celery", "kombu", "amqp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = get_settings()
        database = get_database()
        database.check()
        station = Station(database, settings)
        station.arrive()
    except StudioError as error:
        print(f"luthier worker: {error.message}", file=sys.stderr)
        return 1
    # Only JSON is accepted and the queue carries nothing but "look at the table", so that root is no greater danger here than elsewhere.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    celery = queue.get_celery()

    @celery.task(name=queue.TICK)  # type: ignore[untyped-decorator]
    def tick(lane: str) -> None:
        station.lanes[lane].serve(station.shutdown)

    @signals.worker_shutting_down.connect  # type: ignore[untyped-decorator]
    def _stop(**_: Any) -> None:
        station.shutdown.set()

    @signals.worker_ready.connect  # type: ignore[untyped-decorator]
    def _ready(**_: Any) -> None:
        station.start()
        for lane in queue.LANES:
            queue.tick(lane)

    follow_parent()
    devices = ", ".join(device["name"] for device in station.devices)
    log.info("Worker %s on %s%s", station.id, devices, f". {station.problem}" if station.problem else "")
    arguments = ["--quiet", "worker", "--pool=threads", f"--concurrency={station.slots + 2}", "--loglevel=WARNING"]
    arguments += ["--without-gossip", "--without-mingle", "--without-heartbeat", f"--hostname={station.id}@%h"]
    code = 0
    try:
        celery.worker_main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        station.leave()
    return code


if __name__ == "__main__":
    sys.exit(main())
