"""Reads the votes of a project with what statistics need of raters, items and answers: columns, never whole rows or texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import null, select
from sqlalchemy.orm import Session

from app.feedback import raw
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot


class Who(NamedTuple):
    """A rater."""

    id: str
    name: str
    kind: str
    status: str

    @property
    def is_person(self) -> bool:
        """Whether it is somebody, not something."""
        return self.kind == "person"


class About(NamedTuple):
    """An item."""

    role: str
    status: str
    prompt_hash: str

    @property
    def counts(self) -> bool:
        """Whether votes on it say something about answers and agreement: not gold, practice, flagged or removed."""
        return self.role == "normal" and self.status == "open"


class Answer(NamedTuple):
    """A response without its text."""

    id: str
    place: int
    source: str
    checkpoint_id: str | None
    words: int
    headers: int
    lists: int
    bold: int


class Given(NamedTuple):
    """A vote as it holds now."""

    item: str
    rater: str
    round: int
    kind: str
    preference: int | None
    quality: str | None
    score: float | None
    ranking: list[list[str]] | None
    left: int | None
    active_ms: int | None
    is_extra: bool
    at: float

    @property
    def says(self) -> bool:
        """Whether it holds a judgement; a skip or flag does not."""
        return self.preference is not None or self.score is not None or bool(self.ranking)


@dataclass(frozen=True)
class Votes:
    """What statistics are made of."""

    raters: dict[str, Who]
    items: dict[str, About]
    """Those somebody voted on."""
    answers: dict[str, list[Answer]]
    """By item, in the order of their places; those a rater wrote left out."""
    given: list[Given]
    """In the order they came."""
    gold: dict[str, dict[str, Any]]
    """Right answers of gold items."""


def read(session: Session, project: Project) -> Votes:
    """All votes of a project with what is needed of their raters, items and answers."""
    said = Rating.__table__.c
    ranking = said.ranking if project.kind == "rank" else null()
    columns = (said.item_id, said.rater_id, said.round, said.kind, said.preference, said.quality, said.score, ranking)
    query = select(*columns, said.left, said.active_ms, said.is_extra, said.at)
    rows = session.execute(query.where(said.project_id == project.id).order_by(said.at, said.event_id)).yield_per(10_000)
    given = list(map(Given._make, rows))
    # What votes point to is read after them: others vote meanwhile.
    rated = select(Rating.item_id).where(Rating.project_id == project.id)
    of_project = (Item.project_id == project.id, Item.id.in_(rated))
    about = select(Item.id, Item.role, Item.status, Item.prompt_hash).where(*of_project)
    items = {item_id: About(role, status, prompt_hash) for item_id, role, status, prompt_hash in session.execute(about)}
    known = session.execute(select(Item.id, Item.gold).where(*of_project, Item.role == "gold"))
    gold = {item_id: answer for item_id, answer in known if answer}
    named = select(Rater.id, Rater.name, Rater.kind, Rater.status).where(Rater.project_id == project.id)
    raters = {row.id: Who(row.id, row.name, row.kind, row.status) for row in session.execute(named)}
    there = [one for one in given if one.item in items and one.rater in raters]
    return Votes(raters, items, _answers(session, project, rated), there, gold)


def _answers(session: Session, project: Project, rated: Any) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = defaultdict(list)
    there = Response.__table__.c
    columns = (there.item_id, there.id, there.place, there.source, there.checkpoint_id, raw.text_of(session)(there.style), there.finish)
    query = select(*columns).where(there.item_id.in_(rated)).order_by(there.item_id, there.place)
    for item, one, place, source, checkpoint, style, finish in session.execute(query).yield_per(10_000):
        if finish != "edited":
            found = orjson.loads(style).get
            answers[item].append(
                Answer(one, place, source, checkpoint, found("words", 0), found("headers", 0), found("lists", 0), found("bold", 0))
            )
    return answers


def as_rated(session: Session, project: Project, votes: Votes) -> list[Given]:
    """The votes, with what adjudicators had said as raters of the same item in place of what they decided.

    A decision replaces the vote of who makes it. Were these votes gone, two raters whose every dispute one of them settled would look as if
    they had always agreed.
    """
    decided = {(one.item, one.rater) for one in votes.given if one.kind == "adjudicate"}
    if not decided:
        return [one for one in votes.given if one.kind == "rate"]
    items = sorted({item for item, _ in decided})
    columns = (
        Event.id,
        Event.item_id,
        Event.k,
        Event.rater_id,
        Event.kind,
        Event.answer,
        Event.order,
        Event.active_ms,
        Event.is_extra,
        Event.at,
    )
    before: dict[tuple[str, str], Any] = {}
    for start in range(0, len(items), 500):
        some = items[start : start + 500]
        query = select(*columns).where(Event.item_id.in_(some), Event.kind.in_(("rate", "skip", "flag", "undo")))
        repeats = select(Slot.item_id, Slot.k).where(Slot.item_id.in_(some), Slot.round > 0)
        again = {(item, k) for item, k in session.execute(repeats)}
        rows = [
            row
            for row in session.execute(query.order_by(Event.id))
            if (row.item_id, row.rater_id) in decided and (row.item_id, row.k) not in again
        ]
        undone = {row.answer.get("undone") for row in rows if row.kind == "undo"}
        for row in rows:
            if row.kind != "undo" and row.id not in undone:
                before[row.item_id, row.rater_id] = row
    old = [_given(votes, row) for row in before.values() if row.kind == "rate"]
    return sorted([one for one in votes.given if one.kind == "rate"] + old, key=lambda one: one.at)


def _given(votes: Votes, row: Any) -> Given:
    places = {answer.id: answer.place for answer in votes.answers.get(row.item_id, [])}
    said = row.answer
    left = places.get(row.order[0]) if row.order and said.get("preference") is not None else None
    values = (said.get("preference"), said.get("quality"), said.get("score"), said.get("ranking"))
    return Given(row.item_id, row.rater_id, 0, "rate", *values, left, row.active_ms, row.is_extra, row.at)


def pairs_of(ranking: list[list[str]], answers: list[Answer]) -> Iterator[tuple[Answer, Answer, int]]:
    """A ranking as pairs in the order of places, with -1 where the first is better, 1 where the second is, and 0 for a tie."""
    rank = {response: place for place, tied in enumerate(ranking) for response in tied}
    there = [answer for answer in answers if answer.id in rank]
    for index, first in enumerate(there):
        for second in there[index + 1 :]:
            gap = rank[first.id] - rank[second.id]
            yield first, second, (gap > 0) - (gap < 0)
