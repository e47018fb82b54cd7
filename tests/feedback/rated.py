"""Projects with ratings in them, written straight into the tables, for tests that are not about how ratings come about."""

from __future__ import annotations

import hashlib
from typing import Any

from sqlalchemy.orm import Session

from app.feedback.tables import Event, Item, Project, Rater, Rating, Response


def add_project(session: Session, workspace_id: str, kind: str = "pair", **fields: Any) -> Project:
    """An open project."""
    scale = {"pair": "graded", "single": "five", "rank": "ranks"}[kind]
    project = Project(workspace_id=workspace_id, **{"name": "taste", "kind": kind, "scale": scale, **fields})
    session.add(project)
    session.flush()
    return project


def add_rater(session: Session, project: Project, name: str = "Ada", **fields: Any) -> Rater:
    """A person that rates."""
    rater = Rater(project_id=project.id, who=f"user:{name}", name=name, **fields)
    session.add(rater)
    session.flush()
    return rater


def add_item(session: Session, project: Project, prompt: str | list[dict[str, str]], answers: list[Any], **fields: Any) -> Item:
    """An item; an answer is a text, or the fields of a response."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    digest = hashlib.sha256(repr(messages).encode()).hexdigest()
    item = Item(project_id=project.id, prompt=messages, prompt_hash=digest, order_key=0.5, **fields)
    session.add(item)
    session.flush()
    for place, answer in enumerate(answers):
        of = answer if isinstance(answer, dict) else {"text": answer}
        session.add(Response(item_id=item.id, place=place, **{"source": f"model {place}", "finish": "stop", **of}))
    session.flush()
    return item


def say(session: Session, item: Item, rater: Rater, preference: int | str | None = None, **fields: Any) -> Rating:
    """A rating with its event."""
    quality = preference if isinstance(preference, str) else None
    kind, round_ = fields.pop("kind", "rate"), fields.pop("round", 0)
    event = Event(project_id=item.project_id, item_id=item.id, k=0, rater_id=rater.id, key=f"{item.id} {round_} {kind}", kind=kind)
    session.add(event)
    session.flush()
    rating = Rating(
        item_id=item.id,
        rater_id=rater.id,
        round=round_,
        project_id=item.project_id,
        event_id=event.id,
        kind=kind,
        preference=0 if quality else preference,
        quality=quality,
        **{"left": 0, **fields},
    )
    session.add(rating)
    session.flush()
    return rating


def rated_pairs(session: Session, workspace_id: str, count: int = 40, **fields: Any) -> Project:
    """A project of rated pairs: the second answer of the even items is better, the first of the odd ones."""
    project = add_project(session, workspace_id, **fields)
    rater = add_rater(session, project)
    for number in range(count):
        item = add_item(session, project, f"What is {number} + {number}?", [f"It is {number * 2}.", f"Surely {number * 2}, my friend."])
        say(session, item, rater, 1 + number % 3 if number % 2 == 0 else -(1 + number % 3), left=number % 2)
    return project
