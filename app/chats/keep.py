"""Answers kept as training data: an example of a chat, or a pair of which one is better, as a new version of a dataset or a new one."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
from sqlalchemy.orm import Session

from app import storage
from app.chats.tables import Answer
from app.datasets import exporting, imports
from app.datasets import service as datasets
from app.datasets.schemas import Split
from app.datasets.tables import Dataset
from app.datasets.uploads import Received
from app.errors import Conflict, Invalid, NotFound

EXAMPLE, PAIR = ("chat", "prompt_completion"), ("preference",)
MAX_BYTES = 256 * 1024**2
"""A larger dataset is not copied in the midst of a request."""


def targets(session: Session, workspace_id: str, shapes: tuple[str, ...]) -> list[Dataset]:
    """Datasets that take an example (or a pair), the newest version of each name."""
    found = datasets.list_datasets(session, workspace_id, limit=200, latest=True, usable=True)
    return [dataset for dataset in found if dataset.shape in shapes]


def _answer(session: Session, chat_id: str, answer_id: str) -> Answer:
    answer = session.get(Answer, answer_id)
    if answer is None or answer.chat_id != chat_id:
        raise NotFound("This answer is no longer part of the conversation. Load the page again.")
    if answer.status not in ("done", "stopped") or not answer.text.strip():
        raise Conflict("This answer says nothing that could be learned.")
    return answer


def keep(
    session: Session, workspace_id: str, user_id: str | None, chat_id: str, *, better: str, worse: str | None, dataset_id: str, name: str
) -> Dataset:
    """Add an answer (or a better and a worse one) to a dataset: a row with its files, whose import is queued.

    Args:
        dataset_id: the dataset that gets a new version; empty: a new one called `name`.

    Raises:
        NotFound: the answer or the dataset is not there.
        Conflict: the answer is empty, or the dataset takes no such rows.
        Invalid: there is no name.
    """
    chosen = _answer(session, chat_id, better)
    rejected = _answer(session, chat_id, worse) if worse else None
    if rejected is not None and rejected.turn != chosen.turn:
        raise Invalid("Only answers to the same message can be compared.", field="worse")
    if rejected is not None and rejected.text.strip() == chosen.text.strip():
        raise Conflict("Both answers are the same, so there is nothing to prefer.")
    target = datasets.get(session, workspace_id, dataset_id) if dataset_id else None
    shapes = EXAMPLE if rejected is None else PAIR
    if target is not None:
        if target.status != "ready" or target.shape not in shapes:
            raise Conflict(f"“{target.name}” does not take this: it must be ready and of the shape {' or '.join(shapes)}.")
        if datasets.rows_file(target).stat().st_size > MAX_BYTES:
            raise Conflict(f"“{target.name}” is too large to be copied from here. Keep the answer in a new dataset.")
    elif not name.strip():
        raise Invalid("Choose a dataset, or give a new one a name.", field="name")
    received = _written(target, _row(chosen, rejected, target.shape if target else shapes[0]))
    try:
        split = Split.model_validate(target.split) if target is not None and target.split else None
        made = imports.create_upload(
            session, workspace_id, user_id, received, name=target.name if target else name, mapping=None, split=split
        )
        session.flush()
    except BaseException:
        received.clean_up()
        raise
    received.keep()
    return made


def _row(chosen: Answer, rejected: Answer | None, shape: str | None) -> dict[str, Any]:
    said = [{"role": "assistant", "content": chosen.text.strip()}]
    if rejected is not None:
        return {"prompt": chosen.messages, "chosen": said, "rejected": [{"role": "assistant", "content": rejected.text.strip()}]}
    return {"prompt": chosen.messages, "completion": said} if shape == "prompt_completion" else {"messages": [*chosen.messages, *said]}


def _written(target: Dataset | None, row: dict[str, Any]) -> Received:
    """The rows of a dataset and one more, as if they had been uploaded."""
    received = Received(storage.root() / "datasets")
    received.file_name, received.kind = "playground.jsonl", "jsonl"
    hashed = hashlib.sha256()
    try:
        with storage.disk_errors("the new version"):
            received.folder.mkdir(parents=True)
            source = received.folder / "source.jsonl"
            with open(source, "wb") as out:
                for line in [*(exporting.export(target, "jsonl") if target else ()), orjson.dumps(row) + b"\n"]:
                    out.write(line)
                    hashed.update(line)
                    received.size += len(line)
            storage.fsync_file(source)
            storage.fsync_folder(received.folder)
    except BaseException:
        received.clean_up()
        raise
    received.sha256 = hashed.hexdigest()
    return received
