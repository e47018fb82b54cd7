"""The child that tells trackers of one run: takes rows from files its supervisor puts down, and reports what each tracker has."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from worker import trackers
from worker.reporting import Report
from worker.trackers.base import Row, Story, Tracker

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
END = "end.json"


class Line:
    """One tracker and the rows it has not taken yet; a tracker that fails is opened anew with the next rows."""

    def __init__(self, tracker: Tracker, story: Story, folder: Path, last: int, report: Report) -> None:
        self.tracker, self.story, self.folder, self.last, self.report = tracker, story, folder, last, report
        self.opened = False
        self.waiting: list[Row] = []

    def send(self, rows: list[Row]) -> None:
        """Send what waits and these rows; each step once."""
        self.waiting += [row for row in rows if row.step > self.last]
        if not self.waiting:
            return
        try:
            if not self.opened:
                self.last = max(self.last, self.tracker.open(self.story, self.folder))
                self.opened = True
            fresh = [row for row in self.waiting if row.step > self.last]
            self.tracker.write(fresh)
        except Exception as error:  # boundary: whatever a tracker's library raises, the run goes on
            self.opened = False
            self._say(f"does not take the curves just now ({type(error).__name__}: {str(error)[:300]}); they are sent again later.")
            return
        self.last = max([self.last, *(row.step for row in fresh)])
        self.waiting.clear()
        self.report.send("wrote", tracker=self.tracker.name, step=self.last)

    def close(self, status: str) -> None:
        """Send what waits, then end the record."""
        self.send([])
        if not self.opened:
            if self.waiting:
                self._say(f"has taken nothing after step {max(self.last, 0)}.")
            return
        try:
            self.tracker.close(status)
        except Exception as error:  # boundary, as above
            self._say(f"did not take the end of the run ({type(error).__name__}: {str(error)[:300]}).")

    def _say(self, text: str) -> None:
        self.report.send("note", level="warning", text=f"{self.tracker.title} {text}")


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Until the supervisor says how the run ended."""
    story = Story(**spec["story"])
    known = trackers.registry()
    lines = [Line(known[name], story, Path(spec["folder"]), int(last), report) for name, last in spec["trackers"].items() if name in known]
    inbox = Path(spec["work"])
    while True:
        end = inbox / END
        over = end.exists()  # looked at first: rows are put down before it
        for file in sorted(inbox.glob("rows-*.json")):
            rows = [Row(**row) for row in json.loads(file.read_text())]
            for line in lines:
                line.send(rows)
            file.unlink()
        if over:
            status = json.loads(end.read_text())["status"]
            for line in lines:
                line.close(status)
            return {"status": status}
        time.sleep(LOOK_SECONDS)
