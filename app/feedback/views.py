"""What the owner's pages show of a project, gathered: how far it is, who rates, what an item got. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.database import now
from app.feedback import generation, raters
from app.feedback.schemas import FILTERS, FLAG_REASONS, SKIP_REASONS
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response, Slot

DEPTH_AT_ONCE = 30_000
"""Ratings wanted, up to which the page counts items by depth at once; with more it asks for that once it is shown."""
STATUSES = {
    "open": "can be rated",
    "filtered": "cannot be rated",
    "flagged": "flagged by a rater",
    "removed": "removed",
    "gold": "hidden among the others, their answer is known",
    "practice": "for the practice round",
}
"""What the states of an item, and the roles of those with a known answer, mean."""
_GRADES = {1: "slightly better", 2: "better", 3: "much better"}


@dataclass(frozen=True)
class Progress:
    """How far a project is, in ratings."""

    wanted: int
    done: int
    leased: int
    extras: int

    @property
    def open(self) -> int:
        """Ratings that nobody works on."""
        return max(0, self.wanted - self.done - self.leased)

    @property
    def share(self) -> float:
        """Which share is done."""
        return min(1.0, self.done / self.wanted) if self.wanted else 0.0


@dataclass(frozen=True)
class Depth:
    """Items that have so many of the ratings they need."""

    ratings: int
    of: int
    items: int


def progress(session: Session, project: Project) -> Progress:
    """Slots that are open, leased and done; from the counters, and the leases that live."""
    return Progress(project.slots, project.done, leased(session, project), project.extras)


def leased(session: Session, project: Project) -> int:
    """Ratings somebody is at right now."""
    mine = select(Rater.id).where(Rater.project_id == project.id)
    query = select(func.count()).select_from(Slot).where(Slot.rater_id.in_(mine), Slot.lease_until > now(), Slot.done_at.is_(None))
    return int(session.scalar(query) or 0)


def depth(session: Session, project: Project) -> list[Depth]:
    """Items by how many of their wanted ratings they have; swapped repeats do not count."""
    each = (
        select(func.count(Slot.done_at).label("done"), func.count().label("of"))
        .join(Item, Item.id == Slot.item_id)
        .where(Slot.project_id == project.id, Slot.round == 0, Item.role == "normal", Item.status.in_(("open", "flagged")))
        .group_by(Slot.item_id)
        .subquery()
    )
    query = select(each.c.done, each.c.of, func.count()).group_by(each.c.done, each.c.of).order_by(each.c.of.desc(), each.c.done)
    return [Depth(done, of, items) for done, of, items in session.execute(query)]


def filtered(session: Session, project: Project) -> list[tuple[str, int]]:
    """Why items were filtered, in words, and how many each."""
    query = select(Item.reason, func.count()).where(Item.project_id == project.id, Item.status == "filtered").group_by(Item.reason)
    return [(FILTERS.get(reason or "", reason or "for a reason that was not kept"), count) for reason, count in session.execute(query)]


def rater_counts(session: Session, projects: Sequence[Project]) -> dict[str, int]:
    """How many people rate in each project."""
    query = select(Rater.project_id, func.count()).where(Rater.project_id.in_([each.id for each in projects]), Rater.kind == "person")
    return {project_id: count for project_id, count in session.execute(query.where(Rater.status != "removed").group_by(Rater.project_id))}


def overview(session: Session, project: Project, *, deep: bool = False) -> dict[str, Any]:
    """What the overview shows, and its live fragment."""
    return {
        "project": project,
        "progress": progress(session, project),
        "depth": depth(session, project) if deep or project.slots <= DEPTH_AT_ONCE else None,
        "filtered": filtered(session, project) if project.filtered else [],
        "generation": generation.progress(session, project),
        "raters": sorted(raters.listed(session, project), key=lambda each: (each.status == "removed", -each.done, each.name))[:20],
    }


OUT = "not-acceptable"
"""Label of the answers of a ranking below its cut line; no extra question can have a key with a hyphen."""


# --- one item -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What one rater said of an item, in words."""

    rater: Rater
    rating: Rating
    words: str
    reason: str
    labels: list[tuple[str, str]]
    """Answers to the extra questions: title of the question, what was said."""


def said(session: Session, project: Project, item: Item, answers: Sequence[Response]) -> list[Said]:
    """Every vote on an item, the first one first."""
    query = select(Rating, Rater, Event).join(Rater, Rater.id == Rating.rater_id).outerjoin(Event, Event.id == Rating.event_id)
    found = session.execute(query.where(Rating.item_id == item.id).order_by(Rating.at, Rating.rater_id, Rating.round)).all()
    return [
        Said(
            rater,
            rating,
            words_of(project, rating, answers),
            _reason(rating, getattr(event, "answer", None) or {}),
            labels_of(project, rating.labels or {}, {each.id: f"answer {number}" for number, each in enumerate(answers, 1)}),
        )
        for rating, rater, event in found
    ]


def labels_of(project: Project, labels: dict[str, Any], called: Mapping[str, str]) -> list[tuple[str, str]]:
    """Answers to the extra questions in words; where each answer has its own, they are told by what it is called.

    Args:
        called: what people call each answer, by its id.
    """
    titles = {criterion["key"]: criterion["title"] for criterion in project.criteria} | {OUT: "Not acceptable"}
    found = []
    for key, value in labels.items():
        each = value if isinstance(value, dict) else None
        words = ", ".join(called.get(one, "?") + ("" if key == OUT else f" {told}") for one, told in each.items()) if each else str(value)
        found.append((titles.get(key, key), words))
    return found


def _reason(rating: Rating, answer: dict[str, Any]) -> str:
    given = str(answer.get("reason") or "")
    return {**SKIP_REASONS, **FLAG_REASONS}.get(given, given) if rating.kind in ("skip", "flag") else ""


def words_of(project: Project, rating: Rating, answers: Sequence[Response]) -> str:
    """A vote as a sentence; answers have the numbers of the page, not the sides they were shown on."""
    if rating.kind == "skip":
        return "Skipped"
    if rating.kind == "flag":
        return "Flagged"
    if rating.quality in ("both_good", "both_bad"):
        return "Both good" if rating.quality == "both_good" else "Both bad"
    if rating.preference is not None:
        if rating.preference == 0:
            return "About the same"
        grade = _GRADES[abs(rating.preference)]
        if project.direction == "worse":
            grade = grade.replace("better", "worse")
        return f"Answer {1 if rating.preference < 0 else 2} {grade}"
    if rating.score is not None:
        return ("Good" if rating.score else "Bad") if project.scale == "thumbs" else f"{rating.score:g} of 5"
    if rating.ranking:
        places = {each.id: str(each.place + 1) for each in answers}
        return "Order: " + " > ".join(" = ".join(places.get(one, "?") for one in tied) for tied in rating.ranking)
    return "–"


def given(session: Session, item_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Ratings an item has and needs, by its id."""
    query = select(Slot.item_id, func.count(Slot.done_at), func.count()).where(Slot.item_id.in_(item_ids), Slot.round == 0)
    return {item_id: (done, wanted) for item_id, done, wanted in session.execute(query.group_by(Slot.item_id))}


def excerpt(item: Item) -> str:
    """What was asked last."""
    last = next((str(message.get("content") or "") for message in reversed(item.prompt) if message.get("role") == "user"), "")
    return last or str(item.prompt[-1].get("content") or "") if item.prompt else ""
