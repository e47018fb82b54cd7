"""trackio: keeps curves in files of the worker's user, or sends them where `TRACKIO_…` in the worker's environment say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from worker.trackers.base import PROJECT, Row, Story, Tracker


class Trackio(Tracker):
    """The run bears its name and our id there, so that a resumed run goes on in the same record."""

    name = "trackio"
    title = "trackio"
    package = "trackio"
    environment = ("TRACKIO_", "HF_TOKEN")
    _run: Any = None

    def open(self, story: Story, folder: Path) -> int:
        """Begin the run, or go on with it."""
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        project, name = os.environ.get("TRACKIO_PROJECT", PROJECT), f"{story.name} ({story.run_id})"
        self._run = trackio.init(
            project=project, name=name, resume="allow", config=story.config, embed=False, auto_log_gpu=False, auto_log_cpu=False
        )
        known = SQLiteStorage.get_max_steps_for_runs(project).get(name)
        return -1 if known is None else int(known)

    def write(self, rows: list[Row]) -> None:
        """One entry a step."""
        for row in rows:
            self._run.log(metrics=dict(row.values), step=row.step)

    def close(self, status: str) -> None:
        """Send what is left."""
        self._run.finish()
