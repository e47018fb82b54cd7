"""Chains as text and as the form of the classic one: YAML read and written, and the three steps of RLHF made from a few choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import methods, tuners
from app.chains import check
from app.chains.schemas import ChainCreate, kept
from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.errors import Invalid
from app.runs.schemas import RunCreate
from app.runs.written import loaded
from app.words import plain_words

LAST = ("ppo", "rloo", "grpo")
"""Methods that the classic chain may end with, the one of InstructGPT first."""
_TABLES: tuple[tuple[str, Any], ...] = (("checkpoint", Checkpoint), ("dataset", Dataset), ("eval_dataset", Dataset))


# --- the classic chain ----------------------------------------------------------------------------------------------------


@dataclass
class Classic:
    """The form of the classic chain, as typed."""

    checkpoint: str = ""
    answers: str = ""
    pairs: str = ""
    prompts: str = ""
    method: str = ""
    tuner: str = "lora"
    name: str = ""

    def asked(self) -> ChainCreate:
        """SFT, then a reward model that begins from it, then learning from that.

        Raises:
            Invalid: something is missing; `details` lists all findings.
        """
        missing = {
            "checkpoint": "Choose a model to start from.",
            "answers": "Choose examples of good answers.",
            "pairs": "Choose pairs of a better and a worse answer.",
            "prompts": "Choose prompts to answer.",
            "method": "Choose how to learn from the reward model.",
        }
        problems = [{"field": name, "message": words} for name, words in missing.items() if not getattr(self, name)]
        if problems:
            raise Invalid(problems[0]["message"], field=problems[0]["field"], details=problems)
        rewards = [{"kind": "model", "checkpoint": "$2"}]
        values: list[dict[str, Any]] = [
            {"method": "sft", "checkpoint": self.checkpoint, "dataset": self.answers},
            {"method": "reward", "checkpoint": "$1", "dataset": self.pairs},
            {"method": self.method, "checkpoint": "$1", "dataset": self.prompts, "params": {"rewards": rewards}},
        ]
        return read({"name": self.name.strip()[:200] or None, "steps": [{**each, "tuner": self.tuner} for each in values]})


PLACES = {"steps.0.checkpoint": "checkpoint", "steps.0.dataset": "answers", "steps.1.dataset": "pairs", "steps.2.dataset": "prompts"}
"""Field of a chain -> field of the form."""


def offered() -> dict[str, Any]:
    """The methods that are there to end with."""
    known = methods.registry()
    return {name: known[name] for name in LAST if name in known}


def offered_tuners() -> dict[str, Any]:
    """The tuners that all three steps can have."""
    known = methods.registry()
    used = [known[name] for name in ("sft", "reward", *offered()) if name in known]
    plain = {name: how for name, how in tuners.registry().items() if all(each.refusal(how) is None for each in used)}
    return dict(sorted(plain.items(), key=lambda item: item[0] != "lora"))


# --- YAML -----------------------------------------------------------------------------------------------------------------


def as_yaml(asked: ChainCreate) -> str:
    """A chain as text that `from_yaml` reads."""
    values = {**({"name": asked.name} if asked.name else {}), "steps": [kept(step) for step in asked.steps]}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def step_as_yaml(step: RunCreate) -> str:
    """One step as text."""
    return yaml.safe_dump(kept(step), sort_keys=False, allow_unicode=True)


def from_yaml(session: Session, workspace_id: str, text: str) -> ChainCreate:
    """The chain that pasted YAML asks for; models and datasets may be named instead of given by id.

    Raises:
        Invalid: it cannot be read, or names something that is not there.
    """
    values = loaded(text, "name: My chain and steps: with one run after another")
    steps = values.get("steps")
    if isinstance(steps, list):
        values["steps"] = [_named(session, workspace_id, each) for each in steps]
    return read(values)


def step_from_yaml(session: Session, workspace_id: str, text: str) -> RunCreate:
    """One step from pasted YAML.

    Raises:
        Invalid: it cannot be read, or names something that is not there.
    """
    values = _named(session, workspace_id, loaded(text, "method: sft"))
    try:
        return RunCreate.model_validate(values)
    except ValidationError as error:
        raise _refused(error) from None


def read(values: dict[str, Any]) -> ChainCreate:
    """A chain from plain values.

    Raises:
        Invalid: they are none; `details` lists all findings.
    """
    try:
        return ChainCreate.model_validate(values)
    except ValidationError as error:
        raise _refused(error) from None


def _refused(error: ValidationError) -> Invalid:
    found = [{"field": ".".join(map(str, each["loc"])), "message": plain_words(each)} for each in error.errors()]
    first = found[0]
    return Invalid(f"{first['field']}: {first['message']}" if first["field"] else first["message"], field=first["field"], details=found)


def _named(session: Session, workspace_id: str, step: Any) -> Any:
    """A step with ids in place of the names of models and datasets."""
    if not isinstance(step, dict):
        return step
    found = {str(name): value for name, value in step.items() if value is not None}
    for field, table in _TABLES:
        value = found.get(field)
        if isinstance(value, str) and check.number_of(value) is None:
            found[field] = _id_of(session, workspace_id, table, value)
    return found


def _id_of(session: Session, workspace_id: str, table: Any, text: str) -> str:
    """The id of what bears a name, the newest where several do; what is no name stays, so that it is refused where it is used."""
    own = select(table.id).where(table.workspace_id == workspace_id)
    if session.scalars(own.where(table.id == text)).first() is not None:
        return text
    return session.scalars(own.where(table.name == text).order_by(table.id.desc()).limit(1)).first() or text
