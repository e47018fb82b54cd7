"""The TensorBoard file of a run: each committed stretch is appended once, and cut off again when an attempt turns out void."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from app.storage import fsync_folder
from worker.trackers.base import Row

VERSION = "brain.Event:2"


class EventFile:
    """One event file with marks: how long it was when it held everything up to a step.

    The bytes are the same whenever they are written, so a stretch that was appended and not yet marked when a worker died is cut off and
    appended again.
    """

    def __init__(self, folder: Path, marks: list[list[int]], *, started_at: float) -> None:
        self.file = folder / f"events.out.tfevents.{int(started_at)}.luthier"
        self.started_at = started_at
        self.marks = marks
        """[step, bytes] of each stretch, oldest first."""

    @property
    def last(self) -> int:
        """The last step in the file; -1 when there is none."""
        return self.marks[-1][0] if self.marks else -1

    def cut(self, step: int) -> None:
        """Go back to what the file was when it held nothing past a step; what lies past its last mark goes too."""
        self.marks = [mark for mark in self.marks if mark[0] <= step]
        there = self.file.stat().st_size if self.file.exists() else 0
        while self.marks and self.marks[-1][1] > there:  # somebody removed or shortened the file
            self.marks.pop()
        if self.file.exists():
            os.truncate(self.file, self.marks[-1][1] if self.marks else 0)

    def append(self, rows: list[Row], up_to: int) -> None:
        """Append rows and mark that the file holds everything up to a step.

        Raises:
            ImportError: tensorboardX is not installed.
            OSError: the file cannot be written.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        there = self.marks[-1][1] if self.marks else 0
        events: list[Any] = [] if there else [Event(wall_time=self.started_at, file_version=VERSION)]
        events += [
            Event(
                wall_time=row.at,
                step=row.step,
                summary=Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in sorted(row.values.items())]),
            )
            for row in rows
        ]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "ab") as stream:
            stream.truncate(there)
            for event in events:
                stream.write(_record(event.SerializeToString()))
            stream.flush()
            os.fsync(stream.fileno())
            self.marks.append([up_to, stream.tell()])


def _record(data: bytes) -> bytes:
    """Bytes in the frame TensorBoard reads: length, its checksum, data, their checksum."""
    from tensorboardX.record_writer import masked_crc32c

    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked_crc32c(head)) + data + struct.pack("<I", masked_crc32c(data))


def read_state(file: Path) -> dict[str, Any]:
    """What was noted of the trackers of a run; nothing when the note is not there or cannot be read."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Keep a note of the trackers of a run, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    with open(temporary, "w") as stream:
        json.dump(state, stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    fsync_folder(file.parent)
