"""Runs as people see and steer them: create, list, pause, resume, cancel, edit. What a worker writes is in `progress`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app import leases, queue, rewards, storage
from app.checkpoints import heads, references
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import after_commit, notify, now
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, NotFound
from app.methods import service as methods
from app.runs.listing import count_active as count_active
from app.runs.listing import counts as counts
from app.runs.listing import list_runs as list_runs
from app.runs.listing import queue_place as queue_place
from app.runs.listing import queue_places as queue_places
from app.runs.schemas import ACTIVE, ENDED, RunCreate, RunUpdate
from app.runs.tables import Run, RunEvent, RunLog, RunSample
from app.settings import get_settings
from app.webhooks import service as webhooks
from app.words import clean_name


def touch(session: Session, run: Run) -> int:
    """Count this transaction on the run and wake its watchers; returns the sequence number its writes carry."""
    key = ("run seq", run.id)
    if session.info.get("transaction") is not session.get_transaction():
        session.info["transaction"] = session.get_transaction()
        session.info["counted"] = {}
    counted: dict[Any, int] = session.info["counted"]
    if key not in counted:
        run.seq += 1
        run.updated_at = now()
        counted[key] = run.seq
        notify(session, f"run:{run.id}")
    return counted[key]


def add_event(session: Session, run: Run, kind: str, message: str, **data: Any) -> None:
    """Add a line to the run's history."""
    seq = touch(session, run)
    counted: dict[Any, int] = session.info["counted"]
    number = counted[("event", run.id)] = counted.get(("event", run.id), -1) + 1
    session.add(RunEvent(run_id=run.id, seq=seq, number=number, attempt=run.attempt, kind=kind, message=message, data=data))


def set_status(session: Session, run: Run, status: str, reason: str | None = None, code: str | None = None) -> None:
    """Move the run to a status; the lease goes with every status in which no worker holds it."""
    run.status, run.reason, run.reason_code = status, reason, code
    if status not in ACTIVE:
        leases.free(run)
        run.phase = run.child = None
    if status in ENDED:
        run.finished_at = now()
        webhooks.run_ended(session, run)
    touch(session, run)


