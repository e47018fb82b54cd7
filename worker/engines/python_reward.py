"""Scores answers by a function somebody wrote: starts its process, asks it, ends it when it takes too long. Runs none of it here."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.rewards.base import Answered
from app.rewards.python import PythonParams
from app.settings import get_settings
from worker import sandbox
from worker.reporting import Failed

SECONDS = 30.0
"""Time for the answers of one batch."""
LONGEST = 10_000_000
"""Bytes of a reply at most."""


class ScoredByPython:
    """Scores by code.

    Raises:
        Failed: this worker does not allow it, or the code fails as it is read.
    """

    def __init__(self, params: PythonParams, others: Any, device: str, dtype: str) -> None:
        if not get_settings().python_rewards:
            raise Failed("This worker does not run rewards in Python. An admin can allow it with LUTHIER_PYTHON_REWARDS.", "config")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(sandbox.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1"},
            cwd="/",
        )
        self._end = weakref.finalize(self, _end, self._process)
        self._ask(params.code)

    def __call__(self, answers: Sequence[Answered]) -> Sequence[float]:
        """One number for each answer."""
        found = self._ask(
            [[each.prompt if isinstance(each.prompt, str) else list(each.prompt), each.text, each.expected] for each in answers]
        )
        scores = found.get("scores")
        if not isinstance(scores, list) or len(scores) != len(answers) or not all(map(_is_number, scores)):
            raise Failed("The reward python did not give each answer a finite number. Correct its code.", "config")
        return scores

    def _ask(self, question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            found = json.loads(self._reply())
        except (OSError, ValueError) as error:
            raise Failed(
                f"The process of the reward python ended ({self._process.poll()}): its code may take more than "
                f"{sandbox.MEMORY // 2**20:,} MB of memory, or end the process itself. Correct it.",
                "config",
            ) from error
        if not isinstance(found, dict) or "error" in found:
            told = found if isinstance(found, dict) else {}
            where = f" in line {told['line']}" if told.get("line") else ""
            raise Failed(f"The reward python failed{where}: {told.get('error')}. Correct its code.", "config")
        return found

    def _reply(self) -> bytes:
        """A line of what the process says.

        Raises:
            Failed: it takes too long.
        """
        assert self._process.stdout is not None
        descriptor, until, read = self._process.stdout.fileno(), time.monotonic() + SECONDS, b""
        while not read.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            if not ready or len(read) > LONGEST:
                self._end()
                raise Failed(f"The reward python took longer than {SECONDS:.0f} seconds for one batch. Make its code faster.", "config")
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise OSError("it ended")
            read += part
        return read


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was not written yet
                pipe.close()


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)
