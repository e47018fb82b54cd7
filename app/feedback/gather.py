"""Reads a project's items with the votes that count, piece by piece. Decides nothing about rows and writes nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.feedback.rows import Answer, Judged, Said
from app.feedback.rules import Rules
from app.feedback.tables import Event, Item, Project, Rater, Rating, Response

BATCH = 1000
"""Items read at once."""
VOTES = ("rate", "adjudicate")


@dataclass
class Tally:
    """What is counted while items are read."""

    votes: int = 0
    extras: int = 0
    raters: set[str] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    """Items that never come to be looked at, by reason."""
    votes_out: Counter[str] = field(default_factory=Counter)
    left: int = 0
    """Votes for the answer on the left."""
    decided: int = 0
    """Votes that took a side, where it is known which answer was on the left."""
    values: list[tuple[str, str, float]] = field(default_factory=list)
    """(item, rater, value) of pairs with several votes."""


def last_event(session: Session, project: Project) -> str:
    """Id of the newest event of a project; empty when there is none."""
    return session.scalar(select(func.max(Event.id)).where(Event.project_id == project.id)) or ""


def judged(session: Session, project: Project, rules: Rules, up_to: str, tally: Tally) -> Iterator[Judged]:
    """Items with at least one vote that counts, in the order of their ids; the tally fills meanwhile.

    Never among them: gold and practice items, those filtered, flagged or removed, second votes on repeated items, votes of raters who were
    removed or are left out, and what came after the event `up_to`. Votes that came late count like all others. Where somebody adjudicated,
    that vote alone stands.
    """
    counted = select(Item.role, Item.status, func.count()).where(Item.project_id == project.id).group_by(Item.role, Item.status)
    for role, status, count in session.execute(counted):
        if role != "normal" or status != "open":
            tally.dropped[role if role != "normal" else status] += count
    raters = {
        row.id: row for row in session.execute(select(Rater.id, Rater.kind, Rater.status, Rater.name).where(Rater.project_id == project.id))
    }
    not_heard = {row.name for row in raters.values() if row.status == "removed" or row.id in rules.without}
    last = ""
    wanted = select(Item.id).where(Item.project_id == project.id, Item.role == "normal", Item.status == "open").order_by(Item.id)
    while ids := list(session.scalars(wanted.where(Item.id > last).limit(BATCH))):
        last = ids[-1]
        votes = _votes(session, ids, rules, up_to, raters, tally)
        tally.dropped["unrated"] += len(ids) - len(votes)
        if votes:
            yield from _items(session, votes, not_heard)


def _votes(session: Session, ids: list[str], rules: Rules, up_to: str, raters: dict[str, Any], tally: Tally) -> dict[str, list[Said]]:
    columns = (
        Rating.item_id,
        Rating.rater_id,
        Rating.round,
        Rating.kind,
        Rating.preference,
        Rating.quality,
        Rating.score,
        Rating.ranking,
        Rating.left,
        Rating.is_extra,
    )
    query = select(*columns).where(Rating.item_id.in_(ids)).order_by(Rating.item_id, Rating.at, Rating.rater_id)
    if up_to:
        query = query.where(Rating.event_id <= up_to)
    found: dict[str, list[Any]] = defaultdict(list)
    for row in session.execute(query):
        why = _why_not(row, raters.get(row.rater_id), rules)
        if why:
            tally.votes_out[why] += 1
        else:
            found[row.item_id].append(row)
    return {item_id: _said(item_id, rows, tally) for item_id, rows in found.items()}


def _why_not(row: Any, rater: Any, rules: Rules) -> str | None:
    if row.round:
        return "repeat"
    if row.kind not in VOTES:
        return row.kind if row.kind in ("skip", "flag") else "other"
    if row.preference is None and row.score is None and not row.ranking:
        return "other"
    if rater is None or rater.status == "removed":
        return "removed"
    if rater.id in rules.without:
        return "rater"
    return "automatic" if rater.kind != "person" and not rules.automatic else None


def _said(item_id: str, rows: list[Any], tally: Tally) -> list[Said]:
    for row in rows:
        if row.preference and row.left is not None:
            tally.decided += 1
            tally.left += (row.preference < 0) == (row.left == 0)
        if len(rows) > 1 and row.preference is not None:
            tally.values.append((item_id, row.rater_id, float(row.preference)))
    final = [row for row in rows if row.kind == "adjudicate"][-1:] or rows
    tally.votes += len(final)
    tally.extras += sum(bool(row.is_extra) for row in final)
    tally.raters.update(row.rater_id for row in final)
    return [Said(row.rater_id, row.preference, row.quality, row.score, row.ranking) for row in final]


def _items(session: Session, votes: dict[str, list[Said]], not_heard: set[str]) -> Iterator[Judged]:
    """Items with their answers, without those that raters who are not heard wrote."""
    answers: dict[str, list[Answer]] = defaultdict(list)
    columns = (
        Response.item_id,
        Response.id,
        Response.text,
        Response.source,
        Response.checkpoint_id,
        Response.finish,
        Response.tokens,
    )
    for row in session.execute(select(*columns).where(Response.item_id.in_(list(votes))).order_by(Response.item_id, Response.place)):
        if row.finish == "edited" and row.source in not_heard:
            continue
        answers[row.item_id].append(Answer(row.id, row.text, row.source, row.checkpoint_id, row.finish, row.tokens))
    query = select(Item.id, Item.prompt, Item.prompt_hash).where(Item.id.in_(list(votes))).order_by(Item.id)
    for item_id, prompt, prompt_hash in session.execute(query):
        messages = [{"role": str(each.get("role", "")), "content": str(each.get("content", ""))} for each in prompt]
        yield Judged(item_id, messages, prompt_hash, answers[item_id], votes[item_id])
