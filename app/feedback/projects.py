"""Projects: making, finding, changing and deleting them, and their counters. Knows no rater."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

from sqlalchemy import Update, bindparam, case, event, func, inspect, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from app.database import notify, now
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.errors import Invalid, NotFound
from app.feedback import active, slots
from app.feedback.schemas import ProjectChange, ProjectCreate
from app.feedback.tables import Item, Project, Rating, Slot
from app.words import clean_name

_WAITING = "feedback counts"
_COLUMNS = frozenset(Project.__table__.columns.keys())
_QUESTIONS = {
    ("pair", "better"): "Which answer is better?",
    ("pair", "worse"): "Which answer is worse?",
    ("single", "better"): "How good is this answer?",
    ("single", "worse"): "How bad is this answer?",
    ("rank", "better"): "Order the answers, the best one first.",
    ("rank", "worse"): "Order the answers, the worst one first.",
}


def create(session: Session, workspace_id: str, asked: ProjectCreate, created_by: str | None) -> Project:
    """A new project without items. Candidates are not asked here; `generation.start` does that.

    Raises:
        NotFound: there is no dataset of that name.
        Invalid: a field cannot be used.
    """
    values = {name: value for name, value in asked.model_dump(exclude_none=True).items() if name in _COLUMNS and name != "candidates"}
    values["name"] = clean_name("project", asked.name)
    values["question"] = (asked.question or "").strip() or _QUESTIONS[asked.kind, asked.direction]
    _check_criteria(values.get("criteria", []))
    project = Project(workspace_id=workspace_id, created_by=created_by, **values)
    if asked.prompts:
        project.prompts_dataset_id = _dataset(session, workspace_id, asked.prompts).id
    session.add(project)
    session.flush()
    session.refresh(project)
    return project


def _dataset(session: Session, workspace_id: str, asked: str) -> Dataset:
    named = select(Dataset).where(Dataset.workspace_id == workspace_id, Dataset.name == asked).order_by(Dataset.version.desc()).limit(1)
    found = session.scalars(named).first()
    if found is not None:
        return found
    try:
        return datasets.get(session, workspace_id, asked)
    except NotFound:
        raise NotFound("There is no such dataset. Give its id or its name, as the list of datasets shows.", field="prompts") from None


def _check_criteria(criteria: list[dict[str, Any]]) -> None:
    keys = [criterion["key"] for criterion in criteria]
    for number, criterion in enumerate(criteria):
        if criterion["key"] in keys[:number]:
            raise Invalid(f"Two questions have the key “{criterion['key']}”.", field=f"criteria.{number}.key")
        if len(set(criterion["options"])) < len(criterion["options"]):
            raise Invalid("Two options of this question are the same.", field=f"criteria.{number}.options")


def get(session: Session, workspace_id: str, project_id: str, *, lock: bool = False) -> Project:
    """A project of the workspace.

    Raises:
        NotFound: there is none with that id.
    """
    query = select(Project).where(Project.id == project_id, Project.workspace_id == workspace_id)
    project = session.scalars(query.with_for_update(key_share=True) if lock else query).first()
    if project is None:
        raise NotFound("There is no such feedback project.")
    return project


def lock(session: Session, project: Project) -> Project:
    """The project as it is now; its counters change in no other transaction until this one ends. Votes go on until they count."""
    session.flush()
    write_counts(session)
    # key_share: rows that only point to the project may be written meanwhile.
    query = select(Project).where(Project.id == project.id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).one()


def listed(session: Session, workspace_id: str) -> list[Project]:
    """Projects of the workspace, newest first."""
    return list(session.scalars(select(Project).where(Project.workspace_id == workspace_id).order_by(Project.id.desc()).limit(1000)))


def change(session: Session, project: Project, asked: ProjectChange) -> Project:
    """Change what the fields that are set say. Overlap may be raised and lowered at any time; what was said stays.

    Raises:
        Invalid: a field cannot be used.
    """
    project = lock(session, project)
    wanted = {name: value for name, value in asked.model_dump(exclude_none=True).items() if name in _COLUMNS}
    if "name" in wanted:
        wanted["name"] = clean_name("project", wanted["name"])
    _check_criteria(wanted.get("criteria", []))
    if wanted.get("guidelines", project.guidelines) != project.guidelines:
        project.guideline_version += 1
    before, chose = (project.overlap, project.overlap_share), project.active_choice
    for name, value in wanted.items():
        setattr(project, name, value)
    project.seq += 1
    project.updated_at = now()
    session.flush()
    if (project.overlap, project.overlap_share) != before:
        slots.spread(session, project)
        recount(session, project)
    if chose and not project.active_choice:
        active.restore(session, project.id)
    session.refresh(project)
    notify(session, f"feedback:{project.id}")
    return project


# --- counters -------------------------------------------------------------------------------------------------------------


def count(session: Session, project: Project, **more: int) -> None:
    """Add to counters of the project, whatever others add at the same moment, and wake its watchers.

    The row is written at the very end of the transaction: every vote counts there, so nobody may hold it while anything else goes on.
    """
    waiting: dict[str, Counter[str]] = session.info.setdefault(_WAITING, {})
    counted = waiting.setdefault(project.id, Counter())
    for name, number in more.items():
        counted[name] += number
        set_committed_value(project, name, getattr(project, name) + number)


def write_counts(session: Session) -> None:
    """Write what was counted in this transaction."""
    for project_id, counted in sorted(session.info.pop(_WAITING, {}).items()):
        more = {name: number for name, number in counted.items() if number}
        connection = session.connection()
        counting = _counting(tuple(sorted(more)), connection.dialect.name == "postgresql")
        connection.execute(counting, {"of_project": project_id, **{f"more_{name}": number for name, number in more.items()}})


@cache
def _counting(names: tuple[str, ...], notifies: bool) -> Update:
    """Adds to counters, and on Postgres tells listeners in the same statement."""
    there = inspect(Project).local_table.c
    values = {name: there[name] + bindparam(f"more_{name}") for name in names}
    changed = update(Project.__table__).where(there.id == bindparam("of_project"))  # type: ignore[arg-type]  # it is a table
    changed = changed.values(seq=there.seq + 1, updated_at=now(), **values)
    return changed.returning(func.pg_notify("luthier", "feedback:" + there.id)) if notifies else changed


@event.listens_for(Session, "before_commit")
def _before_commit(session: Session) -> None:
    if _WAITING in session.info and not session.in_nested_transaction():
        session.flush()
        write_counts(session)


@event.listens_for(Session, "after_rollback")
def _after_rollback(session: Session) -> None:
    session.info.pop(_WAITING, None)


def recount(session: Session, project: Project) -> None:
    """Count everything anew."""
    project = lock(session, project)
    normal = (Item.project_id == project.id) & (Item.role == "normal")
    by_status = {row[0]: row[1] for row in session.execute(select(Item.status, func.count()).where(normal).group_by(Item.status))}
    wanted = (
        select(func.count(), func.coalesce(func.sum(case((Slot.done_at.is_not(None), 1), else_=0)), 0))
        .join(Item, Item.id == Slot.item_id)
        .where(normal, Item.status.in_(("open", "flagged")), Slot.round == 0)
    )
    there, done = session.execute(wanted).one()
    extras = session.scalar(select(func.count()).select_from(Rating).where(Rating.project_id == project.id, Rating.is_extra))
    project.items, project.filtered = by_status.get("open", 0), by_status.get("filtered", 0)
    project.slots, project.done, project.extras = int(there), int(done), int(extras or 0)
    project.seq += 1
    project.updated_at = now()
    session.flush()
    session.refresh(project)
    notify(session, f"feedback:{project.id}")
