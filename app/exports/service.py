"""Exports: list, ask for one, delete; and what the worker's job reads and writes of them. Packs nothing itself."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import leases, storage, tuners
from app.checkpoints import service as checkpoints
from app.checkpoints.bits import Bits
from app.checkpoints.heads import FEATURES, HEAD_FILE, adapter_type, task_of
from app.checkpoints.tables import Checkpoint
from app.database import after_commit, new_id, now
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, NotFound
from app.exports.card import Origin, card
from app.exports.schemas import STEPS, ExportCreate, folder_of, slug, ways
from app.exports.tables import Export
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.runs.tables import Run

_WAITING = {"done": 0, "total": None, "text": "Waiting for a worker"}
_LIBRARIES = ("torch", "transformers", "trl", "peft")
_SHOWN_METRICS = ("loss", "eval_loss", "exact_match", "tokens")
_MOST_LOG_LINES = 200


def list_exports(
    session: Session, workspace_id: str, *, limit: int = 50, after: str | None = None, checkpoint_id: str | None = None
) -> list[Export]:
    """Exports of the workspace, newest first."""
    query = select(Export).where(Export.workspace_id == workspace_id)
    if after:
        query = query.where(Export.id < after)
    if checkpoint_id:
        query = query.where(Export.checkpoint_id == checkpoint_id)
    return list(session.scalars(query.order_by(Export.id.desc()).limit(limit)))


def get(session: Session, workspace_id: str, export_id: str) -> Export:
    """An export of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    found = session.scalars(select(Export).where(Export.id == export_id, Export.workspace_id == workspace_id)).first()
    if found is None:
        raise NotFound("There is no such export; it may have been deleted. The list of exports shows those there are.")
    return found


def file_of(export: Export) -> Path:
    """The packed file.

    Raises:
        Conflict: it is not ready.
        NotFound: it is not on the disk any more.
    """
    if export.status != "ready" or not export.path:
        raise Conflict(f"The export “{export.file_name}” is {export.status}: {export.reason or 'wait until it is ready.'}")
    file = storage.path(export.path)
    if not file.is_file():
        raise NotFound(f"The file of “{export.file_name}” is missing from the storage folder. Delete this export and make it again.")
    return file


def create(session: Session, workspace_id: str, user_id: str | None, asked: ExportCreate) -> Export:
    """Queue an export; the same one, while it is being made, is not begun twice.

    Raises:
        NotFound: there is no such checkpoint.
        Conflict: the checkpoint is not ready.
        Invalid: it has no adapter to pack, or one that cannot be merged, or cut to this rank.
    """
    checkpoint = checkpoints.get(session, workspace_id, asked.checkpoint)
    checkpoints.training_paths(session, checkpoint)
    if asked.format == "adapter" and checkpoint.kind != "adapter":
        raise Invalid(f"“{checkpoint.name}” is a whole model and has no adapter to pack. Export it as merged.", field="format")
    if asked.format == "adapter" and asked.dtype != "stored":
        raise Invalid("An adapter is packed as it was trained. Leave dtype at stored, or export as merged.", field="dtype")
    if asked.format == "merged":
        _must_merge(checkpoint)
    facts = _facts(session, checkpoint)
    if asked.rank is not None:
        _must_cut(session, checkpoint, asked, facts.get("rank"))
        facts.update(rank=asked.rank, cut=True)
    same = (Export.checkpoint_id == checkpoint.id, Export.format == asked.format, Export.dtype == asked.dtype)
    for going_on in session.scalars(select(Export).where(*same, Export.status == "exporting")):
        if going_on.facts.get("rank") == facts.get("rank"):
            return going_on
    base = checkpoints.base_of(session, checkpoint)
    ending = asked.format if asked.dtype == "stored" else f"{asked.format}-{asked.dtype}"
    ending += f"-r{asked.rank}" if asked.rank is not None else ""
    used = [checkpoint] if asked.format == "adapter" or base is checkpoint else [checkpoint, base]
    export = Export(
        id=new_id("exp"),
        workspace_id=workspace_id,
        checkpoint_id=checkpoint.id,
        checkpoint_name=checkpoint.name,
        format=asked.format,
        dtype=asked.dtype,
        status="exporting",
        progress=dict(_WAITING),
        log=[],
        file_name=f"{slug(checkpoint.name)}-{ending}.zip",
        size_before=sum(each.size_bytes or 0 for each in used),
        facts=facts,
        created_by=user_id,
    )
    session.add(export)
    session.flush()
    jobs.enqueue(session, workspace_id=workspace_id, kind="export", subject_id=export.id, created_by=user_id)
    return export


