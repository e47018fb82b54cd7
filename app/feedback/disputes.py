"""Rankings that contradict each other: which items they leave open, why, and the order that lies in the middle. Reads, decides nothing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from math import comb

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.feedback import kept, orders
from app.feedback.tables import Item, Project, Rater, Rating

Tiers = Sequence[Sequence[str]]
"""Ids of responses, best first, those of equal rank in one list."""
NO_FIRST = "Split: no answer is the best for most"
CIRCLE = "The rankings go round in a circle: no order fits what most say of each two"
OPPOSED = "Split: most pairs of answers are put one way as often as the other"


def of_rankings(session: Session, project: Project) -> dict[str, str]:
    """Items whose rankings settle nothing, those that disagree most first, with why; decisions are not looked at."""
    found: dict[str, str] = kept.kept(("disputed rankings", project.id), project.seq, lambda: _reckon(session, project))
    return found


def _reckon(session: Session, project: Project) -> dict[str, str]:
    said: dict[str, list[Tiers]] = defaultdict(list)
    query = (
        select(Rating.item_id, Rating.ranking)
        .join(Rater, Rater.id == Rating.rater_id)
        .join(Item, Item.id == Rating.item_id)
        .where(Rating.project_id == project.id, Rating.kind == "rate", Rating.round == 0, Item.role == "normal", Item.status == "open")
        .where(Rater.kind == "person", Rater.status != "removed")
    )
    for item_id, tiers in session.execute(query).yield_per(5000):
        if tiers:
            said[item_id].append(tiers)
    disputed = []
    for item_id, rankings in said.items():
        if len(rankings) > 1:
            why, share = judge(rankings)
            if why:
                disputed.append((-share, item_id, why))
    return {item_id: why for _, item_id, why in sorted(disputed)}


def judge(rankings: Sequence[Tiers]) -> tuple[str, float]:
    """Why rankings of one item settle nothing (empty when they do), and which share of the raters' pairwise judgements is opposed."""
    firsts = Counter(one for tiers in rankings for one in tiers[0])
    ways: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for tiers in rankings:
        placed = sorted((one, rank) for rank, tied in enumerate(tiers) for one in tied)
        for (one, rank), (other, other_rank) in combinations(placed, 2):
            if rank != other_rank:
                ways[one, other][rank > other_rank] += 1
    opposed, all_ = sum(a * b for a, b in ways.values()), sum(comb(a + b, 2) for a, b in ways.values())
    share = opposed / all_ if all_ else 0.0
    if 2 * max(firsts.values()) <= len(rankings):
        return NO_FIRST, share
    wins = [(one, other) if a > b else (other, one) for (one, other), (a, b) in ways.items() if a != b]
    if orders.tiers(set(firsts) | {one for pair in ways for one in pair}, wins) is None:
        return CIRCLE, share
    even = sum(a == b for a, b in ways.values())
    return (OPPOSED, share) if 2 * even > len(ways) else ("", share)


def middle(rankings: Sequence[Tiers]) -> dict[str, int]:
    """Each response's rank, from 1, by its mean place in the rankings; equal means are tied."""
    places: dict[str, list[float]] = defaultdict(list)
    for tiers in rankings:
        before = 0
        for tied in tiers:
            for one in tied:
                places[one].append(before + (len(tied) - 1) / 2)
            before += len(tied)
    means = {one: round(sum(there) / len(there), 6) for one, there in places.items()}
    order = sorted(set(means.values()))
    return {one: order.index(mean) + 1 for one, mean in means.items()}
