"""MLflow: `MLFLOW_TRACKING_URI` in the worker's environment says where, `MLFLOW_EXPERIMENT_NAME` under which experiment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from worker.trackers.base import PROJECT, Row, Story, Tracker

MAX_BATCH = 900
"""Values sent at once; MLflow takes at most 1,000."""
MAX_TEXT = 500
_STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
_TAG = "luthier.run_id"


class MLflow(Tracker):
    """The run is found again by a tag with our id."""

    name = "mlflow"
    title = "MLflow"
    package = "mlflow"
    environment = ("MLFLOW_",)
    _client: Any = None
    _id = ""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def open(self, story: Story, folder: Path) -> int:
        """Begin the run, or go on with it; what it holds of each metric is looked up there."""
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([experiment_id], filter_string=f"tags.`{_TAG}` = '{story.run_id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            self._last = {
                metric: max(each.step for each in self._client.get_metric_history(self._id, metric)) for metric in found[0].data.metrics
            }
            return min(self._last.values(), default=-1)  # what one metric lacks is sent, what another has is left out below
        made = self._client.create_run(experiment_id, start_time=int(story.started_at * 1000), run_name=story.name)
        self._id = made.info.run_id
        tags = {_TAG: story.run_id, "luthier.url": story.url, **{f"tag.{tag}": "true" for tag in story.tags}}
        params = [Param(key, str(value)[:MAX_TEXT]) for key, value in story.config.items()]
        for start in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[start : start + 100])
        self._client.log_batch(self._id, tags=[RunTag(key, value) for key, value in tags.items()])
        return -1

    def write(self, rows: list[Row]) -> None:
        """Values of all rows, in batches as large as MLflow takes."""
        from mlflow.entities import Metric

        values = [
            Metric(name, value, int(row.at * 1000), row.step)
            for row in rows
            for name, value in row.values.items()
            if row.step > self._last.get(name, -1)
        ]
        for start in range(0, len(values), MAX_BATCH):
            batch = values[start : start + MAX_BATCH]
            self._client.log_batch(self._id, metrics=batch)
            self._last |= {each.key: each.step for each in batch}

    def close(self, status: str) -> None:
        """Say how it ended; a run that goes on stays as it is."""
        if status in _STATUS:
            self._client.set_terminated(self._id, _STATUS[status])
