"""A child process and the pipes to it: start, beat, drain its messages, end it with its whole group. Imports no torch."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from app.settings import CHECKOUT
from app.workers.service import is_alive, process_mark
from worker.reporting import PIPE

KEPT = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LANGUAGE",
    "TZ",
    "LD_LIBRARY_PATH",
    "VIRTUAL_ENV",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
)
KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "MKL_", "HF_", "COVERAGE_")
MAX_LINE = 8_000


def clean_environment(extra: dict[str, str]) -> dict[str, str]:
    """Environment of a child: an allow-list, so that no database password or token of the worker reaches a trainer."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    kept.pop("HF_TOKEN", None)
    if CHECKOUT:
        kept["PYTHONPATH"] = str(CHECKOUT)
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TOKENIZERS_PARALLELISM": "false", **extra}


class Child:
    """One `worker.child` process in its own process group."""

    def __init__(
        self, spec: dict[str, Any], folder: Path, environment: dict[str, str] | None = None, descriptors: tuple[int, ...] = ()
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = folder / "spec.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(spec))
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worker.child", str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing, *descriptors),
            start_new_session=True,
            cwd=folder,
            env=clean_environment({PIPE: str(writing), **(environment or {})}),
        )
        os.close(writing)
        self.mark = process_mark(self._process.pid) or f"{self._process.pid}:0"
        self._messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._read_messages, args=(reading,), daemon=True),
            threading.Thread(target=self._read_log, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    def _read_messages(self, descriptor: int) -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                with contextlib.suppress(ValueError):  # a line cut off by a kill
                    message = json.loads(line)
                    message["at"] = time.time()
                    self._messages.put(message)

    def _read_log(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            text = raw[:MAX_LINE].decode("utf-8", errors="replace").rstrip()
            if text:
                self._messages.put({"kind": "log", "text": text, "at": time.time()})

    def drain(self, wait: float) -> list[dict[str, Any]]:
        """Messages that have arrived; waits up to `wait` seconds for the first."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._messages.get(timeout=wait))
            while True:
                found.append(self._messages.get_nowait())
        return found

    def _order(self, order: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(order)
            self._process.stdin.flush()

    def beat(self) -> None:
        """Tell the child that its lease was renewed."""
        self._order(b"h")

    def ask_pause(self) -> None:
        """Ask the child to write a checkpoint and end."""
        self._order(b"p")

    @property
    def code(self) -> int | None:
        """Exit code once the process has ended; negative: the signal that ended it."""
        return self._process.poll()

    def join(self) -> None:
        """Wait until the last messages of an ended process have arrived."""
        for reader in self._readers:
            reader.join(timeout=5)

    def kill(self) -> None:
        """End the whole process group at once and wait for it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def close(self) -> None:
        """End what is left of the group, and the pipes."""
        self.kill()
        self.join()
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._process.stdout:
            self._process.stdout.close()


def kill_left_behind(mark: str) -> None:
    """End the group of a child whose supervisor died, if it is still that same process."""
    if is_alive(mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(mark.partition(":")[0]), signal.SIGKILL)


def log_level(text: str) -> str:
    """Level of a log line, read from its first word; a line without one is information."""
    first = text.split(" ", 1)[0].strip(":[]").lower()
    known = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "critical": "error", "traceback": "error"}
    return known.get(first, "info")
