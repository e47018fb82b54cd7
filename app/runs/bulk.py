"""What is done to several runs at once, all of them or none: tag, cancel, delete."""

from __future__ import annotations

from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid
from app.runs import service
from app.runs.schemas import ENDED

MOST = 200
MOST_TAGS = 20


def _chosen(ids: list[str]) -> list[str]:
    chosen = sorted(set(ids), reverse=True)  # always in this order: two who lock the same runs never wait for each other
    if not chosen:
        raise Invalid("Tick at least one run.", field="run")
    if len(chosen) > MOST:
        raise Invalid(f"At most {MOST} runs at a time; {len(chosen)} are ticked.", field="run")
    return chosen


def tag(session: Session, workspace_id: str, ids: list[str], names: str, *, remove: bool = False) -> int:
    """Add tags (separated by commas) to runs, or take them away; returns how many runs changed.

    Raises:
        Invalid: no tag is named, or a run would have too many.
        NotFound: one of the runs does not exist; nothing is changed.
    """
    wanted = service.clean_tags(names.split(","))
    if not wanted:
        raise Invalid("Type a tag first; several are separated by commas.", field="tag")
    changed = 0
    for run_id in _chosen(ids):
        run = service.get(session, workspace_id, run_id, lock=True)
        tags = [each for each in run.tags if each not in wanted] if remove else list(dict.fromkeys([*run.tags, *wanted]))
        if len(tags) > MOST_TAGS:
            raise Invalid(f"“{run.name}” would have {len(tags)} tags; a run has at most {MOST_TAGS}.", field="tag")
        if tags != run.tags:
            run.tags, run.version = tags, run.version + 1
            service.touch(session, run)
            changed += 1
    session.flush()
    return changed


def cancel(session: Session, workspace_id: str, ids: list[str]) -> int:
    """Stop runs for good; those that have ended already are passed over. Returns how many were stopped.

    Raises:
        Conflict: all of them had ended.
    """
    stopped = 0
    for run_id in _chosen(ids):
        run = service.get(session, workspace_id, run_id)
        if run.status not in ENDED:
            service.cancel(session, workspace_id, run_id)
            stopped += 1
    if not stopped:
        raise Conflict("All of these runs have ended already; there is nothing to cancel.")
    return stopped


def delete(session: Session, workspace_id: str, ids: list[str]) -> int:
    """Delete runs with all they left behind, newest first, so that a run goes before the one it was made from.

    Raises:
        Conflict: one of them is active or used; none is deleted.
    """
    chosen = _chosen(ids)
    for run_id in chosen:
        service.delete(session, workspace_id, run_id)
    return len(chosen)
