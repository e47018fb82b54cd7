"""References between the steps of a chain (`$1`), and the rehearsal that finds before the start what a later step would break on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy.orm import Session

from app import references
from app.checkpoints import service as checkpoints
from app.checkpoints.heads import FEATURES
from app.errors import Invalid, StudioError
from app.methods import service as methods
from app.runs import service as runs
from app.runs.schemas import RunCreate
from app.runs.tables import Run

_REFERENCE = re.compile(r"\$(\d{1,4})")


def number_of(value: str) -> int | None:
    """The step that `$2` names; None for the id of a checkpoint."""
    found = _REFERENCE.fullmatch(value.strip())
    return int(found[1]) if found else None


def resolved(request: RunCreate, number: int, find: Callable[[int, str], str]) -> RunCreate:
    """A step with checkpoints in place of its references.

    Args:
        number: that of the step, from 1.
        find: the id of the checkpoint that stands for an earlier step; it is told the field, for messages.

    Raises:
        Invalid: its method or tuner does not exist, a setting cannot be used, or it names a step that does not come before it.
    """
    aim, how = methods.objective(request.method), methods.tuner(request.tuner)
    checked = methods.validate(request.method, request.tuner, request.params, request.tuner_params, None, has_eval=True)
    values: dict[str, Any] = {}
    for part, kind, given in (("params", aim.params, checked[0]), ("tuner_params", how.params, checked[1])):
        for each in references.named(kind.model_validate(given)):
            if number_of(each.id) is not None:
                _put(given, each.field, _earlier(each.id, number, f"{part}.{each.field}", find))
                values[part] = given
    if number_of(request.checkpoint) is not None:
        values["checkpoint"] = _earlier(request.checkpoint, number, "checkpoint", find)
    return request.model_copy(update=values)


def _earlier(value: str, number: int, field: str, find: Callable[[int, str], str]) -> str:
    named = number_of(value) or 0
    if not 1 <= named < number:
        may = "the first step can name none" if number == 1 else f"step {number} can name {_listed(number - 1)}"
        raise Invalid(f"“{value}” is no step that comes before this one; {may}. Name an earlier one, or a checkpoint.", field=field)
    return find(named, field)


def _listed(last: int) -> str:
    return "$1" if last == 1 else f"$1 to ${last}"


def _put(values: Any, path: str, value: str) -> None:
    *way, last = path.split(".")
    for part in way:
        values = values[int(part)] if isinstance(values, list) else values[part]
    values[int(last) if isinstance(values, list) else last] = value


def parent_of(request: RunCreate) -> int | None:
    """The step whose run a step goes on from, and so is its parent."""
    return number_of(request.checkpoint)


# --- before the start -----------------------------------------------------------------------------------------------------


def rehearse(
    session: Session, workspace_id: str, user_id: str | None, steps: list[RunCreate], done: Callable[[int], str | None] = lambda _: None
) -> None:
    """Go through all steps as if each succeeded: every run is really made, with all its checks, and nothing of it is kept.

    Args:
        done: the checkpoint of a step that has succeeded already, by its number; such steps are not rehearsed.

    Raises:
        StudioError: a step cannot be run; `field` is such as `steps.1.params.beta`, and `details` lists all findings of that step.
    """
    session.flush()
    nested = session.begin_nested()
    try:
        made: list[str] = []
        for number, request in enumerate(steps, 1):
            there = done(number)
            made.append(there or _rehearsed(session, workspace_id, user_id, request, number, lambda named, _: made[named - 1]))
    finally:
        nested.rollback()


def _rehearsed(
    session: Session, workspace_id: str, user_id: str | None, request: RunCreate, number: int, find: Callable[[int, str], str]
) -> str:
    try:
        run = runs.create(session, workspace_id, user_id, resolved(request, number, find))
    except StudioError as error:
        raise at_step(error, number) from error
    run.status, run.step = "succeeded", 1  # so that it does not count among those that wait
    session.flush()
    return _outcome(session, run, number)


def _outcome(session: Session, run: Run, number: int) -> str:
    """A checkpoint as a run would leave it, without files."""
    aim, how = methods.objective(run.method), methods.tuner(run.tuner)
    kind = "adapter" if how.family == "adapter" else "full"
    left = checkpoints.commit_run_checkpoint(
        session,
        workspace_id=run.workspace_id,
        run_id=run.id,
        name=f"what step {number} makes",
        step=1,
        attempt=1,
        kind=kind,
        base_id=run.checkpoint_id,
        path="",
        manifest={"files": {}},
        metrics={},
        created_by=None,
        task=aim.produces,
        peft_type=(FEATURES if aim.name == "features" else how.peft_type) if kind == "adapter" else None,
    )
    return left.id


def at_step(error: StudioError, number: int) -> StudioError:
    """A refusal of a run as that of a step: its message and its fields say which."""
    place = f"steps.{number - 1}"
    details = error.details
    if isinstance(details, list):
        details = [{**each, "field": f"{place}.{each['field']}"} for each in _fields(details)]
    field = f"{place}.{error.field}" if error.field else place
    return type(error)(f"Step {number}: {error.message}", field=field, details=details, code=error.code)


def _fields(details: list[Any]) -> Iterator[dict[str, Any]]:
    yield from (each for each in details if isinstance(each, dict) and "field" in each)
