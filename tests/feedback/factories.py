"""Projects, items and raters for tests of feedback."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.accounts.schemas import Principal
from app.feedback import service
from app.feedback.schemas import ItemIn, ProjectCreate, Task, Vote
from app.feedback.tables import Item, Project, Rater, Slot
from tests.conftest import Stack

SOURCES = ("secret-alpha-7b", "secret-beta-7b")


def pair(number: int, **more: Any) -> ItemIn:
    """An item of two answers that differ."""
    answers = [{"text": f"The answer {number} of {'one' if place == 0 else 'two'}.", "source": SOURCES[place]} for place in (0, 1)]
    return ItemIn.model_validate({"prompt": f"Question {number}?", "responses": answers, **more})


def add_project(session: Session, workspace_id: str, items: int | Sequence[ItemIn] = 3, **fields: Any) -> Project:
    """A project of pairs with items."""
    asked = ProjectCreate.model_validate({"name": "which is better", **fields})
    project = service.create_project(session, workspace_id, asked, None)
    service.add_items(session, project, [pair(number) for number in range(items)] if isinstance(items, int) else items)
    return project


def principal(workspace_id: str, user: str = "ann", role: str = "rater") -> Principal:
    """Somebody of the workspace, without a row of their own."""
    return Principal(f"usr_{user}", user, workspace_id, role, "session", "ses_1")


def add_rater(session: Session, project: Project, user: str = "ann") -> Rater:
    """A rater of the project."""
    return service.rater_for(session, project, principal(project.workspace_id, user))


def claim(session: Session, project: Project, rater: Rater, ahead: int = 0) -> Task:
    """An item to judge; there must be one."""
    task = service.claim(session, project, rater, ahead=ahead)
    assert task is not None
    return task


def vote_for(stack: Stack, task: Task, place: int, grade: int = 2) -> Vote:
    """A vote for the response of a place in the data, whatever side it is on."""
    with stack.database.read() as session:
        there = {response.id: response.place for response in service.responses_of(session, [task.item_id])[task.item_id]}
    return Vote(preference=grade if there[task.responses[1].id] == place else -grade)


def expire(session: Session, task: Task) -> None:
    """Have the lease of a task run out."""
    session.execute(update(Slot).where(Slot.item_id == task.item_id, Slot.done_at.is_(None)).values(lease_until=1.0))


def reread(stack: Stack, project: Project) -> Project:
    """The project as it is in the database."""
    with stack.database.read() as session:
        return session.get_one(Project, project.id)


def item_of(stack: Stack, task: Task) -> Item:
    """The item of a task."""
    with stack.database.read() as session:
        return session.get_one(Item, task.item_id)
