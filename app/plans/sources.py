"""Where a form's values come from besides typing: another run, or pasted YAML; and how the form differs from the run it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.errors import Invalid
from app.forms import typed as as_typed
from app.plans.draft import Draft
from app.runs import written
from app.runs.tables import Run

MORE = {
    "method": "Method",
    "tuner": "Tuner",
    "checkpoint": "Model",
    "dataset": "Dataset",
    "eval_dataset": "Evaluation data",
    "seed": "Seed",
}


@dataclass(frozen=True)
class Difference:
    """One field that is not as in the run the form was made from."""

    field: str
    title: str
    was: str
    now: str


def like(run: Run) -> Draft:
    """A draft with everything as in a run, which becomes its parent."""
    return Draft(
        method=run.method,
        tuner=run.tuner,
        checkpoint=run.checkpoint_id,
        dataset=run.dataset_id,
        eval_dataset=run.eval_dataset_id or "",
        name=f"{run.name[:190]} (copy)",
        seed=str(run.seed),
        tags=", ".join(run.tags),
        parent_run=run.id,
        params=dict(run.params),
        tuner_params=dict(run.tuner_params),
    )


def further(run: Run, checkpoint: str) -> Draft:
    """A draft that goes on from a checkpoint of a run, with its settings."""
    draft = like(run)
    draft.name, draft.checkpoint = f"{run.name[:185]} (further)", checkpoint
    return draft


def differences(session: Session, draft: Draft, run: Run) -> list[Difference]:
    """What in a form is not as in the run it was made from, in the order of the form."""
    found = []
    was = {
        "method": run.method,
        "tuner": run.tuner,
        "checkpoint": run.checkpoint_id,
        "dataset": run.dataset_id,
        "eval_dataset": run.eval_dataset_id or "",
        "seed": str(run.seed),
    }
    for name, before in was.items():
        now = str(getattr(draft, name)).strip() or ("42" if name == "seed" else "")
        if now != before:
            found.append(
                Difference(name, MORE[name], _named(session, run.workspace_id, name, before), _named(session, run.workspace_id, name, now))
            )
    values = {"params": run.params, "tuner_params": run.tuner_params}
    for group in draft.groups({}):
        for field in group.fields:
            part, _, name = field.id.partition(".")
            if name not in values[part]:
                continue  # a setting that the other method has not
            before, now = as_typed(values[part][name]), field.value or field.default
            if not _same(before or field.default, now):
                found.append(Difference(field.id, field.title, before or "–", now or "–"))
    return found


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return float(one) == float(other)
    except ValueError:
        return False


def _named(session: Session, workspace_id: str, name: str, value: str) -> str:
    """What people call a model or a dataset."""
    table: Any = {"checkpoint": Checkpoint, "dataset": Dataset, "eval_dataset": Dataset}.get(name)
    if table is None or not value:
        return value or "–"
    row = session.scalars(select(table).where(table.id == value, table.workspace_id == workspace_id)).first()
    if row is None:
        return value
    return f"{row.name} v{row.version}" if isinstance(row, Dataset) and row.version > 1 else str(row.name)


# --- pasted YAML ----------------------------------------------------------------------------------------------------------


def from_yaml(session: Session, workspace_id: str, text: str) -> Draft:
    """The draft that pasted YAML asks for; models and datasets may be named instead of given by id.

    Raises:
        Invalid: it cannot be read, or names something that is not there.
    """
    values = written.read_yaml(text)
    draft = Draft()
    for name in ("method", "tuner", "name", "seed", "notes", "parent_run"):
        if name in values:
            setattr(draft, name, str(values[name]))
    tags = values.get("tags", [])
    draft.tags = ", ".join(str(tag) for tag in tags) if isinstance(tags, list) else str(tags)
    draft.params, draft.tuner_params = dict(values.get("params", {})), dict(values.get("tuner_params", {}))
    for name, table in (("checkpoint", Checkpoint), ("dataset", Dataset), ("eval_dataset", Dataset)):
        if name in values:
            setattr(draft, name, _found(session, workspace_id, table, name, str(values[name])))
    return draft


def _found(session: Session, workspace_id: str, table: Any, field: str, text: str) -> str:
    own = select(table.id).where(table.workspace_id == workspace_id)
    plain, _, version = text.partition("@")
    if version.isdecimal() and table is Dataset:
        own = own.where(Dataset.version == int(version[:9]))
        names = select(Dataset.name).where(Dataset.id == plain, Dataset.workspace_id == workspace_id)
        own = own.where((Dataset.name == plain) | Dataset.name.in_(names))
        found = session.scalars(own.limit(1)).first()
    else:
        found = session.scalars(own.where(table.id == text)).first()
        found = found or session.scalars(own.where(table.name == text).order_by(table.id.desc()).limit(1)).first()
    if found is None:
        what = "model" if table is Checkpoint else "dataset"
        raise Invalid(f"There is no {what} “{text[:80]}” in this workspace. Give its name or its id.", field=field)
    return str(found)
