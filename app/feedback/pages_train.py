"""The page that leads from ratings to training: rules, what they would give, snapshots. Reckons nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import forms, methods
from app.accounts.schemas import Principal
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.errors import Invalid, StudioError
from app.feedback import form as projects_form
from app.feedback import pages_answer, projects, snapshots, trained
from app.feedback.rules import DROPPED, METHODS, VOTES_OUT, Rules, Sheet
from app.feedback.tables import Project, Rater, Snapshot
from app.forms import errors_of, posted_form, typed
from app.runs.graded import GRADES
from app.web import Reader, ReadSession, Writer, database_of, hx_redirect, page, pages_router

router = pages_router()
router.routes.extend(pages_answer.router.routes)

Posted = Annotated[dict[str, str], Depends(posted_form)]
_OFFERED = 200
_OF_KIND = {
    "pair": ("combine", "min_grade", "held_out", "drop_wide", "margin", "strong_pairs"),
    "rank": ("combine", "max_pairs_per_prompt", "held_out"),
    "thumbs": ("combine", "held_out"),
    "five": ("combine", "held_out", "good_from", "bad_to", "drop_wide"),
}
"""Rules that matter to each kind of question, in the order of the form."""
_ALWAYS = ("seed", "automatic")


@router.get("/feedback/{project_id}/train")
def train(request: Request, who: Reader, session: ReadSession, project_id: str) -> Response:
    """What the ratings come to under the usual rules, and the snapshots there are."""
    project = projects.get(session, who.workspace_id, project_id)
    return _show(request, who, session, project, {})


@router.post("/feedback/{project_id}/train/sheet")
def count_again(request: Request, who: Reader, session: ReadSession, project_id: str, posted: Posted) -> Response:
    """The sheet anew, as the rules in the form stand."""
    project = projects.get(session, who.workspace_id, project_id)
    return page(request, "feedback/_train_counted.html", who, **_counted(session, who, project, posted))


@router.post("/feedback/{project_id}/train")
def freeze(request: Request, who: Writer, project_id: str, posted: Posted) -> Response:
    """Freeze the ratings; then on to a new run with them, or back to the page. A rule that cannot be used comes back with the form."""
    database = database_of(request)
    go = posted.get("go", "train")
    with database.read() as session:
        project = projects.get(session, who.workspace_id, project_id)
        try:
            if go == "count":
                return _show(request, who, session, project, posted)
            prepared = snapshots.prepare(session, project, _rules(project, posted))
        except StudioError as error:
            if error.status >= 500:
                raise
            return _show(request, who, session, project, posted, error)
    try:
        with database.write() as session:
            project = projects.get(session, who.workspace_id, project_id, lock=True)
            snapshot = snapshots.freeze(session, project, prepared.rules, who.user_id, prepared)
    finally:
        prepared.discard()
    if go == "keep":
        return hx_redirect(request, f"/feedback/{project_id}/train#snapshots")
    return hx_redirect(request, _new_run(snapshot, posted.get("checkpoint", "")[:200]))


def _new_run(snapshot: Snapshot, checkpoint_id: str) -> str:
    """Address of a new run on a snapshot, with the settings its rows suggest."""
    method = METHODS[snapshot.shape]
    named: dict[str, Any] = {"dataset": snapshot.dataset_id, "checkpoint": checkpoint_id}
    if method in methods.registry():
        named["method"] = method
        named |= {f"params.{name}": typed(value) for name, value in (snapshot.counts.get("suggested") or {}).items()}
    return f"/runs/new?{urlencode({name: value for name, value in named.items() if value})}"


def _rules(project: Project, posted: Mapping[str, str]) -> Rules:
    values = forms.values_of(Rules, posted, "rules")
    shape = values.pop("shape", None)
    values["without"] = [name.removeprefix("without.") for name in posted if name.startswith("without.")]
    return snapshots.read_rules(project, shape, values)


def _counted(session: Session, who: Principal, project: Project, posted: Mapping[str, str]) -> dict[str, Any]:
    """The sheet for the rules as they stand, or what is wrong with them."""
    sheet: Sheet | None = None
    errors: dict[str, str] = {}
    try:
        sheet = snapshots.preflight(session, project, _rules(project, posted), _start(session, project, posted) or None)
    except Invalid as error:
        errors = errors_of(error)
    return {
        "project": project,
        "sheet": sheet,
        "errors": errors,
        "dropped": DROPPED,
        "votes_out": VOTES_OUT,
        "suggested": _suggested(sheet),
        "method": methods.registry().get(sheet.method) if sheet else None,
        "grades": GRADES,
        "may_change": who.role in ("admin", "engineer"),
    }


def _start(session: Session, project: Project, posted: Mapping[str, str]) -> str:
    """The model to be trained: what was chosen, else the first that answered, since it learns most from its own answers."""
    if "checkpoint" in posted:
        return posted["checkpoint"][:200]
    first = session.get(Checkpoint, project.candidates[0]["checkpoint_id"]) if project.candidates else None
    return first.id if first is not None and first.status == "ready" else ""


def _suggested(sheet: Sheet | None) -> dict[str, str]:
    """Settings that the new run is opened with, by their titles."""
    objective = methods.registry().get(sheet.method) if sheet else None
    if sheet is None or objective is None:
        return {}
    fields = objective.params.model_fields
    return {(fields[name].title or name) if name in fields else name: typed(value) for name, value in sheet.suggested.items()}


def _show(
    request: Request, who: Principal, session: Session, project: Project, posted: Mapping[str, str], error: StudioError | None = None
) -> Response:
    counted = _counted(session, who, project, posted)
    values = {name.removeprefix("rules."): value for name, value in posted.items() if name.startswith("rules.")}
    fields = _fields(values, counted["errors"])
    raters = session.execute(
        select(Rater.id, Rater.name, Rater.kind, Rater.done).where(Rater.project_id == project.id, Rater.status != "removed")
    )
    listed = snapshots.listed(session, project)
    found = checkpoints.list_checkpoints(session, who.workspace_id, limit=_OFFERED, kinds=["base", "full", "adapter"], status="ready")
    context = {
        **counted,
        "tab": "train",
        "kind": projects_form.KINDS[project.kind],
        "error": error,
        "shapes": snapshots.shapes_of(project),
        "values": values,
        "fields": [fields[name] for name in _OF_KIND[project.scale if project.kind == "single" else project.kind]],
        "further": [fields[name] for name in _ALWAYS],
        "raters": list(raters),
        "without": {name.removeprefix("without.") for name in posted if name.startswith("without.")},
        "models": [(each.id, each.name) for each in found],
        "checkpoint": _start(session, project, posted),
        "snapshots": listed,
        "runs": trained.runs_of(session, project, [dataset.id for _, dataset in listed if dataset is not None]),
        "links": {snapshot.id: _new_run(snapshot, _start(session, project, posted)) for snapshot, _ in listed},
    }
    wrong = error or counted["errors"]
    return page(request, "feedback/train.html", who, status=(error.status if error else 422) if wrong else 200, **context)


def _fields(values: Mapping[str, Any], errors: Mapping[str, str]) -> dict[str, forms.Field]:
    made = forms.groups(Rules, "rules", values, {f"rules.{name}": words for name, words in errors.items()})
    return {field.name: field for group in made for field in group.fields}
