"""Which checkpoint people prefer: Bradley-Terry over pairs, and rankings turned into pairs, with what cannot be said yet."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.checkpoints.tables import Checkpoint
from app.feedback import kept, votes_read
from app.feedback.tables import Project
from app.feedback.votes_read import Answer, Given, Votes, pairs_of

if TYPE_CHECKING:
    from app.feedback.intervals import Estimate
    from app.feedback.ranking import Cell, Comparison, Effect, Outcome, Precision, Ranking

CLOSE = 10.0
"""Elo points: a smaller distance between the first two is not worth the votes it would take to see it."""
MOST_CELLS = 25_000_000
"""Size of what the adjusted fit holds; with more votes a random part of them is used, and the page says so."""
FEATURES = {"length": "Longer", "headers": "More headings", "lists": "More list entries", "bold": "More bold text"}


class Battle(NamedTuple):
    """One vote between answers of two models."""

    a: Answer
    b: Answer
    outcome: Outcome
    prompt: str


@dataclass(frozen=True)
class Entry:
    """One model of the board."""

    key: str
    """Id of the checkpoint, or the name an import gives."""
    name: str
    checkpoint_id: str | None
    rating: Estimate
    """Elo points above the anchor; the value is None where no chain of votes leads there."""
    win_probability: float | None
    bounded: bool
    best_rank: int | None
    worst_rank: int | None
    is_anchor: bool


@dataclass(frozen=True)
class Leaderboard:
    """Models from the best to the worst, and how sure that is."""

    kind: str
    adjusted: bool
    entries: list[Entry]
    components: list[list[str]]
    """Groups of keys that no vote joins; more than one cannot be compared."""
    cells: dict[tuple[str, str], Cell]
    effects: list[Effect]
    precision: Precision | None
    sentence: str
    votes: int
    prompts: int
    same: int
    """Votes on two answers of one model, which say nothing about models."""
    sampled: int | None
    """Votes the adjusted fit used, where not all."""

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest bound, for a scale."""
        bounds = [
            bound for each in self.entries for bound in (each.rating.low, each.rating.high, each.rating.value) if bound is not None
        ] or [0.0]
        return min(bounds), max(bounds)


def board(session: Session, project: Project, *, adjusted: bool = False) -> Leaderboard:
    """The leaderboard of a project; with `adjusted` at equal length and markup. Kept while nothing changes."""
    found: Leaderboard = kept.kept(("board", project.id, adjusted), project.seq, lambda: reckon(session, project, adjusted=adjusted))
    return _named(session, found)


def _named(session: Session, found: Leaderboard) -> Leaderboard:
    """With the names checkpoints have now, which change without a vote."""
    names = _checkpoints(session, [each.checkpoint_id for each in found.entries if each.checkpoint_id])
    entries = [replace(each, name=names[each.checkpoint_id][0]) if each.checkpoint_id in names else each for each in found.entries]
    named = {each.key: each.name for each in entries}
    return replace(
        found, entries=entries, sentence=_sentence(found.precision, [named[each.key] for each in entries if each.rating.value is not None])
    )


def _checkpoints(session: Session, ids: list[str]) -> dict[str, tuple[str, str]]:
    """Name and kind of checkpoints by id."""
    query = select(Checkpoint.id, Checkpoint.name, Checkpoint.kind).where(Checkpoint.id.in_(ids))
    return {checkpoint_id: (name, kind) for checkpoint_id, name, kind in session.execute(query)}


def reckon(session: Session, project: Project, *, adjusted: bool) -> Leaderboard:
    """The board anew from all votes."""
    from app.feedback import ranking

    votes = votes_read.read(session, project)
    met = list(battles(project, votes))
    fought = [each for each in met if key_of(each.a) != key_of(each.b)]
    comparisons = [_comparison(each) for each in fought]
    sources = {key_of(answer): answer for each in fought for answer in (each.a, each.b)}
    names = _checkpoints(session, [answer.checkpoint_id for answer in sources.values() if answer.checkpoint_id])
    anchor = _anchor(comparisons, names)
    effects: tuple[Effect, ...] = ()
    sampled = None
    if adjusted and comparisons:
        rated, effects, sampled = _adjusted(fought, comparisons, anchor, len(sources))
    else:
        rated = ranking.rate(comparisons, anchor=anchor)
    entries = [
        Entry(
            key=each.model,
            name=sources[each.model].source or each.model,
            checkpoint_id=sources[each.model].checkpoint_id,
            rating=each.rating,
            win_probability=each.win_probability,
            bounded=each.bounded,
            best_rank=each.best_rank,
            worst_rank=each.worst_rank,
            is_anchor=each.model == rated.anchor,
        )
        for each in rated.models
    ]
    return Leaderboard(
        kind=project.kind,
        adjusted=adjusted,
        entries=entries,
        components=[list(group) for group in rated.components],
        cells=ranking.matrix((key_of(each.a), key_of(each.b), each.outcome) for each in fought),
        effects=list(effects),
        precision=_precision(rated),
        sentence="",
        votes=len(comparisons),
        prompts=rated.prompts,
        same=len(met) - len(fought),
        sampled=sampled,
    )


