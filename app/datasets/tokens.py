"""Token lengths of datasets: asked for once per tokenizer, counted by a job, summed up for a length limit. Tokenises nothing itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app import storage
from app.database import Base
from app.datasets.tables import Dataset, TokenCount
from app.errors import Conflict, NotFound
from app.jobs import service as jobs
from app.jobs.tables import Job

SHOWN_TOKENS = 2000
"""How many tokens of a row are kept, one by one."""
KEPT_TOKENS = 20_000_000
"""How many tokens of a dataset are kept; the rows after that have only their lengths."""


class HasId(Protocol):
    """A checkpoint; only its id is looked at."""

    @property
    def id(self) -> str: ...


def tokenizer_of(session: Session, checkpoint_id: str) -> str:
    """Id of the checkpoint whose folder holds the tokenizer: the imported one below all that was trained on it.

    Raises:
        NotFound: there is no such checkpoint.
    """
    checkpoints = Base.metadata.tables["checkpoints"]
    while True:
        row = session.execute(select(checkpoints.c.base_id, checkpoints.c.path).where(checkpoints.c.id == checkpoint_id)).first()
        if row is None:
            raise NotFound("There is no such checkpoint.")
        if not row.base_id:
            return checkpoint_id
        checkpoint_id = row.base_id


@dataclass(frozen=True)
class Tokenizer:
    """A checkpoint whose tokenizer counts."""

    id: str
    name: str


def tokenizers(session: Session, workspace_id: str) -> list[Tokenizer]:
    """Imported checkpoints of the workspace that are ready, the oldest first: one of them is below each model that is trained here."""
    table = Base.metadata.tables["checkpoints"]
    ready = (table.c.workspace_id == workspace_id) & (table.c.status == "ready") & table.c.base_id.is_(None)
    return [
        Tokenizer(row.id, row.name)
        for row in session.execute(select(table.c.id, table.c.name).where(ready).order_by(table.c.id).limit(100))
    ]


def checkpoint_of(session: Session, workspace_id: str, checkpoint_id: str) -> Tokenizer:
    """A checkpoint of the workspace.

    Raises:
        NotFound: there is none with that id.
        Conflict: it is not ready.
    """
    table = Base.metadata.tables["checkpoints"]
    query = select(table.c.id, table.c.name, table.c.status).where(table.c.id == checkpoint_id, table.c.workspace_id == workspace_id)
    row = session.execute(query).first()
    if row is None:
        raise NotFound("There is no such checkpoint; it may have been deleted. The list of models shows those there are.")
    if row.status != "ready":
        raise Conflict(f"The checkpoint “{row.name}” is {row.status}, so its tokenizer cannot be used yet.")
    return Tokenizer(row.id, row.name)


def request(session: Session, dataset: Dataset, checkpoint: HasId) -> TokenCount:
    """Have a dataset counted under a checkpoint's tokenizer, unless it is or was; one that failed is tried again.

    Raises:
        Conflict: the dataset or the checkpoint is not ready.
    """
    if dataset.status != "ready":
        raise Conflict(f"“{dataset.name}” is {dataset.status}, so its tokens cannot be counted.")
    tokenizer = tokenizer_of(session, checkpoint.id)
    known = session.get(TokenCount, (dataset.id, tokenizer))
    if known is not None and known.status != "failed":
        return known
    if known is None:
        known = TokenCount(dataset_id=dataset.id, checkpoint_id=tokenizer, status="counting")
        try:
            with session.begin_nested():
                session.add(known)
        except IntegrityError:  # somebody asked at the same moment
            return session.get_one(TokenCount, (dataset.id, tokenizer))
    known.status, known.reason = "counting", None
    jobs.enqueue(
        session, workspace_id=dataset.workspace_id, kind="count_tokens", subject_id=dataset.id, payload={"checkpoint_id": tokenizer}
    )
    session.flush()
    return known


def counts(session: Session, dataset_id: str) -> list[TokenCount]:
    """All counts of a dataset."""
    return list(session.scalars(select(TokenCount).where(TokenCount.dataset_id == dataset_id).order_by(TokenCount.checkpoint_id)))


def summary(
    session: Session, dataset_id: str, checkpoint_id: str, max_length: int | None = None, split: str | None = None
) -> dict[str, Any]:
    """What a dataset measures under a checkpoint's tokenizer.

    Args:
        max_length: longer rows are cut there, as the trainers do.
        split: only "train" or "eval" rows.

    Returns:
        `status` none, counting, ready or failed. When ready also `tokens` and `trained_tokens` of one pass (after cutting), `median`, `p95`
        and `longest` row (before), `dropped` rows (cutting leaves nothing to learn of them; the trainers skip them) and `cut` rows (others
        that are shortened).
    """
    known = session.get(TokenCount, (dataset_id, tokenizer_of(session, checkpoint_id)))
    if known is None:
        return {"status": "none", "reason": None}
    if known.status != "ready":
        return {"status": known.status, "reason": known.reason}
    lengths = lens(known, split)
    if not len(lengths):
        return {
            "status": "ready",
            "reason": None,
            **dict.fromkeys(("tokens", "trained_tokens", "median", "p95", "longest", "dropped", "cut"), 0),
        }
    prompt, sequences = lengths[:, 0].astype(np.int64), lengths[:, 1:].astype(np.int64)
    longest = sequences.max(axis=1)
    limit = max_length or int(longest.max())
    gone = (prompt >= limit) & (longest > prompt)
    kept = np.minimum(sequences, limit)[~gone]
    trained = kept - np.minimum(prompt, limit)[~gone][:, None]
    return {
        "status": "ready",
        "reason": None,
        "tokens": int(kept.sum()),
        "trained_tokens": int(trained.sum()),
        "median": int(np.median(longest)),
        "p95": int(np.percentile(longest, 95)),
        "longest": int(longest.max()),
        "dropped": int(gone.sum()),
        "cut": int(((longest > limit) & ~gone).sum()),
    }


def lens(count: TokenCount, split: str | None = None) -> np.ndarray[Any, Any]:
    """Lengths in row order, shape (rows, 2 or 3): prompt, then each full sequence.

    Raises:
        NotFound: the file is gone.
    """
    file = storage.path(count.path or "")
    if not count.path or not file.is_file():
        raise NotFound("The counted lengths are missing from the storage folder. Count the tokens again.")
    lengths: np.ndarray[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    if split is None:
        return lengths
    held = np.load(file.with_suffix(".eval.npy"), mmap_mode="r", allow_pickle=False)
    chosen: np.ndarray[Any, Any] = lengths[held == (split == "eval")]
    return chosen


def histogram(count: TokenCount, bins: int = 25) -> tuple[int, list[int]]:
    """Width of a bin in tokens and rows per bin; the last bin also holds all longer rows (beyond the 99th percentile)."""
    longest = lens(count)[:, 1:].max(axis=1)
    needed = max(1, -(-int(np.percentile(longest, 99)) // bins))
    width = next(size * 10**power for power in range(9) for size in (1, 2, 4, 5, 10) if size * 10**power >= needed)
    numbers = np.minimum(longest // width, bins - 1)
    return width, np.bincount(numbers, minlength=bins).tolist()


def row(session: Session, dataset: Dataset, checkpoint_id: str, number: int, max_length: int | None = None) -> dict[str, Any]:
    """One row token by token.

    Raises:
        NotFound: not counted yet, or not among the rows that are kept token by token.
    """
    known = session.get(TokenCount, (dataset.id, tokenizer_of(session, checkpoint_id)))
    if known is None or known.status != "ready":
        state = "have not been counted with this tokenizer" if known is None else f"are not there ({known.status})"
        raise NotFound(f"The tokens of “{dataset.name}” {state}. Ask for `/tokens?checkpoint=…` first and wait until its status is ready.")
    file, kept = storage.path(known.path or ""), known.shown_rows or 0
    if not file.with_suffix(".ids").is_file():
        raise NotFound(f"Token by token the rows of “{dataset.name}” are not kept. Count the tokens again.")
    if not 1 <= number <= kept:
        raise NotFound(f"Token by token the rows 1 to {kept:,} are kept; of the others only the lengths.")
    shown = row_of(file, number)
    longer = max_length is not None and max(len(shown["tokens"]), len(shown["rejected"] or ())) > max_length
    return {"row": number, **shown, "truncated": longer or shown["truncated"]}


def row_of(file: Path, number: int) -> dict[str, Any]:
    """One row token by token, out of the files beside its lengths: `tokens`, `rejected`, and whether more were counted than are kept."""
    lengths: np.ndarray[Any, Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    words = json.loads(file.with_suffix(".json").read_bytes())
    start = int(np.minimum(lengths[: number - 1, 1:], SHOWN_TOKENS).sum(dtype=np.int64))
    prompt, *sizes = (int(size) for size in lengths[number - 1])
    ids = np.memmap(file.with_suffix(".ids"), dtype="<u4", mode="r")
    sides: list[list[dict[str, Any]]] = []
    for size in sizes:
        side = []
        for place, token in enumerate(ids[start : start + min(size, SHOWN_TOKENS)].tolist()):
            entry = {"text": words["texts"][str(token)], "id": token, "trained": place >= prompt}
            if str(token) in words["bytes"]:
                entry["bytes"] = words["bytes"][str(token)]
            side.append(entry)
        sides.append(side)
        start += len(side)
    return {"tokens": sides[0], "rejected": sides[1] if len(sides) > 1 else None, "truncated": max(sizes) > SHOWN_TOKENS}


# --- the job --------------------------------------------------------------------------------------------------------------


def count_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the counting child is told.

    Raises:
        Conflict: dataset or checkpoint is gone or not ready.
    """
    dataset = session.get(Dataset, job.subject_id)
    checkpoints = Base.metadata.tables["checkpoints"]
    row = session.execute(select(checkpoints.c.path, checkpoints.c.status).where(checkpoints.c.id == job.payload["checkpoint_id"])).first()
    if dataset is None or dataset.status != "ready":
        raise Conflict("The dataset is not there any more.")
    if row is None or row.status != "ready" or not row.path:
        raise Conflict("The checkpoint whose tokenizer is to be used is not ready.")
    return {
        "rows": str(storage.path(dataset.path) / "rows.jsonl"),
        "count": dataset.rows,
        "shape": dataset.shape,
        "tokenizer": str(storage.path(row.path)),
        "out": str(storage.path(_path(dataset, job))),
        "kept_tokens": KEPT_TOKENS,
    }


def _path(dataset: Dataset, job: Job) -> str:
    return f"{dataset.path}/tokens-{job.payload['checkpoint_id']}.npy"


def _count(session: Session, job: Job) -> TokenCount | None:
    return session.get(TokenCount, (job.subject_id, job.payload["checkpoint_id"]))


def count_done(session: Session, job: Job, result: dict[str, Any]) -> None:
    """Keep the totals."""
    count, dataset = _count(session, job), session.get(Dataset, job.subject_id)
    if count is not None and dataset is not None:
        count.status, count.reason, count.path = "ready", None, _path(dataset, job)
        count.tokens, count.trained_tokens, count.shown_rows = result["tokens"], result["trained_tokens"], result["shown_rows"]


def count_failed(session: Session, job: Job, reason: str, code: str) -> None:
    """Say why nothing was counted."""
    count = _count(session, job)
    if count is not None:
        count.status, count.reason = "failed", reason