def _must_merge(checkpoint: Checkpoint) -> None:
    kind = adapter_type(checkpoint)
    if checkpoint.kind == "adapter" and kind == FEATURES:
        words = f"“{checkpoint.name}” was fitted on frozen features, so there is nothing to merge. Export it as an adapter."
        raise Invalid(words, field="format")
    own = next((each for each in tuners.registry().values() if each.peft_type == kind), None)
    if checkpoint.kind == "adapter" and own is not None and not own.mergeable:
        words = f"“{checkpoint.name}” was made by {own.title.lower()}, which cannot be merged into the weights. Export it as an adapter."
        raise Invalid(words, field="format")


def _must_cut(session: Session, checkpoint: Checkpoint, asked: ExportCreate, rank: Any) -> None:
    run = session.get(Run, checkpoint.run_id) if checkpoint.run_id else None
    if asked.format != "adapter" or run is None or not run.tuner_params.get("any_rank"):
        words = "Only an adapter whose run was set to any rank (DyLoRA) can be cut to a smaller one. Leave the rank empty."
        raise Invalid(words, field="rank")
    if not isinstance(rank, int) or asked.rank is None or asked.rank > rank:
        raise Invalid(f"The adapter was trained with rank {rank}; it can be cut to any from 1 to {rank}.", field="rank")


def _facts(session: Session, checkpoint: Checkpoint) -> dict[str, Any]:
    """What the commands that use an export depend on."""
    base = checkpoints.base_of(session, checkpoint)
    on_hub = base.source == "hub" and bool(base.ref)
    facts: dict[str, Any] = {"base": base.ref if on_hub else base.name, "on_hub": on_hub, "revision": base.revision if on_hub else None}
    facts["task"] = task_of(checkpoint)
    head = checkpoints.folder_of(checkpoint) / HEAD_FILE
    if facts["task"] == "classifier" and head.is_file():
        told = json.loads(head.read_text(encoding="utf-8"))
        facts.update(labels=len(told.get("labels") or []), plain_head=not (told.get("head") or {}).get("width"))
    if checkpoint.kind == "adapter":
        file = checkpoints.folder_of(checkpoint) / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        facts["fitted"] = not file.is_file()
        odd = ("use_dora", "modules_to_save", "rank_pattern", "trainable_token_indices")
        plain = config.get("peft_type") == "LORA" and config.get("bias", "none") == "none" and not any(config.get(name) for name in odd)
        bits = Bits.of(checkpoints.folder_of(checkpoint))
        facts.update(rank=config.get("r"), plain_lora=plain and not bits, bits=asdict(bits) if bits else None)
    return facts


def delete(session: Session, workspace_id: str, export_id: str) -> None:
    """Remove an export and, after the commit, its file; one that is going on is stopped."""
    export = get(session, workspace_id, export_id)
    job = jobs.active_for(session, "export", export.id)
    if job is not None:
        job.status, job.reason = "cancelled", "The export was deleted."
        leases.free(job)  # the worker that holds it sees the lease gone and ends its child
    path = _path(export)
    session.delete(export)
    session.flush()
    after_commit(session, lambda: storage.remove(path))


def _path(export: Export) -> str:
    return f"exports/{export.id}.zip"


# --- the job --------------------------------------------------------------------------------------------------------------