def key_of(answer: Answer) -> str:
    """What an answer's model is known by."""
    return answer.checkpoint_id or answer.source or "unnamed"


def battles(project: Project, votes: Votes) -> Iterator[Battle]:
    """The votes of people on ordinary items as battles; where somebody decided, that alone. Second votes on repeated items are left out."""
    decided = {one.item for one in votes.given if one.kind == "adjudicate" and one.says}
    for one in votes.given:
        who, item = votes.raters[one.rater], votes.items[one.item]
        if one.kind != ("adjudicate" if one.item in decided else "rate") or one.round or not item.counts:
            continue
        if not who.is_person or who.status == "removed":
            continue
        yield from _battles(project, one, votes.answers.get(one.item, []), item.prompt_hash)


def _battles(project: Project, one: Given, there: list[Answer], prompt: str) -> Iterator[Battle]:
    turn = -1 if project.direction == "worse" else 1
    if project.kind == "pair" and one.preference is not None and len(there) > 1:
        bad = one.quality == "both_bad"
        yield Battle(there[0], there[1], "both_bad" if bad else _outcome(turn * one.preference), prompt)
    elif project.kind == "rank":
        for first, second, side in pairs_of(one.ranking or [], there):
            yield Battle(first, second, _outcome(turn * side), prompt)


def _outcome(towards_b: int) -> Outcome:
    return "tie" if towards_b == 0 else "b" if towards_b > 0 else "a"


def _comparison(battle: Battle) -> Comparison:
    return key_of(battle.a), key_of(battle.b), {"a": 1.0, "b": 0.0}.get(battle.outcome, 0.5), battle.prompt


def _anchor(comparisons: list[Comparison], names: dict[str, tuple[str, str]]) -> str | None:
    """The base checkpoint with most votes; None where no base takes part."""
    counts: dict[str, int] = {}
    for a, b, _, _ in comparisons:
        for key in (a, b):
            if names.get(key, ("", ""))[1] == "base":
                counts[key] = counts.get(key, 0) + 1
    return max(sorted(counts), key=counts.__getitem__) if counts else None


def _adjusted(
    fought: list[Battle], comparisons: list[Comparison], anchor: str | None, models: int
) -> tuple[Ranking, tuple[Effect, ...], int | None]:
    from app.feedback import biases, ranking

    most = MOST_CELLS // (models + len(FEATURES)) ** 2
    sampled = None
    if len(fought) > most:
        chosen = sorted(random.Random(0).sample(range(len(fought)), most))
        fought, comparisons, sampled = [fought[n] for n in chosen], [comparisons[n] for n in chosen], most
    styles: dict[str, biases.Style] = {}
    for each in fought:
        for answer in (each.a, each.b):
            styles[answer.id] = biases.Style(answer.words, answer.headers, answer.lists, answer.bold)
    differences = [biases.style_difference(styles[each.a.id], styles[each.b.id]) for each in fought]
    held = anchor if any(anchor in (a, b) for a, b, _, _ in comparisons) else None
    rated, effects = ranking.rate_adjusted(comparisons, differences, biases.STYLE_FEATURES, anchor=held)
    return rated, effects, sampled


def _precision(rated: Ranking) -> Precision | None:
    """Whether the first two are told apart, and about how many votes would do it."""
    from app.feedback import ranking

    if sum(each.rating.value is not None for each in rated.models) < 2:
        return None
    gap = ranking.votes_needed(rated).top_two.value
    return ranking.votes_needed(rated, max(CLOSE, abs(gap or 0.0)))


def _sentence(precision: Precision | None, names: list[str]) -> str:
    """What may be said of the first two."""
    if precision is None or precision.top_two.value is None:
        return ""
    gap, low, high = precision.top_two.value, precision.top_two.low, precision.top_two.high
    if low is None or high is None or precision.more_votes is None:
        return "All votes are on one prompt: nothing can be said of others. Rate more prompts."
    lead = f"{names[0]} lies {gap:.0f} Elo points above {names[1]} (95 %: {low:.0f} to {high:.0f})"
    if precision.separated:
        return f"{lead}: better on these prompts, beyond chance."
    lead, more = f"The votes do not suffice to tell the first two apart. {lead}.", precision.more_votes
    if gap >= CLOSE:
        return f"{lead} About {max(1, more):,} more would, if the distance stays."
    if more:
        return f"{lead} About {more:,} more would show a difference of {CLOSE:.0f} points."
    return f"{lead} If they differ, then hardly by more than {max(high, -low):.0f} points."


def board_out(found: Leaderboard) -> dict[str, Any]:
    """The board as REST answers it."""
    made = asdict(found)
    made["cells"] = [{"model": a, "against": b, **asdict(cell)} for (a, b), cell in sorted(found.cells.items())]
    return made
