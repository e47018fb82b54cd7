"""Least certain first: which waiting items a vote would teach most about models, and the queue put in that order. Takes no vote."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, case, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.database import Database
from app.feedback import slots
from app.feedback.slots import WAITING
from app.feedback.tables import Item, Project, Rater, Rating, Response, Slot

if TYPE_CHECKING:
    from app.feedback.choice import Known

EVERY = 20
"""Votes after which the order is drawn anew; with many votes a fiftieth of them, so that a vote costs the same however many there are."""
SHARE = 0.02
POOL = 2000
"""Waiting items that are looked at; of a longer queue a stretch that begins at a drawn place."""
AHEAD = 100
"""Items put first at least; never more than half of those waiting, so that a claim finds others while the rows are written."""
MOST_RANKINGS = 2000
"""Rankings that are read, the newest ones: each is many pairs, and they are kept as JSON."""
MOST_MODELS = 200
FRONT = 1e-6
"""Places in the queue below it are those of items put first; an item's own place is drawn from 0 to 1."""

Group = tuple[str, ...]
"""Models that answered an item."""


def is_due(votes: int, before: int | None) -> bool:
    """Whether enough votes came since the order was drawn when there were `before`; None: it never was."""
    return before is None or abs(votes - before) >= max(EVERY, SHARE * votes)


def reorder(database: Database, project_id: str) -> int:
    """Put those waiting items first that a vote would teach most about; how many were. Votes and claims are hardly ever kept waiting.

    Everything is reckoned while reading; then two short transactions write, and leave rows alone that others hold.
    """
    with database.read() as session:
        project = session.get(Project, project_id)
        if project is None or project.kind == "single":
            return 0
        waiting = _waiting(session, project)
        chosen = _chosen(waiting, _known(session, project, waiting), project.done + project.extras) if len(waiting) > 1 else []
    with database.write() as session:
        restore(session, project_id)
    with database.write() as session:
        _put_first(session, chosen)
    return len(chosen)


def restore(session: Session, project_id: str) -> None:
    """Give waiting items their drawn places in the queue back."""
    moved = (
        select(Slot.item_id, Slot.k, Item.order_key)
        .join(Item, Item.id == Slot.item_id)
        .where(Slot.project_id == project_id, Slot.rank == WAITING, Slot.done_at.is_(None), Slot.order_key < FRONT)
    )
    for item_id, k, order_key in session.execute(moved.with_for_update(skip_locked=True, of=Slot)).all():
        session.execute(
            update(Slot)
            .where(Slot.item_id == item_id, Slot.k == k)
            .values(order_key=order_key)
            .execution_options(synchronize_session=False)
        )


def _put_first(session: Session, chosen: Sequence[str]) -> None:
    place = {item_id: (number + 1) * FRONT / (len(chosen) + 1) for number, item_id in enumerate(chosen)}
    for first in range(0, len(chosen), 500):
        some = chosen[first : first + 500]
        free = select(Slot.item_id, Slot.k).where(Slot.item_id.in_(some), Slot.rank == WAITING, slots.is_free())
        for item_id, k in session.execute(free.with_for_update(skip_locked=True)).all():
            session.execute(
                update(Slot)
                .where(Slot.item_id == item_id, Slot.k == k)
                .values(order_key=place[item_id])
                .execution_options(synchronize_session=False)
            )


