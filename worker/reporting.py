"""The child's side of the pipe to its supervisor: messages out, heartbeats and orders in. Imports no torch."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from typing import Any

PIPE = "LUTHIER_REPORT_FD"
FENCED = (70, 71)
"""Exit codes of a child that ended itself: its supervisor is gone, or has not been heard of for too long. Another attempt may go well."""


class Failed(Exception):
    """The job cannot be done; `reason` says why and what to do, in words, and `code` classes it."""

    def __init__(self, reason: str, code: str = "config") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class Report:
    """Sends one JSON object a line to the supervisor; usable from any thread."""

    def __init__(self) -> None:
        descriptor = os.environ.get(PIPE)
        self._stream = os.fdopen(int(descriptor), "w", encoding="utf-8") if descriptor else sys.stdout
        self._lock = threading.Lock()
        self.pause_asked = threading.Event()
        """Set when the supervisor asks to write a checkpoint and end."""

    def send(self, kind: str, **fields: Any) -> None:
        """Send one message; a supervisor that is gone ends this process."""
        line = json.dumps({"kind": kind, **fields})
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (BrokenPipeError, OSError):
            os._exit(FENCED[0])

    def phase(self, text: str) -> None:
        """Say what is being done, in words ("Loading the model")."""
        self.send("phase", text=text)

    def progress(self, done: float, total: float | None, text: str = "") -> None:
        """Say how far a job is."""
        self.send("progress", done=done, total=total, text=text)

    def event(self, name: str, message: str, **data: Any) -> None:
        """Add a line to the history of the run."""
        self.send("event", name=name, message=message, data=data)


def watch(report: Report, lease_seconds: float) -> None:
    """Fence this process off by itself: end when the supervisor is gone (end of stdin) or has not renewed the lease in time.

    On stdin `h` is a renewed lease, `p` asks for a checkpoint and the end. Each `h` is answered, so that a frozen child is seen.
    """
    if PIPE not in os.environ:
        return

    def _watch() -> None:
        descriptor = sys.stdin.fileno()
        last = time.monotonic()
        while True:
            ready, _, _ = select.select([descriptor], [], [], 0.2)
            if ready:
                orders = os.read(descriptor, 64)
                if not orders:
                    os._exit(FENCED[0])
                if b"h" in orders:
                    last = time.monotonic()
                    report.send("alive")
                if b"p" in orders:
                    report.pause_asked.set()
            elif time.monotonic() - last > 0.75 * lease_seconds:
                os._exit(FENCED[1])

    threading.Thread(target=_watch, name="fence", daemon=True).start()