def export_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the packing child is told.

    Raises:
        NotFound: the export was deleted meanwhile.
        Conflict: the checkpoint was deleted meanwhile, or its files are not there.
    """
    export = session.get(Export, job.subject_id)
    if export is None:
        raise NotFound("The export was deleted before it began.")
    checkpoint = session.get(Checkpoint, export.checkpoint_id) if export.checkpoint_id else None
    if checkpoint is None:
        raise Conflict(f"The checkpoint “{export.checkpoint_name}” was deleted before it could be exported.")
    paths = checkpoints.training_paths(session, checkpoint)
    whole = "copy" if export.dtype == "stored" else "cast"
    way = "adapter" if export.format == "adapter" else "merged" if paths["adapter"] else whole
    return {
        "way": way,
        "steps": STEPS[way],
        "dtype": None if export.dtype == "stored" else export.dtype,
        "base": paths["path"],
        "adapter": paths["adapter"],
        "base_name": export.facts["base"],
        "base_revision": export.facts["revision"],
        "rank": export.facts["rank"] if export.facts.get("cut") else None,
        "folder": folder_of(export),
        "card": card(_origin(session, export, checkpoint), [(way.title, way.text, way.hint) for way in ways(export)]),
        "target": str(storage.path(_path(export))),
    }


def _origin(session: Session, export: Export, checkpoint: Checkpoint) -> Origin:
    """Where a checkpoint comes from, for the card."""
    base = checkpoints.base_of(session, checkpoint)
    run = session.get(Run, checkpoint.run_id) if checkpoint.run_id else None
    dataset = session.get(Dataset, run.dataset_id) if run else None
    versions = ((run.resolved or {}).get("versions") or {}) if run else {}
    return Origin(
        name=checkpoint.name,
        format=export.format,
        base=export.facts["base"],
        on_hub=export.facts["on_hub"],
        base_revision=export.facts["revision"],
        base_sha256=base.sha256 if base is not checkpoint else None,
        sha256=checkpoint.sha256,
        step=checkpoint.step,
        run={
            "name": run.name,
            "method": run.method,
            "tuner": run.tuner,
            "params": run.params,
            "tuner_params": run.tuner_params,
            "seed": run.seed,
            "versions": {name: versions[name] for name in _LIBRARIES if name in versions},
        }
        if run
        else None,
        dataset={
            "Name": f"{dataset.name}, version {dataset.version}",
            "Rows for training": f"{dataset.train_rows:,}",
            "Shape": dataset.shape,
            "SHA-256 of its rows": dataset.sha256,
        }
        if dataset
        else None,
        metrics={name: value for name, value in (checkpoint.metrics or {}).items() if name in _SHOWN_METRICS},
    )


def export_progress(session: Session, job: Job, progress: dict[str, Any]) -> None:
    """Show how far the child is, and note each step it begins."""
    export = session.get(Export, job.subject_id)
    if export is None or export.status != "exporting":
        return
    export.progress = {name: progress.get(name) for name in ("done", "total", "text")}
    step = str(progress.get("text") or "").partition(":")[0]
    if step and (not export.log or export.log[-1][1] != step) and len(export.log) < _MOST_LOG_LINES:
        export.log = [*export.log, [job.heartbeat_at or export.created_at, step]]


def export_done(session: Session, job: Job, result: dict[str, Any]) -> None:
    """The file is in place: the export is ready."""
    export = session.get(Export, job.subject_id)
    if export is None:
        path = f"exports/{job.subject_id}.zip"
        after_commit(session, lambda: storage.remove(path))
        return
    export.status, export.reason, export.progress, export.path = "ready", None, None, _path(export)
    export.size_bytes, export.sha256, export.log = result["size_bytes"], result["sha256"], result["log"][:_MOST_LOG_LINES]
    export.finished_at = now()
    session.flush()


def export_failed(session: Session, job: Job, reason: str, code: str) -> None:
    """The export cannot be done: the row says why. The child has left no file."""
    export = session.get(Export, job.subject_id)
    if export is not None:
        export.status, export.reason, export.progress = "failed", reason, None
        export.finished_at = now()
        session.flush()