def get(session: Session, workspace_id: str, run_id: str, *, lock: bool = False) -> Run:
    """A run of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    query = select(Run).where(Run.id == run_id, Run.workspace_id == workspace_id)
    run = session.scalars(query.with_for_update() if lock else query).first()
    if run is None:
        raise NotFound("There is no such run.")
    return run


def create(session: Session, workspace_id: str, user_id: str | None, request: RunCreate) -> Run:
    """Queue a run.

    Raises:
        Invalid: a setting cannot be used, or dataset and method do not fit; the message names the field.
        NotFound: checkpoint or dataset does not exist.
        Conflict: checkpoint or dataset cannot be used yet, or too many runs wait.
    """
    checkpoint = checkpoints.get(session, workspace_id, request.checkpoint)
    if checkpoint.status != "ready":
        raise Conflict(f"The checkpoint “{checkpoint.name}” is {checkpoint.status}; a run needs one that is ready.", field="checkpoint")
    dataset = datasets.get(session, workspace_id, request.dataset)
    datasets.usable_for_run(dataset)
    eval_dataset: Dataset | None = None
    if request.eval_dataset:
        eval_dataset = datasets.get(session, workspace_id, request.eval_dataset)
        datasets.usable_for_run(eval_dataset)
    has_eval = eval_dataset is not None or dataset.eval_rows > 0
    params, tuner_params = methods.validate(
        request.method, request.tuner, request.params, request.tuner_params, dataset.shape, has_eval=has_eval
    )
    must_suit(session, workspace_id, request, params, tuner_params, checkpoint)
    if eval_dataset is not None:
        methods.validate(
            request.method, request.tuner, request.params, request.tuner_params, eval_dataset.shape, field="eval_dataset", has_eval=True
        )
    if request.parent_run:
        get(session, workspace_id, request.parent_run)
    limit = get_settings().max_queued_runs
    if leases.waiting(session, Run, Run.workspace_id == workspace_id) >= limit:
        raise Conflict(f"{limit} runs already wait in this workspace. Wait until some have started, or cancel some.")
    run = Run(
        workspace_id=workspace_id,
        name=clean_name("run", request.name) if request.name else f"{request.method}-{request.tuner}-{dataset.name}",
        method=request.method,
        tuner=request.tuner,
        checkpoint_id=checkpoint.id,
        dataset_id=dataset.id,
        eval_dataset_id=eval_dataset.id if eval_dataset else None,
        params=params,
        tuner_params=tuner_params,
        seed=request.seed,
        priority=request.priority,
        parent_run_id=request.parent_run,
        tags=clean_tags(request.tags),
        notes=request.notes,
        created_by=user_id,
        dispatched_at=now(),
        seq=0,
        status="queued",
        attempt=0,
    )
    session.add(run)
    session.flush()
    add_event(session, run, "created", "Queued.")
    session.flush()
    queue.ring(session, "device")
    return run


def must_suit(
    session: Session, workspace_id: str, request: RunCreate, params: dict[str, Any], tuner_params: dict[str, Any], checkpoint: Checkpoint
) -> list[Checkpoint]:
    """Refuse a checkpoint that method and tuner cannot start from, and other checkpoints in the settings that are not fit for their use.

    Returns: those the settings of the method name, such as a teacher.

    Raises:
        Invalid: the message names the field.
    """
    objective, tuner = methods.objective(request.method), methods.tuner(request.tuner)
    heads.must_start(checkpoint, objective, "checkpoint")
    heads.must_go_on(checkpoint, tuner)
    settings = objective.params.model_validate(params)
    rewards.must_be_allowed(getattr(settings, "rewards", []))
    others = references.check(session, workspace_id, "params", settings)
    mixed = references.check(session, workspace_id, "tuner_params", tuner.params.model_validate(tuner_params))
    if "mixture" in tuner.traits:
        references.must_share_base(session, checkpoint, mixed)
    return others


def clean_tags(tags: list[str]) -> list[str]:
    """Tags trimmed, without doubles, at most 40 characters each."""
    cleaned = (" ".join("".join(c for c in tag if c.isprintable()).split())[:40] for tag in tags)
    return list(dict.fromkeys(tag for tag in cleaned if tag))


def cancel(session: Session, workspace_id: str, run_id: str) -> Run:
    """Stop a run for good; its committed checkpoints stay. Asking twice changes nothing."""
    run = get(session, workspace_id, run_id, lock=True)
    if run.status in ("queued", "paused"):
        set_status(session, run, "cancelled", "Cancelled before it ended." if run.step else "Cancelled before it started.")
        add_event(session, run, "cancelled", "Cancelled.")
    elif run.status in ("preparing", "running", "pausing"):
        set_status(session, run, "stopping")
        add_event(session, run, "stopping", "Asked to stop.")
    elif run.status not in ("stopping", "cancelled"):
        raise Conflict(f"The run has already {run.status}; there is nothing to cancel.")
    session.flush()
    return run


def pause(session: Session, workspace_id: str, run_id: str) -> Run:
    """Ask a run to write a checkpoint and let go of its device."""
    run = get(session, workspace_id, run_id, lock=True)
    if run.status == "queued":
        set_status(session, run, "paused", "Paused before it started.")
        add_event(session, run, "paused", "Paused while waiting.")
    elif run.status in ("preparing", "running"):
        set_status(session, run, "pausing")
        add_event(session, run, "pausing", "Asked to pause.")
    elif run.status not in ("pausing", "paused"):
        raise Conflict(f"The run is {run.status} and cannot be paused.")
    session.flush()
    return run


def resume(session: Session, workspace_id: str, run_id: str) -> Run:
    """Queue a paused, failed or cancelled run again; it goes on from its last committed checkpoint."""
    run = get(session, workspace_id, run_id, lock=True)
    if run.status in ("paused", "failed", "cancelled"):
        set_status(session, run, "queued")
        run.failures, run.not_before, run.finished_at, run.dispatched_at = 0, None, None, now()
        where = f"from step {run.committed_step}" if run.committed_step else "from the beginning"
        add_event(session, run, "resumed", f"Queued again, to go on {where}.")
        queue.ring(session, "device")
    elif run.status == "pausing":
        raise Conflict("The run is still writing its checkpoint. Resume it once it is paused.")
    elif run.status not in ("queued", "preparing", "running"):
        raise Conflict(f"The run is {run.status} and cannot be resumed.")
    session.flush()
    return run


def duplicate(session: Session, workspace_id: str, user_id: str | None, run_id: str) -> Run:
    """Queue a new run with the same settings."""
    run = get(session, workspace_id, run_id)
    return create(session, workspace_id, user_id, as_request(run, name=f"{run.name[:190]} (copy)"))


def as_request(run: Run, name: str | None = None) -> RunCreate:
    """The request that would make this run again."""
    return RunCreate(
        name=name or run.name,
        method=run.method,
        tuner=run.tuner,
        checkpoint=run.checkpoint_id,
        dataset=run.dataset_id,
        eval_dataset=run.eval_dataset_id,
        params=run.params,
        tuner_params=run.tuner_params,
        seed=run.seed,
        priority=run.priority,
        parent_run=run.id,
        tags=run.tags,
    )


def update(session: Session, workspace_id: str, run_id: str, change: RunUpdate) -> Run:
    """Edit name, tags, notes or priority.

    Raises:
        Conflict: somebody changed the run since the version the edit names.
    """
    run = get(session, workspace_id, run_id, lock=True)
    if change.version is not None and change.version != run.version:
        now_there = {"version": run.version, "name": run.name, "tags": run.tags, "notes": run.notes, "priority": run.priority}
        raise Conflict("Somebody changed this run meanwhile. Look at both versions and repeat your change.", details=now_there)
    if change.name is not None:
        run.name = clean_name("run", change.name)
    if change.tags is not None:
        run.tags = clean_tags(change.tags)
    if change.notes is not None:
        run.notes = change.notes
    if change.priority is not None:
        run.priority = change.priority
    run.version += 1
    touch(session, run)
    session.flush()
    return run


def delete(session: Session, workspace_id: str, run_id: str) -> None:
    """Remove a run that no worker holds, with its curve, logs and checkpoints.

    Raises:
        Conflict: the run is active, or one of its checkpoints is used by something else.
    """
    run = get(session, workspace_id, run_id, lock=True)
    if run.status in ACTIVE:
        raise Conflict(f"The run is {run.status}. Stop it first, then delete it.")
    own = list(session.scalars(select(Checkpoint).where(Checkpoint.run_id == run.id)))
    own_ids = [checkpoint.id for checkpoint in own]
    users = session.scalars(select(Run.name).where(Run.checkpoint_id.in_(own_ids), Run.id != run.id)).all()
    if users:
        raise Conflict(
            f"Its checkpoints are used by {len(users)} other run{'s' if len(users) > 1 else ''}, such as “{users[0]}”. Delete those first."
        )
    based = session.scalars(select(Checkpoint.name).where(Checkpoint.base_id.in_(own_ids), Checkpoint.id.not_in(own_ids))).first()
    if based:
        raise Conflict(f"The checkpoint “{based}” sits on one of its checkpoints. Delete that first.")
    for checkpoint in own:
        session.delete(checkpoint)
    session.flush()
    session.delete(run)
    session.flush()
    after_commit(session, lambda: storage.remove(f"runs/{run.id}"))


def checkpoints_of(session: Session, workspace_id: str, run_id: str) -> list[Checkpoint]:
    """Committed checkpoints of a run, newest first."""
    get(session, workspace_id, run_id)
    query = select(Checkpoint).where(Checkpoint.run_id == run_id, Checkpoint.status == "ready")
    return list(session.scalars(query.order_by(Checkpoint.step.desc())))


def events(session: Session, workspace_id: str, run_id: str, limit: int = 1000) -> list[RunEvent]:
    """History of a run, oldest first."""
    get(session, workspace_id, run_id)
    return list(session.scalars(select(RunEvent).where(RunEvent.run_id == run_id).order_by(RunEvent.seq, RunEvent.number).limit(limit)))


def logs(
    session: Session,
    workspace_id: str,
    run_id: str,
    *,
    after: str | None = None,
    level: str | None = None,
    q: str | None = None,
    limit: int = 500,
    newest: bool = False,
    up_to: str | None = None,
) -> list[RunLog]:
    """Log lines in order, after a cursor `seq.number`; with `newest` the last ones, with `up_to` the last ones to that cursor.

    Args:
        q: only lines that hold this text, whatever its case.
    """
    get(session, workspace_id, run_id)
    query = select(RunLog).where(RunLog.run_id == run_id)
    if after:
        seq, number = _log_cursor(after, "after")
        query = query.where(or_(RunLog.seq > seq, (RunLog.seq == seq) & (RunLog.number > number)))
    if up_to:
        seq, number = _log_cursor(up_to, "at")
        query = query.where(or_(RunLog.seq < seq, (RunLog.seq == seq) & (RunLog.number <= number)))
    if q:
        pattern = f"%{q.lower().replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"
        query = query.where(func.lower(RunLog.text).like(pattern, escape="!"))
    if level:
        order = ["debug", "info", "warning", "error"]
        if level not in order:
            raise Invalid(f"There is no level “{level}”. Known are {', '.join(order)}.", field="level")
        query = query.where(RunLog.level.in_(order[order.index(level) :]))
    if newest or up_to:
        return list(session.scalars(query.order_by(RunLog.seq.desc(), RunLog.number.desc()).limit(limit)))[::-1]
    return list(session.scalars(query.order_by(RunLog.seq, RunLog.number).limit(limit)))


def _log_cursor(text: str, field: str) -> tuple[int, int]:
    seq, _, number = text.partition(".")
    if not (seq.isdecimal() and (number or "0").isdecimal() and len(text) < 30):
        raise Invalid(f"“{field}” is a cursor such as 12.3 from an earlier answer.", field=field)
    return int(seq), int(number or 0)


def samples(session: Session, workspace_id: str, run_id: str) -> list[RunSample]:
    """Answers to the fixed prompts, by step."""
    get(session, workspace_id, run_id)
    return list(session.scalars(select(RunSample).where(RunSample.run_id == run_id).order_by(RunSample.step, RunSample.number).limit(2000)))
