"""Looks up the checkpoints that the settings of a run name: whether each is there and fit for its use, and where its files are."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app import references, storage
from app.checkpoints import heads
from app.checkpoints import service as checkpoints
from app.checkpoints.bits import Bits
from app.checkpoints.tables import Checkpoint
from app.errors import Invalid, NotFound

_WANTED = {"policy": "one that writes text", "reward": "a reward model", "score": "a score model", "classifier": "a classifier"}


def check(session: Session, workspace_id: str, prefix: str, params: BaseModel) -> list[Checkpoint]:
    """The checkpoints that settings name, in their order.

    Args:
        prefix: goes before the name of a field in messages, such as `params`.

    Raises:
        Invalid: one does not exist, is not ready, or cannot do what it is named for; the message names the field.
    """
    found = []
    for each in references.named(params):
        field = f"{prefix}.{each.field}"
        try:
            checkpoint = checkpoints.get(session, workspace_id, each.id)
        except NotFound:
            raise Invalid("There is no such checkpoint. It may have been deleted; choose another.", field=field) from None
        if checkpoint.status != "ready":
            raise Invalid(f"“{checkpoint.name}” is {checkpoint.status}; choose one that is ready.", field=field)
        reason = unfit(checkpoint, each.tasks)
        if reason:
            raise Invalid(f"“{checkpoint.name}” {reason}", field=field)
        found.append(checkpoint)
    return found


def unfit(checkpoint: Checkpoint, tasks: tuple[str, ...]) -> str:
    """Why a checkpoint cannot stand in a field for these tasks; empty where it can."""
    task = heads.task_of(checkpoint)
    if "adapter" in tasks:
        return "" if checkpoint.kind == "adapter" and task == "policy" else "is no adapter that writes text. Choose an adapter."
    if task in tasks:
        return ""
    is_one = {"policy": "writes text", "classifier": "is a classifier", "encoder": "is an encoder"}.get(task, f"is a {task} model")
    return f"{is_one}; this needs {' or '.join(_WANTED.get(each, each) for each in tasks)}."


def must_share_base(session: Session, start: Checkpoint, adapters: list[Checkpoint]) -> None:
    """Refuse adapters that cannot be mixed on the model a run starts from.

    Raises:
        Invalid: the model is an adapter itself, or one of those to mix is no LoRA, sits on another model, or was trained on one held
            in other bits.
    """
    if start.kind == "adapter":
        raise Invalid("A mixture is put on a whole model. Start from the model that the LoRAs were trained on.", field="checkpoint")
    for number, each in enumerate(adapters):
        field = f"tuner_params.adapters.{number}"
        if heads.adapter_type(each) != "LORA":
            raise Invalid(
                f"“{each.name}” is an adapter of the kind {heads.adapter_type(each).lower()}; only LoRAs can be mixed.", field=field
            )
        base = checkpoints.base_of(session, each)
        if base.id != start.id:
            raise Invalid(f"“{each.name}” was trained on “{base.name}”, and this run starts from “{start.name}”.", field=field)
        held, first = (Bits.of(storage.path(one.path)) if one.path else Bits() for one in (each, adapters[0]))
        if held != first:
            words = f"“{each.name}” was trained on weights {held}, and “{adapters[0].name}” on weights {first}. Mix LoRAs of one kind."
            raise Invalid(words, field=field)


def paths(session: Session, workspace_id: str, *settings: BaseModel) -> dict[str, dict[str, Any]]:
    """Where a worker finds each checkpoint that settings name: id -> what `training_paths` tells.

    Raises:
        Invalid: one is gone.
        Conflict: its files are gone.
    """
    return {
        each.id: checkpoints.training_paths(session, each) for params in settings for each in check(session, workspace_id, "params", params)
    }
