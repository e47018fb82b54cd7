"""Writes chosen rows as an ordinary dataset that is ready at once: its files, as an import writes them, and its row."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from app import storage
from app.datasets import service as datasets
from app.datasets.imports import add_version
from app.datasets.schemas import clean_file_name, clean_name
from app.datasets.tables import Dataset
from app.datasets.uploads import Received
from app.feedback.pool import Pool
from app.feedback.rules import FORMS
from app.webhooks import service as webhooks

SOURCE = "source.jsonl"
BINS = 25


@dataclass
class Written:
    """Files of a dataset that has no row yet, in a folder that vanishes unless it is kept."""

    received: Received
    sha256: str
    """Of the rows in order with their sides, as an import reckons it."""
    columns: list[str]
    checks: dict[str, Any]


def write(pool: Pool) -> Written:
    """Write the kept rows: the source with what is known of each row, the rows, their index and their keys.

    Raises:
        DiskFull: no room; nothing is left behind.
    """
    received = Received(storage.root() / "datasets")
    try:
        with storage.disk_errors("the dataset"):
            received.folder.mkdir(parents=True)
            sha256 = _files(pool, received)
    except BaseException:
        received.clean_up()
        raise
    return Written(
        received, sha256, pool.columns(), {"duplicates": 0, "leaks": pool.leaks(), "characters": _lengths(pool), "changes": None}
    )


def _files(pool: Pool, received: Received) -> str:
    folder = received.folder
    of_source, of_rows = hashlib.sha256(), hashlib.sha256()
    offsets = array("Q", [0])
    with open(folder / SOURCE, "wb") as source, open(folder / datasets.ROWS, "wb", buffering=1024 * 1024) as rows:
        for number, ((content, meta), is_eval) in enumerate(zip(pool.lines(), pool.is_eval, strict=True), start=1):
            line = content[:-1] + b',"meta":' + meta + b"}"
            source.write(line + b"\n")
            of_source.update(line + b"\n")
            received.size += len(line) + 1
            of_rows.update(content + b"\n")
            split = b"eval" if is_eval else b"train"
            offsets.append(offsets[-1] + rows.write(b'{"split":"%s","line":%d,"row":%s,"source":%s}\n' % (split, number, content, line)))
    received.sha256 = of_source.hexdigest()
    np.frombuffer(offsets, dtype=np.uint64).astype("<u8").tofile(folder / datasets.INDEX)
    hashes = [np.frombuffer(part, dtype=np.uint64)[pool.order] for part in (pool.whole, pool.prompts)]
    np.stack(hashes, axis=1).astype("<u8").tofile(folder / datasets.KEYS)
    for name in (SOURCE, datasets.ROWS, datasets.INDEX, datasets.KEYS):
        storage.fsync_file(folder / name)
    storage.fsync_folder(folder)
    of_rows.update(np.packbits(pool.is_eval).tobytes() if any(pool.is_eval) else b"")
    return of_rows.hexdigest()


def _lengths(pool: Pool) -> dict[str, Any]:
    """Characters of the rows as the page of a dataset draws them: median, 95th percentile, a histogram whose last bin is open."""
    counted = np.frombuffer(pool.characters, dtype=np.uint64).astype(np.int64)[pool.order]
    width = max(1, -(-int(np.percentile(counted, 99)) // BINS))
    step = next(size * 10**power for power in range(12) for size in (1, 2, 4, 5, 10) if size * 10**power >= width)
    counts = np.bincount(np.minimum(counted // step, BINS - 1), minlength=BINS)
    return {"width": step, "counts": counts.tolist(), "median": int(np.median(counted)), "p95": int(np.percentile(counted, 95))}


def add(
    session: Session, workspace_id: str, user_id: str | None, written: Written, pool: Pool, *, name: str, file: str, lineage: dict[str, Any]
) -> Dataset:
    """The row of written files, with the next version of its name; the folder is put in place.

    Raises:
        Invalid: the name cannot be used.
        Conflict: others add versions of this name at the same moment.
    """
    rules, held = pool.rules, sum(pool.is_eval)
    values = {
        "status": "ready",
        "shape": FORMS[rules.shape],
        "rows": len(pool.order),
        "train_rows": len(pool.order) - held,
        "eval_rows": held,
        "columns": written.columns,
        "split": {"eval": rules.held_out, "seed": rules.seed} if held else None,
        "source_name": clean_file_name(file),
        "source_bytes": written.received.size,
        "source_sha256": written.received.sha256,
        "sha256": written.sha256,
        "path": written.received.path,
        "checks": written.checks,
        "lineage": {**lineage, "file": clean_file_name(file), "form": FORMS[rules.shape], "unit": "line"},
        "created_by": user_id,
    }
    dataset = add_version(session, workspace_id, clean_name(name), id=written.received.dataset_id, **values)
    written.received.place()
    webhooks.dataset_ended(session, dataset)
    return dataset
