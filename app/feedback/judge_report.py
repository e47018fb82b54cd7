"""How far a judge agrees with people, next to how far people agree with each other; its flips, its leanings, and what to be wary of.

A judge is held against the votes of people and changes none of them. Items with an answer by the judge's own checkpoint stay out of every
figure of agreement: there it would judge itself.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.checkpoints.tables import Checkpoint
from app.feedback import answers, items, judge_sentences, kept, quality, quality_raters, votes_read
from app.feedback.quality import GRADES, RESAMPLES, name_of
from app.feedback.quality_raters import Unit
from app.feedback.tables import Item, Project, Snapshot
from app.feedback.tables_judges import Judge, Judgement
from app.feedback.votes_read import Given, Votes
from app.runs.tables import Run

if TYPE_CHECKING:
    from app.feedback.agreement import Agreement
    from app.feedback.biases import Gold
    from app.feedback.intervals import Estimate

MOST_COMPARED = 1000
"""Single answers whose order is compared, two by two; of more a random part."""
JUDGE, PEOPLE = "judge", "people"


@dataclass(frozen=True)
class Compared:
    """A figure of the judge, and the same of people where there is one."""

    key: str
    title: str
    scale: str
    """raw: a share; chance: corrected for what chance gives."""
    judge: Estimate
    people: Estimate | None
    words: str


@dataclass(frozen=True)
class JudgeReport:
    """What may be said of a judge."""

    judged: int
    rated: int
    """Judged items that people rated, without those it answered itself."""
    own: int
    """Judged items with an answer by its own checkpoint."""
    problems: list[tuple[str, int]]
    """Why it could not judge items, and how many each."""
    figures: list[Compared]
    flips: Estimate
    """Share of questions that the two orders answer differently."""
    firsts: Estimate
    """How often it takes the answer that stands first; one half of an even-handed judge, since each stands first once."""
    ties: Estimate
    longer: Compared | None
    own_taken: Compared | None
    """How often its own answer is taken, of pairs with one."""
    gold: Gold
    mass: float | None
    trained_here: bool
    """Its checkpoint was trained on votes of this project."""
    sentence: str
    warnings: list[str]


class _Said(NamedTuple):
    item: str
    preference: int | None
    score: float | None
    ranking: list[list[str]] | None
    lean: float | None
    questions: int
    flips: int
    firsts: int
    mass: float | None
    own: bool
    problem: str | None


def report(session: Session, project: Project, judge: Judge) -> JudgeReport:
    """What may be said of a judge. Kept while neither votes nor verdicts come."""
    found: JudgeReport = kept.kept(("judge", judge.id, judge.done), project.seq, lambda: reckon(session, project, judge))
    return found


def reckon(session: Session, project: Project, judge: Judge) -> JudgeReport:
    """The report anew from all votes and verdicts."""
    said = _read(session, judge)
    votes = votes_read.read(session, project)
    raters = {rater.id for rater in votes.raters.values() if rater.is_person and rater.status != "removed"}
    heard = [one for one in votes_read.as_rated(session, project, votes) if one.rater in raters]
    of_people = quality_raters.units(project, votes, heard)
    by_unit: dict[Any, list[int]] = defaultdict(list)
    for unit, _, value in of_people:
        by_unit[unit].append(value)
    there = [one for one in said if one.item in votes.items and votes.items[one.item].counts and one.problem is None]
    others = {one.item for one in there if not one.own}
    of_judge = quality_raters.units(project, votes, [_given(one) for one in there if not one.own])
    of_people_too = [unit for unit in of_judge if unit[0] in by_unit]
    voted = {name_of(unit) for unit in by_unit}
    masses = [one.mass for one in said if one.mass is not None]
    figures = _figures(session, project, of_people_too, by_unit)
    if project.kind == "single":
        figures.append(_order(project, [one for one in there if one.item in voted and not one.own], by_unit))
    made = JudgeReport(
        judged=len(said),
        rated=len(others & voted),
        own=sum(one.own for one in said),
        problems=Counter(one.problem for one in said if one.problem).most_common(),
        figures=figures,
        flips=_share([(one.flips, one.questions) for one in said]),
        firsts=_share([(one.firsts, 2 * one.questions) for one in said]),
        ties=_share([(one.preference == 0, one.preference is not None) for one in said]),
        longer=_longer(session, project, votes, there) if project.kind == "pair" else None,
        own_taken=_own_taken(project, judge, votes, there, by_unit) if project.kind == "pair" else None,
        gold=_gold(session, project, judge),
        mass=sum(masses) / len(masses) if masses else None,
        trained_here=_trained_here(session, project, judge),
        sentence="",
        warnings=[],
    )
    return judge_sentences.worded(made, project.kind)


def _read(session: Session, judge: Judge) -> list[_Said]:
    names = ("item_id", "preference", "score", "ranking", "lean", "questions", "flips", "firsts", "mass", "is_own", "problem")
    query = select(*(getattr(Judgement, name) for name in names)).where(Judgement.judge_id == judge.id).order_by(Judgement.item_id)
    return [_Said._make(row) for row in session.execute(query)]


def _given(one: _Said) -> Given:
    return Given(one.item, JUDGE, 0, "rate", one.preference, None, one.score, one.ranking, None, None, False, 0.0)


def _share(parts: Sequence[tuple[float, float]]) -> Estimate:
    """A share whose observations come by item."""
    import numpy as np

    from app.feedback.intervals import ratio_over_clusters, wilson

    used = [(hits, of) for hits, of in parts if of]
    if all(of == 1 for _, of in used):
        return wilson(round(sum(hits for hits, _ in used)), len(used))
    hits, all_ = (np.array([pair[column] for pair in used], dtype=np.float64) for column in (0, 1))
    return ratio_over_clusters(hits, all_, resamples=RESAMPLES)


def _by_item(hits: Sequence[tuple[Any, bool]]) -> Estimate:
    """A share of observations that belong to items: the pairs of one ranking go together."""
    heaps: dict[str, list[bool]] = defaultdict(list)
    for unit, hit in hits:
        heaps[name_of(unit)].append(hit)
    return _share([(sum(heap), len(heap)) for heap in heaps.values()])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _majority(values: Sequence[int]) -> int | None:
    """The side most votes take; None where two are equally common."""
    top = Counter(map(_sign, values)).most_common(2)
    return None if len(top) > 1 and top[0][1] == top[1][1] else top[0][0]


# --- agreement ------------------------------------------------------------------------------------------------------------


def _figures(session: Session, project: Project, of_judge: list[Unit], by_unit: dict[Any, list[int]]) -> list[Compared]:
    """With most people, with one person, and corrected for chance; each next to what people have among each other."""
    if not of_judge:
        return []
    from app.feedback import agreement

    people = {figure.key: figure.estimate for figure in quality.report(session, project).figures}
    most = [(unit, _sign(value), _majority(by_unit[unit])) for unit, _, value in of_judge]
    with_most = [(unit, own == side) for unit, own, side in most if own and side]
    with_one = [(unit, _sign(value) == _sign(other)) for unit, _, value in of_judge for other in by_unit[unit] if value and other]
    side = {"pair": "side", "rank": "order"}.get(project.kind, "judgement")
    found = [
        Compared("most", f"Same {side} as most people", "raw", _by_item(with_most), None, "Where both take a side. 50 % is guessing."),
        Compared(
            "one",
            f"Same {side} as one person",
            "raw",
            _by_item(with_one),
            people.get("decisive") or people.get("raw"),
            "The judge with each person, next to two people with each other: the two can be compared.",
        ),
    ]
    kinds = (-1, 1) if project.scale == "thumbs" else (-1, 0, 1)
    two = [pair for unit, own, side in most if side is not None for pair in ((unit, JUDGE, own), (unit, PEOPLE, side))]
    ac1 = agreement.gwet_ac1(two, kinds, resamples=RESAMPLES)
    words = "With most people, a tie being a side of its own; 0 is chance."
    found.append(Compared("ac1", f"Gwet’s AC1, by {side}", "chance", _plain(project, ac1), people.get("ac1"), words))
    if project.scale in ("graded", "five"):
        grades = list(GRADES[project.scale])
        typical = agreement.combine((unit, str(n), value) for unit, _, _ in of_judge for n, value in enumerate(by_unit[unit]))
        kappa = agreement.weighted_kappa(
            [value for _, _, value in of_judge], [round(typical[unit].overall) for unit, _, _ in of_judge], grades
        )
        words = "With the middle vote of people; a near miss costs less than opposite grades."
        found.append(Compared("kappa", "Weighted kappa, by grade", "chance", kappa, None, words))
    return found


def _plain(project: Project, estimate: Agreement) -> Estimate:
    """By items rather than votes, and without the interval where units go together, as the pairs of a ranking do."""
    from app.feedback.intervals import Estimate as Made

    bounds = (None, None) if project.kind == "rank" else (estimate.low, estimate.high)
    return Made(estimate.value, *bounds, estimate.items)


def _order(project: Project, there: Sequence[_Said], by_unit: dict[Any, list[int]]) -> Compared:
    """Of two answers that people rated differently, how often the judge puts the same one first; a tie counts half."""
    import numpy as np

    from app.feedback.intervals import Array, Estimate, cluster_bootstrap

    used = [one for one in there if one.lean is not None]
    used = random.Random(0).sample(used, MOST_COMPARED) if len(used) > MOST_COMPARED else used
    people = np.array([sum(by_unit[one.item]) / len(by_unit[one.item]) for one in used])
    own = np.array([one.lean for one in used], dtype=np.float64)
    apart = np.sign(people[:, None] - people[None, :])
    hits = (apart != 0) * (1 + apart * np.sign(own[:, None] - own[None, :])) / 2
    differ = (apart != 0).astype(np.float64)

    def share(drawn: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(((drawn @ hits) * drawn).sum(axis=1) / ((drawn @ differ) * drawn).sum(axis=1), dtype=np.float64)

    value = float(hits.sum() / differ.sum()) if differ.any() else None
    low, high = cluster_bootstrap(share, np.ones(len(used), dtype=np.int64), resamples=RESAMPLES) if value is not None else (None, None)
    words = "Of two answers that people rated differently, how often the judge puts the same one higher. 50 % is guessing."
    return Compared("order", "Same order of two answers", "raw", Estimate(value, low, high, len(used)), None, words)


# --- what pulls it --------------------------------------------------------------------------------------------------------


def _longer(session: Session, project: Project, votes: Votes, there: Sequence[_Said]) -> Compared:
    """How often the longer answer wins: of the judge, on items people rated, and of people."""
    from app.feedback import biases

    rows = []
    for one in there:
        two = votes.answers.get(one.item, [])
        if len(two) > 1 and one.preference is not None:
            won = 0.5 if one.preference == 0 else float((one.preference < 0) == (project.direction == "better"))
            rows.append((two[0].words, two[1].words, won, votes.items[one.item].prompt_hash))
    people = quality.report(session, project).length.longer_wins
    words = "How often the longer answer wins. It may win because it is better."
    return Compared("longer", "The longer answer wins", "raw", biases.length_bias(rows).longer_wins, people, words)


def _own_taken(project: Project, judge: Judge, votes: Votes, there: Sequence[_Said], by_unit: dict[Any, list[int]]) -> Compared | None:
    """How often the judge's own answer is preferred to that of another, by itself and by most people on the same items."""
    from app.feedback.intervals import wilson

    turn = -1 if project.direction == "worse" else 1
    mine, theirs = [], []
    for one in there:
        two = votes.answers.get(one.item, [])[:2]
        own = [answer.checkpoint_id == judge.checkpoint_id for answer in two]
        if not one.own or sum(own) != 1:
            continue
        towards = turn if own[1] else -turn
        if one.preference:
            mine.append(_sign(one.preference) == towards)
        if side := _majority(by_unit.get(one.item, [0])):
            theirs.append(side == towards)
    if not mine and not theirs:
        return None
    words = "On items where it answered itself; these are in no figure of agreement."
    return Compared("own", "Its own answer wins", "raw", wilson(sum(mine), len(mine)), wilson(sum(theirs), len(theirs)), words)


