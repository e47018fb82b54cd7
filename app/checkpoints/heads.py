"""What a checkpoint does and what can start from it: some give numbers or classes and no text; adapters are of a kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, or_

from app import tuners
from app.checkpoints.tables import Checkpoint
from app.errors import Invalid
from app.methods.base import Objective
from app.tuners.base import Tuner

HEAD_FILE = "head.json"
"""In the folder of such a checkpoint: its task, for ratings the scale of its numbers, for classes their names."""
CONFUSION_FILE = "confusion.json"
"""In the same folder: how many evaluation rows of each class (a row of the table) were taken for each class (a column)."""
HEADED = ("reward", "score", "classifier")
"""Tasks of checkpoints that give numbers or classes."""
ENCODER = "encoder"
"""Task of base models that read text and write none."""
ENCODERS = ("bert", "distilbert", "electra", "modernbert", "roberta", "xlm-roberta")
"""Types of models that are such, unless their config says that they decode."""
FEATURES = "FEATURES"
"""Kind of an adapter that has no weights of PEFT: what was fitted on the frozen features of the model below it."""


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a model that reads text and writes none."""
    names = [str(name) for name in config.get("architectures") or ()]
    writes_text = config.get("is_decoder") or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)
    return config.get("model_type") in ENCODERS and not writes_text


def task_of(checkpoint: Checkpoint) -> str:
    """What a checkpoint does: `policy` writes text, `reward` and `score` give a number, `classifier` a class; an `encoder` only reads."""
    task = (checkpoint.config or {}).get("task")
    return str(task) if task in (*HEADED, ENCODER) else "policy"


def writes() -> ColumnElement[bool]:
    """Condition of a query: checkpoints that write text."""
    task = Checkpoint.config["task"].as_string()
    return or_(task.is_(None), task.not_in((*HEADED, ENCODER)))


def must_write(checkpoint: Checkpoint, field: str) -> None:
    """Refuse a checkpoint that gives numbers or classes where text is needed.

    Raises:
        Invalid: it writes no text; the message says what it does.
    """
    task = task_of(checkpoint)
    if task == "policy":
        return
    does = {"classifier": "a classifier: it gives classes", ENCODER: "an encoder: it reads text"}
    raise Invalid(
        f"“{checkpoint.name}” is {does.get(task, f'a {task} model: it gives numbers')} and writes no text. Take another.", field=field
    )


def must_start(checkpoint: Checkpoint, objective: Objective, field: str) -> None:
    """Refuse a checkpoint that a run of this method cannot start from.

    Raises:
        Invalid: the run needs one that writes text, or one that is no encoder.
    """
    if not objective.head:
        must_write(checkpoint, field)
    elif task_of(checkpoint) == ENCODER and objective.produces != "classifier":
        raise Invalid(
            f"“{checkpoint.name}” is an encoder: only classify and features can start from it. Take a model that writes text.",
            field=field,
        )


def adapter_type(checkpoint: Checkpoint) -> str:
    """PEFT's name for the kind of an adapter; LORA where nothing is known."""
    return str((checkpoint.config or {}).get("peft_type") or "LORA")


def must_go_on(checkpoint: Checkpoint, tuner: Tuner) -> None:
    """Refuse a tuner that cannot start from an adapter: one of another kind, or one that would have to merge what cannot be merged.

    Raises:
        Invalid: it cannot; the message says what can.
    """
    if checkpoint.kind != "adapter":
        return
    kind = adapter_type(checkpoint)
    if kind in (tuner.peft_type, FEATURES):
        return
    own: Any = next((each for each in tuners.registry().values() if each.peft_type == kind), None)
    name = own.name if own else kind.lower()
    if tuner.family == "adapter":
        raise Invalid(
            f"“{checkpoint.name}” is an adapter of the kind {name}, and {tuner.name} cannot go on training that. "
            f"Take the tuner {name}, or start from the model below it.",
            field="tuner",
        )
    if own is not None and not own.mergeable:
        raise Invalid(
            f"“{checkpoint.name}” is an adapter of the kind {name}, which cannot be merged into the weights for {tuner.name}. "
            f"Take the tuner {name} to go on training it, or start from the model below it.",
            field="tuner",
        )
