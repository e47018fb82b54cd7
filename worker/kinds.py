"""The table of job kinds: which child does the work, and which service functions read and write its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.checkpoints import imports as checkpoint_imports
from app.datasets import imports as dataset_imports
from app.datasets import tokens
from app.exports import service as exports
from app.feedback import generation, generation_job, judges, judges_job
from app.jobs.tables import Job


@dataclass(frozen=True)
class Kind:
    """How one kind of job is done."""

    child: str
    """Module with `main(spec, report) -> result`."""
    spec: Callable[[Session, Job], dict[str, Any]]
    done: Callable[[Session, Job, dict[str, Any]], None]
    failed: Callable[[Session, Job, str, str], None]
    progress: Callable[[Session, Job, dict[str, Any]], None] | None = None


KINDS: dict[str, Kind] = {
    "import_dataset": Kind(
        "worker.parse",
        dataset_imports.import_spec,
        dataset_imports.import_done,
        dataset_imports.import_failed,
        dataset_imports.import_progress,
    ),
    "make_dataset": Kind(
        "worker.make_dataset",
        dataset_imports.make_spec,
        dataset_imports.import_done,
        dataset_imports.import_failed,
        dataset_imports.import_progress,
    ),
    "count_tokens": Kind("worker.count_tokens", tokens.count_spec, tokens.count_done, tokens.count_failed),
    "import_checkpoint": Kind(
        "worker.import_checkpoint",
        checkpoint_imports.import_spec,
        checkpoint_imports.import_done,
        checkpoint_imports.import_failed,
        checkpoint_imports.import_progress,
    ),
    "export": Kind("worker.export", exports.export_spec, exports.export_done, exports.export_failed, exports.export_progress),
    generation.KIND: Kind(
        "worker.feedback_generate",
        generation_job.generate_spec,
        generation_job.generate_done,
        generation_job.generate_failed,
        generation_job.generate_progress,
    ),
    judges.KIND: Kind(
        "worker.feedback_judge", judges_job.judge_spec, judges_job.judge_done, judges_job.judge_failed, judges_job.judge_progress
    ),
}
