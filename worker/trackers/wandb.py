"""Weights & Biases: `WANDB_…` in the worker's environment say where and as whom; without a network `WANDB_MODE=offline` keeps files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from worker.trackers.base import PROJECT, Row, Story, Tracker


class WeightsAndBiases(Tracker):
    """The run bears our id there, so that a resumed run goes on in the same record."""

    name = "wandb"
    title = "Weights & Biases"
    package = "wandb"
    environment = ("WANDB_",)
    _run: Any = None

    def open(self, story: Story, folder: Path) -> int:
        """Begin the run, or go on with it."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=story.run_id,
            name=story.name,
            resume="allow",
            config=story.config,
            tags=story.tags,
            notes=story.url,
            dir=str(folder),
            # Nothing of this process is of interest: not its output, not its machine.
            settings=wandb.Settings(console="off", x_disable_stats=True, disable_git=True, save_code=False, init_timeout=60),
        )
        return int(self._run.starting_step) - 1

    def write(self, rows: list[Row]) -> None:
        """One entry of the history a step."""
        for row in rows:
            self._run.log(dict(row.values), step=row.step)

    def close(self, status: str) -> None:
        """Say how it ended."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=1 if status == "failed" else 0)
