"""Datasets and exports on disk without a row are removed after a day, and never those of another database."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from app.exports.tables import Export
from tests.factories import add_dataset
from worker import leftovers


def lay(stack: Any, path: str, *, days: float = 2) -> Path:
    """A file, or a folder with one, that was last written so long ago."""
    target: Path = stack.settings.storage / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix:
        target.write_text("x")
    else:
        target.mkdir()
        (target / "source.jsonl").write_text("{}")
    os.utime(target, (time.time() - days * 86_400,) * 2)
    return target


def test_what_no_row_tells_of_goes_after_a_day(stack: Any) -> None:
    with stack.database.write() as session:
        ids = [add_dataset(session, stack.workspace_id, path=f"datasets/ds_{number}", id=f"ds_{number}").id for number in range(3)]
        export = Export(workspace_id=stack.workspace_id, checkpoint_name="tiny", format="adapter", file_name="x.zip")
        session.add(export)
        session.flush()
        known = [lay(stack, f"datasets/{each}") for each in ids] + [lay(stack, f"exports/{export.id}.zip")]
    young = [lay(stack, "datasets/ds_young", days=0.9), lay(stack, "exports/exp_young.zip", days=0.9)]
    other = [lay(stack, "datasets/notes"), lay(stack, "exports/mine.zip")]
    left = [lay(stack, "datasets/ds_left"), lay(stack, "exports/exp_left.zip")]
    assert sorted(leftovers.sweep(stack.database, stack.settings)) == sorted(left)
    assert not any(each.exists() for each in left)
    assert all(each.exists() for each in [*known, *young, *other])
    assert leftovers.sweep(stack.database, stack.settings) == []


def test_a_database_that_knows_hardly_any_of_it_removes_nothing(stack: Any) -> None:
    with stack.database.write() as session:
        add_dataset(session, stack.workspace_id, path="datasets/ds_0", id="ds_0")
    kept = [lay(stack, f"datasets/ds_{number}") for number in range(3)]
    assert leftovers.sweep(stack.database, stack.settings) == []
    assert all(each.exists() for each in kept)