def _gold(session: Session, project: Project, judge: Judge) -> Gold:
    """How often it is right where the answer is known."""
    from app.feedback import biases

    query = select(Judgement, Item.gold).join(Item, Item.id == Judgement.item_id)
    found = session.execute(query.where(Judgement.judge_id == judge.id, Item.role == "gold", Item.status == "open")).all()
    known = [(one, gold) for one, gold in found if gold and (one.preference is not None or one.score is not None or one.ranking)]
    there = items.responses(session, [one.item_id for one, _ in known])
    right = [
        answers.is_right(
            project, gold, {"preference": one.preference, "score": one.score, "ranking": one.ranking}, there.get(one.item_id, [])
        )
        for one, gold in known
    ]
    return biases.gold_accuracy(sum(right), len(right), project.gate_accuracy, project.gate_items)


def _trained_here(session: Session, project: Project, judge: Judge) -> bool:
    """Whether its checkpoint comes of a run on a dataset that was made from votes of this project."""
    query = (
        select(Snapshot.id)
        .join(Run, Run.dataset_id == Snapshot.dataset_id)
        .join(Checkpoint, Checkpoint.run_id == Run.id)
        .where(Checkpoint.id == judge.checkpoint_id, Snapshot.project_id == project.id)
    )
    return session.scalars(query.limit(1)).first() is not None


def report_out(found: JudgeReport) -> dict[str, Any]:
    """The report as REST answers it."""
    return {**asdict(found), "problems": [{"words": words, "items": count} for words, count in found.problems]}