def _chosen(waiting: Mapping[str, Group], known: Known, votes: int) -> list[str]:
    """Items to put first, the most telling one first; items of the same models come as they stand in the queue."""
    from app.feedback import choice

    of: dict[Group, list[str]] = defaultdict(list)
    for item_id, group in waiting.items():
        if len(set(group) & set(known.names)) > 1:
            of[group].append(item_id)
    groups = list(of)
    many = min(len(waiting) // 2, max(AHEAD, 2 * int(SHARE * votes)))
    found = choice.most_uncertain(known, groups, many, left=[len(of[group]) for group in groups])
    return [of[groups[each]].pop(0) for each in found]


# --- reading --------------------------------------------------------------------------------------------------------------


def _key(of: type[Response] = Response) -> ColumnElement[str]:
    """What the model of a response is known by, as on the leaderboard."""
    return func.coalesce(of.checkpoint_id, func.nullif(of.source, ""), "unnamed")


def _is_answer(of: type[Response] = Response) -> ColumnElement[bool]:
    return or_(of.finish.is_(None), of.finish != "edited")


def _waiting(session: Session, project: Project) -> dict[str, Group]:
    """Items nobody has begun with the models that answered them, in the order of the queue."""
    queue = select(Slot.item_id, Slot.order_key).where(
        Slot.project_id == project.id, Slot.rank == WAITING, Slot.done_at.is_(None), Slot.rater_id.is_(None)
    )
    queue = queue.order_by(Slot.order_key).limit(POOL)
    start = random.random()
    ids = list(dict.fromkeys(session.scalars(queue.where(Slot.order_key >= start))))
    if len(ids) < POOL:
        ids = list(dict.fromkeys([*session.scalars(queue.where(Slot.order_key < start)), *ids]))[:POOL]
    models: dict[str, list[str]] = {item_id: [] for item_id in ids}
    for first in range(0, len(ids), 500):
        some = ids[first : first + 500]
        open_ = select(Item.id).where(Item.id.in_(some), Item.status == "open")
        query = select(Response.item_id, _key()).where(Response.item_id.in_(open_), _is_answer())
        for item_id, key in session.execute(query):
            models[item_id].append(key)
    return {item_id: tuple(sorted(set(found))) for item_id, found in models.items() if len(set(found)) > 1}


def _known(session: Session, project: Project, waiting: Mapping[str, Group]) -> Known:
    """What the votes say of the models that answered waiting items."""
    from app.feedback import choice

    common = Counter(name for group in waiting.values() for name in group)
    names = [name for name, _ in common.most_common(MOST_MODELS)]
    said = _rankings(session, project) if project.kind == "rank" else _pairs(session, project)
    return choice.known(names, said)


def _heard() -> tuple[ColumnElement[bool], ...]:
    return (Rating.round == 0, Rating.kind.in_(("rate", "adjudicate")), Rater.kind == "person", Rater.status != "removed")


def _pairs(session: Session, project: Project) -> list[tuple[str, str, float, int]]:
    """Votes on pairs by the two models: the sum of the scores of the first, and how many. The database adds them up."""
    one, other = aliased(Response), aliased(Response)
    score = case((Rating.preference < 0, 1.0), (Rating.preference > 0, 0.0), else_=0.5)
    keys = _key(one), _key(other)
    query = (
        select(*keys, func.sum(score), func.count())
        .select_from(Rating)
        .join(Rater, Rater.id == Rating.rater_id)
        .join(Item, Item.id == Rating.item_id)
        .join(one, (one.item_id == Rating.item_id) & (one.place == 0))
        .join(other, (other.item_id == Rating.item_id) & (other.place == 1))
        .where(Rating.project_id == project.id, Item.role == "normal", Rating.preference.is_not(None), *_heard())
        .group_by(*keys)
    )
    turned = project.direction == "worse"
    return [(a, b, n - won if turned else won, n) for a, b, won, n in session.execute(query) if a != b]


def _rankings(session: Session, project: Project) -> list[tuple[str, str, float, int]]:
    """The newest rankings as pairs."""
    query = (
        select(Rating.item_id, Rating.ranking).join(Rater, Rater.id == Rating.rater_id).where(Rating.project_id == project.id, *_heard())
    )
    said = [(item_id, tiers) for item_id, tiers in session.execute(query.order_by(Rating.at.desc()).limit(MOST_RANKINGS)) if tiers]
    ids = list({item_id for item_id, _ in said})
    model: dict[str, str] = {}
    for first in range(0, len(ids), 500):
        model |= dict(session.execute(select(Response.id, _key()).where(Response.item_id.in_(ids[first : first + 500]))).all())
    return list(_as_pairs(([model[one] for one in tied if one in model] for tied in tiers) for _, tiers in said))


def _as_pairs(rankings: Iterable[Iterable[list[str]]]) -> Iterable[tuple[str, str, float, int]]:
    for tiers in rankings:
        placed = [(name, rank) for rank, tied in enumerate(tiers) for name in tied]
        for (a, above), (b, below) in combinations(placed, 2):
            if a != b:
                yield a, b, 0.5 if above == below else 1.0, 1
