"""Remove datasets and exports on disk that no row tells of: what a server left that was killed before it committed."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from sqlalchemy import select

from app.database import Database
from app.datasets.tables import Dataset
from app.exports.tables import Export
from app.settings import Settings

log = logging.getLogger(__name__)

SECONDS = 24 * 3600
"""What is younger may belong to a row that is about to be committed."""


def sweep(database: Database, settings: Settings) -> list[Path]:
    """Remove what is older than a day and has no row; what was removed.

    When most of what lies there has no row, this is hardly the database of this folder (a setting is missing, or an empty database was
    put in place of the real one), so nothing is removed.
    """
    storage = settings.storage
    found = [*storage.glob("datasets/ds_*"), *storage.glob("exports/exp_*.zip")]
    old = [each for each in found if time.time() - each.stat().st_mtime > SECONDS]
    if not old:
        return []
    with database.read() as session:  # after looking: a row of what was there then is seen
        known = {Path(path).name for path in session.scalars(select(Dataset.path))} | set(session.scalars(select(Dataset.id)))
        known |= {f"{export_id}.zip" for export_id in session.scalars(select(Export.id))}
    left = [each for each in old if each.name not in known]
    if len(left) > len(found) - len(left):
        log.warning("%d of %d datasets and exports in %s have no row in this database; none is removed.", len(left), len(found), storage)
        return []
    for each in left:
        log.info("%s has no row; it is removed.", each)
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)
    return left
