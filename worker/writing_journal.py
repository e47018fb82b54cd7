"""What was answered, kept line by line, so that a job that was killed does not ask again. Knows no model."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import orjson


def key_of(*parts: Any) -> str:
    """A key for everything that an answer depends on."""
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()[:40]


class Journal:
    """Answers by key, on disk; only the places of the lines are in memory."""

    def __init__(self, file: Path) -> None:
        self._stream = open(file, "a+b")  # noqa: SIM115  # kept open for the length of the job
        self._places: dict[str, int] = {}
        place = 0
        self._stream.seek(0)
        for line in self._stream:
            if not line.endswith(b"\n"):  # a kill cut it off
                break
            self._places[orjson.loads(line)[0]] = place
            place += len(line)
        self._stream.truncate(place)
        self._stream.seek(0, os.SEEK_END)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, key: str) -> Any:
        self._stream.flush()
        self._stream.seek(self._places[key])
        found = orjson.loads(self._stream.readline())[1]
        self._stream.seek(0, os.SEEK_END)
        return found

    def add(self, key: str, value: Any) -> None:
        """Keep an answer; from then on a killed process has it, and after `sync` a machine that loses power too."""
        self._places[key] = self._stream.seek(0, os.SEEK_END)
        self._stream.write(orjson.dumps([key, value]) + b"\n")
        self._stream.flush()

    def sync(self) -> None:
        """Have the disk keep what was added."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Let the file go."""
        self._stream.close()
