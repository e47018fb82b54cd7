"""What the form of a new run holds: read from a post, a link or another run; with the choices it offers. Starts nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import forms, methods, presets, tuners
from app.checkpoints import service as checkpoints
from app.checkpoints.heads import ENCODER, task_of
from app.checkpoints.references import unfit
from app.checkpoints.tables import Checkpoint
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, StudioError
from app.methods.base import GROUPS, Objective, TrainingParams
from app.plans import prefill
from app.runs.schemas import RunCreate
from app.tuners.base import Tuner
from app.words import plain_words

OFFERED = 500
"""How many models and datasets are offered at most; the newest are."""
KINDS = {"base": "Base models", "full": "Full fine-tunes", "adapter": "Adapters (training goes on)"}


@dataclass(frozen=True)
class Choice:
    """One entry of a list to choose from; with a reason it cannot be chosen."""

    id: str
    title: str
    note: str = ""
    group: str = ""
    reason: str = ""


@dataclass
class Draft:
    """The form as it stands: everything as typed."""

    method: str = "sft"
    tuner: str = "lora"
    checkpoint: str = ""
    dataset: str = ""
    eval_dataset: str = ""
    name: str = ""
    seed: str = ""
    tags: str = ""
    notes: str = ""
    parent_run: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    tuner_params: dict[str, Any] = field(default_factory=dict)
    preset: str = ""
    """Title of the preset the form was filled from."""
    filled: list[str] = field(default_factory=list)
    """Titles of the settings that a link filled in."""
    refused: list[str] = field(default_factory=list)
    """What a link asked for and cannot have, in sentences."""

    @property
    def objective(self) -> Objective:
        """The chosen method, or the first there is."""
        known = methods.registry()
        return known.get(self.method) or next(iter(known.values()))

    @property
    def how(self) -> Tuner:
        """The chosen tuner, or the first there is."""
        known = tuners.registry()
        return known.get(self.tuner) or next(iter(known.values()))

    def groups(self, errors: Mapping[str, str]) -> list[forms.Group]:
        """The fields: those of the method alone, of the tuner, and those every method has."""
        suited = {"learning_rate": self.objective.rate_with(self.how)}
        of_method = forms.groups(self.objective.params, "params", self.params, errors, suited)
        shared = {group.title for group in forms.groups(TrainingParams, "params")}
        own = [group for group in of_method if group.title not in shared]
        rest = [group for group in of_method if group.title in shared]
        return own + forms.groups(self.how.params, "tuner_params", self.tuner_params, errors) + rest

    def request(self) -> RunCreate:
        """The run that is asked for.

        Raises:
            Invalid: something is missing or cannot be read; `details` lists all findings.
        """
        missing = {"checkpoint": "Choose a model to start from.", "dataset": "Choose a dataset to learn from."}
        problems = [{"field": name, "message": words} for name, words in missing.items() if not getattr(self, name)]
        if problems:
            raise Invalid(problems[0]["message"], field=problems[0]["field"], details=problems)
        values: dict[str, Any] = {
            "name": self.name.strip() or None,
            "method": self.method,
            "tuner": self.tuner,
            "checkpoint": self.checkpoint,
            "dataset": self.dataset,
            "eval_dataset": self.eval_dataset or None,
            "params": self.params,
            "tuner_params": self.tuner_params,
            "parent_run": self.parent_run or None,
            "tags": [tag.strip() for tag in self.tags.split(",") if tag.strip()],
            "notes": self.notes,
        }
        if self.seed.strip():
            values["seed"] = self.seed.strip()
        try:
            return RunCreate.model_validate(values)
        except ValidationError as error:
            found = [{"field": str(each["loc"][0]), "message": plain_words(each)} for each in error.errors()]
            raise Invalid(found[0]["message"], field=found[0]["field"], details=found) from error


_TEXTS = ("method", "tuner", "checkpoint", "dataset", "eval_dataset", "name", "seed", "tags", "notes", "parent_run")


def from_post(form: Mapping[str, Any]) -> Draft:
    """The draft a posted form holds; settings of a method or tuner that is no longer chosen are left out."""
    typed: dict[str, Any] = {name: form[name] for name in _TEXTS if isinstance(form.get(name), str)}
    draft = Draft(**typed)
    draft.params = _known(forms.values_of(draft.objective.params, form, "params"), draft.objective.params)
    draft.tuner_params = _known(forms.values_of(draft.how.params, form, "tuner_params"), draft.how.params)
    if draft.how.name not in draft.objective.accepts_tuners:
        draft.tuner, draft.tuner_params = prefill.suited_tuner(draft.objective), {}
    _edit_lists(draft, form)
    return draft


def _edit_lists(draft: Draft, form: Mapping[str, Any]) -> None:
    """Add an entry to a list of settings (`add=params.rewards:length`) or take one out (`remove=params.rewards.1`)."""
    place, _, kind = str(form.get("add", "")).partition(":")
    part, _, name = place.partition(".")
    model: Any = {"params": draft.objective.params, "tuner_params": draft.how.params}.get(part)
    if model is not None and name in model.model_fields and kind in forms.variants(model, name):
        values = draft.params if part == "params" else draft.tuner_params
        values.setdefault(name, []).append({"kind": kind})
    part, _, rest = str(form.get("remove", "")).partition(".")
    name, _, number = rest.partition(".")
    values = {"params": draft.params, "tuner_params": draft.tuner_params}.get(part, {})
    if isinstance(values.get(name), list) and number.isdecimal() and int(number[:6]) < len(values[name]):
        del values[name][int(number[:6])]


def _known(values: dict[str, Any], model: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in model.model_fields}


def from_link(session: Session, workspace_id: str, query: Mapping[str, str]) -> Draft:
    """The draft a link asks for, with some fields filled in."""
    named: dict[str, Any] = {
        name: query[name][:200] for name in ("method", "tuner", "checkpoint", "dataset", "eval_dataset") if name in query
    }
    draft = Draft(**named)
    preset = presets.registry().get(query.get("preset", ""))
    if preset is not None:
        draft.preset, draft.method, draft.tuner = preset.title, preset.method, preset.tuner
    elif draft.dataset and not query.get("method"):
        draft.method = _method_for(session, workspace_id, draft.dataset) or draft.method
    prefill.settings(draft, query)
    if preset is not None:
        draft.params, draft.tuner_params = {**preset.params, **draft.params}, {**preset.tuner_params, **draft.tuner_params}
    return draft


def _method_for(session: Session, workspace_id: str, dataset_id: str) -> str | None:
    """The method to take first with a dataset, by what people have who need it."""
    try:
        shape = datasets.get(session, workspace_id, dataset_id).shape
    except StudioError:
        return None
    suited = [each for each in methods.registry().values() if shape in each.consumes]
    return min(suited, key=lambda each: (GROUPS.index(each.group), each.name)).name if suited else None


def models(session: Session, workspace_id: str, chosen: str, objective: Objective | None = None) -> list[Choice]:
    """Models to start from, base models first; the chosen one is among them. Those that give numbers start nothing that writes."""
    found = checkpoints.list_checkpoints(session, workspace_id, limit=OFFERED, kinds=list(KINDS))
    if chosen and all(each.id != chosen for each in found):
        with contextlib.suppress(StudioError):  # it was deleted; the form then has none chosen
            found.append(checkpoints.get(session, workspace_id, chosen))
    order = list(KINDS)
    found.sort(key=lambda each: order.index(each.kind) if each.kind in order else len(order))
    return [Choice(each.id, each.name, group=KINDS.get(each.kind, each.kind), reason=_unfit(each, objective)) for each in found]


def _unfit(checkpoint: Checkpoint, objective: Objective | None) -> str:
    if checkpoint.status != "ready":
        return checkpoint.status
    task = task_of(checkpoint)
    if task == ENCODER:
        return "" if objective is not None and objective.produces == "classifier" else "encoder: starts only classifiers"
    gives = "classes" if task == "classifier" else "numbers"
    return "" if task == "policy" or (objective is not None and objective.head) else f"{task}: gives {gives}, no text"


def others(session: Session, workspace_id: str, groups: list[forms.Group]) -> dict[tuple[str, ...], list[Choice]]:
    """Checkpoints that the fields of a form may name, by what they must be able to do; those that are no longer listed are told by id."""
    wanted = {field.tasks for group in groups for each in group.fields for field in _with_parts(each) if field.tasks}
    if not wanted:
        return {}
    found = checkpoints.list_checkpoints(session, workspace_id, limit=OFFERED, kinds=list(KINDS))
    return {
        tasks: [
            Choice(each.id, each.name, group=KINDS.get(each.kind, each.kind).partition(" (")[0])
            for each in found
            if each.status == "ready" and not unfit(each, tasks)
        ]
        for tasks in wanted
    }


def _with_parts(field: forms.Field) -> list[forms.Field]:
    return [field, *(inner for part in field.parts for each in part.fields for inner in _with_parts(each))]


def titles(groups: list[forms.Group]) -> dict[str, str]:
    """What people call each field of a form, by its id; those inside of entries too."""
    return {each.id: each.title for group in groups for field in group.fields for each in _with_parts(field)}


def data(session: Session, workspace_id: str, chosen: str, objective: Objective) -> list[Choice]:
    """Datasets to learn from, those that can be used first; the others say why not."""
    found = datasets.list_datasets(session, workspace_id, limit=OFFERED, latest=True)
    if chosen and all(each.id != chosen for each in found):
        with contextlib.suppress(StudioError):
            found.insert(0, datasets.get(session, workspace_id, chosen))
    choices = [_dataset(each, objective) for each in found]
    return sorted(choices, key=lambda each: bool(each.reason))


def only(choices: list[Choice]) -> str:
    """The one entry that can be chosen, if there is just one: nobody has to pick it."""
    usable = [each.id for each in choices if not each.reason]
    return usable[0] if len(usable) == 1 else ""


def _dataset(dataset: Dataset, objective: Objective) -> Choice:
    title = f"{dataset.name} v{dataset.version}" if dataset.version > 1 else dataset.name
    try:
        datasets.usable_for_run(dataset)
    except Conflict:
        reason = f"{dataset.errors:,} lines with errors" if dataset.errors else dataset.status
        return Choice(dataset.id, title, reason=reason.replace("1 lines", "1 line") if dataset.errors == 1 else reason)
    reason = "" if dataset.shape in objective.consumes else f"holds {(dataset.shape or 'unknown').replace('_', '/')} rows"
    return Choice(dataset.id, title, note=f"{dataset.train_rows:,} rows", reason=reason)
