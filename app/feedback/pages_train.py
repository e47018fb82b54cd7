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
from app.errors import Invalid, StudioError
from app.feedback import form as projects_form
from app.feedback import projects, sheets, snapshots
from app.feedback.rules import DROPPED, METHODS, VOTES_OUT, Rules, Sheet
from app.feedback.tables import Project, Rater
from app.forms import errors_of, posted_form
from app.web import Reader, ReadSession, Writer, database_of, hx_redirect, page, pages_router

router = pages_router()

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
    return hx_redirect(request, _new_run(snapshot.shape, snapshot.dataset_id or "", posted.get("checkpoint", "")[:200]))


def _new_run(shape: str, dataset_id: str, checkpoint_id: str) -> str:
    """Address of a new run on a snapshot."""
    method = METHODS[shape] if METHODS[shape] in methods.registry() else ""
    named = {"method": method, "dataset": dataset_id, "checkpoint": checkpoint_id}
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
        sheet = snapshots.preflight(session, project, _rules(project, posted), posted.get("checkpoint") or None)
    except Invalid as error:
        errors = errors_of(error)
    return {
        "project": project,
        "sheet": sheet,
        "errors": errors,
        "dropped": DROPPED,
        "votes_out": VOTES_OUT,
        "suggested": sheets.suggested(sheet) if sheet else {},
        "method": methods.registry().get(sheet.method) if sheet else None,
        "may_change": who.role in ("admin", "engineer"),
    }


def _show(
    request: Request, who: Principal, session: Session, project: Project, posted: Mapping[str, str], error: StudioError | None = None
) -> Response:
    counted = _counted(session, who, project, posted)
    values = {name.removeprefix("rules."): value for name, value in posted.items() if name.startswith("rules.")}
    fields = _fields(values, counted["errors"])
    raters = session.execute(
        select(Rater.id, Rater.name, Rater.kind, Rater.done).where(Rater.project_id == project.id, Rater.status != "removed")
    )
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
        "checkpoint": posted.get("checkpoint", ""),
        "snapshots": snapshots.listed(session, project),
        "methods": methods.registry(),
    }
    wrong = error or counted["errors"]
    return page(request, "feedback/train.html", who, status=(error.status if error else 422) if wrong else 200, **context)


def _fields(values: Mapping[str, Any], errors: Mapping[str, str]) -> dict[str, forms.Field]:
    made = forms.groups(Rules, "rules", values, {f"rules.{name}": words for name, words in errors.items()})
    return {field.name: field for group in made for field in group.fields}
