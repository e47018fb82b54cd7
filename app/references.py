"""Settings that name other checkpoints (a teacher, a reward) or datasets: how a field says so, and which ones some settings name.
Looks none up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic_core import CoreSchema

MARK = "checkpoint_of"
"""Key in the JSON Schema of such a field; its value lists the tasks."""
DATA_MARK = "dataset_of"
"""Key in the JSON Schema of a field that names a dataset; its value lists the row shapes."""


@dataclass(frozen=True)
class Refers:
    """In the annotation of a field: it holds the id of a checkpoint."""

    tasks: tuple[str, ...]
    """What the checkpoint may do: policy, reward, score, classifier; `adapter` for one that writes and is an adapter."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), MARK: list(self.tasks)}


PolicyId = Annotated[str, Refers(("policy",))]
"""Id of a checkpoint that writes text."""
RewardId = Annotated[str, Refers(("reward", "score"))]
"""Id of a checkpoint that gives an answer a number."""
AdapterId = Annotated[str, Refers(("adapter",))]
"""Id of an adapter that writes text."""


@dataclass(frozen=True)
class RefersData:
    """In the annotation of a field: it holds the id of a dataset."""

    shapes: tuple[str, ...]
    """Row shapes (`app.shapes`) that will do."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), DATA_MARK: list(self.shapes)}


DatasetId = Annotated[str, RefersData(("prompt", "prompt_completion", "chat", "preference", "unpaired", "rated"))]
"""Id of a dataset whose rows have prompts."""


@dataclass(frozen=True)
class NamedData:
    """One dataset that settings name."""

    field: str
    id: str
    shapes: tuple[str, ...]


def named_data(params: BaseModel) -> Iterator[NamedData]:
    """Every dataset that settings name in fields of their own; empty ones name none."""
    for name, field in type(params).model_fields.items():
        every = (*field.metadata, *(mark for part in get_args(field.annotation) for mark in getattr(part, "__metadata__", ())))
        mark = next((each for each in every if isinstance(each, RefersData)), None)
        value = getattr(params, name)
        if mark is not None and isinstance(value, str) and value:
            yield NamedData(name, value, mark.shapes)


@dataclass(frozen=True)
class Named:
    """One checkpoint that settings name."""

    field: str
    """Such as `teacher`, or `rewards.0.checkpoint`."""
    id: str
    tasks: tuple[str, ...]


def named(params: BaseModel) -> Iterator[Named]:
    """Every checkpoint that settings name, those in lists and parts of them included; empty fields name none."""
    for name, field in type(params).model_fields.items():
        marks = [*(each for each in field.metadata if isinstance(each, Refers)), *_marks(field.annotation)]
        yield from _in(getattr(params, name), name, marks[0].tasks if marks else ())


def _in(value: Any, place: str, tasks: tuple[str, ...]) -> Iterator[Named]:
    if isinstance(value, BaseModel):
        for each in named(value):
            yield Named(f"{place}.{each.field}", each.id, each.tasks)
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _in(one, f"{place}.{number}", tasks)
    elif isinstance(value, str) and value and tasks:
        yield Named(place, value, tasks)


def _marks(annotation: Any) -> Iterator[Refers]:
    yield from (each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Refers))
    for part in get_args(annotation):
        if not isinstance(part, Refers) and not (isinstance(part, type) and issubclass(part, BaseModel)):
            yield from _marks(part)
