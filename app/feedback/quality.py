"""What may be concluded from the votes of a project: agreement with intervals and counts, biases, raters, days. Changes nothing."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from app.feedback import kept, quality_raters, verdicts, votes_read
from app.feedback.quality_raters import Heap, Line, Unit
from app.feedback.tables import Project
from app.feedback.votes_read import Given, Votes, Who

if TYPE_CHECKING:
    from app.feedback.biases import Gold, LengthBias, Pace, PositionBias, SwapRepeats
    from app.feedback.intervals import Estimate

RESAMPLES = 500
LEAST_SHARED = 10
"""Items two raters share before their kappa is shown."""
MOST_PAIRS = 60
"""Pairs of raters shown, those with most items in common."""
GRADES = {"graded": range(-3, 4), "five": range(-2, 3), "thumbs": (-1, 1), "ranks": (-1, 0, 1)}


@dataclass(frozen=True)
class Figure:
    """A measure of agreement with its interval, and what it rests on."""

    key: str
    title: str
    scale: str
    """raw: a share of equal votes; chance: corrected for what chance gives, 0 being chance."""
    estimate: Estimate
    items: int
    raters: int
    pairs: int
    """Pairs of votes on one item."""
    words: str


@dataclass(frozen=True)
class PairLine:
    """Weighted kappa of two people."""

    first: str
    second: str
    kappa: Estimate


@dataclass(frozen=True)
class Day:
    """One day: how often votes went with most of the others, and with gold."""

    day: str
    agreed: Estimate
    gold: Estimate


@dataclass(frozen=True)
class QualityReport:
    """What the quality page shows. Figures of agreement and bias are of people alone."""

    kind: str
    as_of: float
    votes: int
    """Of people on ordinary items, the first time they saw each."""
    items: int
    shared: int
    """Items with votes of two people or more."""
    raters: int
    figures: list[Figure]
    sentence: str
    skew: str
    position: PositionBias
    length: LengthBias
    length_odds: float | None
    """By what one standard deviation more of length multiplies the odds."""
    repeats: SwapRepeats
    gold: Gold
    pace: Pace
    flips: Estimate
    """How often a vote goes against most of the others: what label smoothing may be."""
    pairs: list[PairLine]
    people: list[Line]
    automatic: list[Line]
    days: list[Day]
    left_out: dict[str, int]
    """Votes that do not count in agreement, by why."""


def report(session: Session, project: Project) -> QualityReport:
    """The quality of a project's ratings. Kept while nothing changes; where it costs seconds, up to a minute or two longer."""
    found: QualityReport = kept.kept(("quality", project.id), project.seq, lambda: reckon(session, project))
    return found


def reckon(session: Session, project: Project) -> QualityReport:
    """The report anew from all votes."""
    from app.feedback import agreement, biases

    votes = votes_read.read(session, project)
    given = votes_read.as_rated(session, project, votes)
    people = [one for one in given if _is_heard(votes.raters[one.rater])]
    machines = [one for one in given if not votes.raters[one.rater].is_person]
    of_people = quality_raters.units(project, votes, people)
    heaps, machine_heaps = quality_raters.heaps(project, votes, people), quality_raters.heaps(project, votes, machines)
    quality_raters.compare(of_people, heaps, {(one.item, one.rater): one.at for one in people if not one.round})
    _with_people(of_people, quality_raters.units(project, votes, machines), machine_heaps)
    shared, distinct = _shared(of_people)
    figures = _figures(project, of_people, shared, distinct)
    raw, alpha = _of(figures, "decisive") or _of(figures, "raw"), _of(figures, "alpha")
    share = raw.estimate if raw else None
    length = biases.length_bias(row for heap in heaps.values() for row in heap.lengths)
    return QualityReport(
        kind=project.kind,
        as_of=time.time(),
        votes=len({(name_of(item), rater) for item, rater, _ in of_people}),
        items=len({name_of(item) for item, _, _ in of_people}),
        shared=distinct,
        raters=len({rater for _, rater, _ in of_people}),
        figures=figures,
        sentence=verdicts.sentence(
            project.kind,
            share.value if share else None,
            share.low if share else None,
            share.high if share else None,
            raw.items if raw else 0,
            raw.raters if raw else 0,
        ),
        skew=verdicts.skewed(raw.estimate.value if raw else None, alpha.estimate.value if alpha else None),
        position=biases.position_bias(sum(heap.left for heap in heaps.values()), sum(heap.decisive - heap.left for heap in heaps.values())),
        length=length,
        length_odds=None if length.slope.value is None else math.exp(length.slope.value),
        repeats=biases.swap_repeats(pair for heap in heaps.values() for pair in heap.twice),
        gold=_gold(project, heaps),
        pace=biases.pace(each for heap in heaps.values() for each in heap.times),
        flips=agreement.flip_rate(shared, resamples=RESAMPLES),
        pairs=_pairs(project, votes, shared),
        people=_lines(project, votes, heaps),
        automatic=_lines(project, votes, machine_heaps),
        days=_days(heaps),
        left_out=_left_out(votes),
    )


def name_of(unit: Any) -> str:
    """The item of a unit."""
    return unit if isinstance(unit, str) else str(unit[0])


def _is_heard(who: Who) -> bool:
    return who.is_person and who.status != "removed"


def _shared(of: list[Unit]) -> tuple[list[Unit], int]:
    """Votes on what two or more voted on, and how many items those are."""
    counts = Counter(item for item, _, _ in of)
    shared = [unit for unit in of if counts[unit[0]] > 1]
    return shared, len({name_of(item) for item, _, _ in shared})


def _of(figures: list[Figure], key: str) -> Figure | None:
    return next((figure for figure in figures if figure.key == key), None)


def _figures(project: Project, of: list[Unit], shared: list[Unit], distinct: int) -> list[Figure]:
    """Raw agreement and the coefficients. Of rankings, whose pairs go together, only raw agreement has an interval."""
    from app.feedback import agreement

    if not shared:
        return []
    sides, raters = _sides(shared), len({rater for _, rater, _ in shared})
    ranked, graded = project.kind == "rank", project.scale in ("graded", "five")
    found: list[Figure] = []

    pairs, with_ties = _raw(sides, ties=True)

    def add(key: str, title: str, estimate: Estimate, words: str, on: tuple[int, int] = (distinct, pairs)) -> None:
        raw = key in ("raw", "decisive")
        shown = _bare(estimate) if ranked and not raw else estimate
        found.append(Figure(key, title, "raw" if raw else "chance", shown, on[0], raters, on[1], words))

    side = "side" if project.kind == "pair" else "order" if ranked else "judgement"
    if project.kind != "single" or graded:
        decided, no_ties = _raw(sides, ties=False)
        on = (_items_of([unit for unit in sides if unit[2] != 0]), decided)
        words = "Pairs of votes that both decide, and decide alike. 50 % is guessing."
        add("decisive", f"Same {side}, undecided left out", no_ties, words, on)
    words = "All pairs of votes on one item; an undecided vote agrees only with another undecided one."
    add("raw", f"Same {side}", with_ties, words)
    if graded:
        words = "1 is full agreement, 0 is chance; a near miss costs less than opposite grades. 0.45 to 0.55 is usual for open questions."
        alpha = agreement.krippendorff_alpha(shared, "ordinal", resamples=RESAMPLES)
        add("alpha", "Krippendorff’s alpha, by grade", alpha, words)
    nominal = agreement.krippendorff_alpha(sides, "nominal", resamples=RESAMPLES)
    add("alpha-side", f"Krippendorff’s alpha, by {side}", nominal, "The same with the side alone: any difference counts in full.")
    kinds = (-1, 1) if project.scale == "thumbs" else (-1, 0, 1)
    ac1 = agreement.gwet_ac1(_sides(of), kinds, resamples=RESAMPLES)
    add("ac1", f"Gwet’s AC1, by {side}", ac1, "Corrected for chance as well, and steady where nearly all votes are the same.")
    return found


def _sides(of: list[Unit]) -> list[Unit]:
    """The votes with nothing but their side."""
    return [(item, rater, (value > 0) - (value < 0)) for item, rater, value in of]


def _items_of(of: list[Unit]) -> int:
    counts = Counter(item for item, _, _ in of)
    return len({name_of(item) for item, count in counts.items() if count > 1})


def _bare(estimate: Estimate) -> Estimate:
    from app.feedback.intervals import Estimate as Made

    return Made(estimate.value, None, None, estimate.n)


def _raw(sides: list[Unit], *, ties: bool) -> tuple[int, Estimate]:
    """Pairs of votes, and the share that is the same; drawn by item, so that the pairs of one ranking stay together."""
    import numpy as np

    from app.feedback.intervals import ratio_over_clusters

    rows: dict[Any, int] = {}
    at = np.array([3 * rows.setdefault(item, len(rows)) + value + 1 for item, _, value in sides if ties or value], dtype=np.int64)
    counts = np.bincount(at, minlength=3 * len(rows)).reshape(-1, 3)
    totals = counts.sum(axis=1)
    names: dict[str, int] = {}
    of_name = np.array([names.setdefault(name_of(item), len(names)) for item in rows], dtype=np.int64)
    hits = np.bincount(of_name, weights=(counts * (counts - 1) // 2).sum(axis=1)).astype(np.float64)
    pairs = np.bincount(of_name, weights=totals * (totals - 1) // 2).astype(np.float64)
    return int(pairs.sum()), ratio_over_clusters(hits, pairs, resamples=RESAMPLES)


def _gold(project: Project, heaps: dict[str, Heap]) -> Gold:
    from app.feedback import biases

    hits = [hit for heap in heaps.values() for _, hit in heap.gold]
    return biases.gold_accuracy(sum(hits), len(hits), project.gate_accuracy, project.gate_items)


def _pairs(project: Project, votes: Votes, shared: list[Unit]) -> list[PairLine]:
    """Kappa of every two people with enough items in common; of rankings without interval."""
    from app.feedback import agreement

    found = agreement.pair_kappas(shared, list(GRADES[project.scale]), least=LEAST_SHARED)
    found.sort(key=lambda pair: -pair.kappa.n)
    names, ranked = {rater.id: rater.name for rater in votes.raters.values()}, project.kind == "rank"
    kappas = [(pair, _bare(pair.kappa) if ranked else pair.kappa) for pair in found[:MOST_PAIRS]]
    return [PairLine(names[str(pair.first)], names[str(pair.second)], kappa) for pair, kappa in kappas]


def _lines(project: Project, votes: Votes, heaps: dict[str, Heap]) -> list[Line]:
    made = [quality_raters.line(project, votes.raters[rater], heap) for rater, heap in heaps.items() if heap.votes]
    return sorted(made, key=lambda line: (-line.votes, line.who.name))


def _with_people(of_people: list[Unit], of_machines: list[Unit], heaps: dict[str, Heap]) -> None:
    """Hold every vote of an automatic rater against the side most people took."""
    wanted = {item for item, _, _ in of_machines}
    signs: dict[Any, Counter[int]] = defaultdict(Counter)
    for item, _, value in of_people:
        if item in wanted:
            signs[item][(value > 0) - (value < 0)] += 1
    for item, rater, value in of_machines:
        if item in signs:
            quality_raters.hold(heaps[rater], (value > 0) - (value < 0), signs[item], 0.0, counted=False)


def _days(heaps: dict[str, Heap]) -> list[Day]:
    from app.feedback import biases
    from app.feedback.intervals import UNKNOWN

    agreed = [(quality_raters.day_of(at), hit) for heap in heaps.values() for at, hit in heap.agreed]
    gold = [(quality_raters.day_of(at), hit) for heap in heaps.values() for at, hit in heap.gold]
    both = {day: (share, UNKNOWN) for day, share in biases.drift(agreed)}
    for day, share in biases.drift(gold):
        both[day] = (both.get(day, (UNKNOWN, UNKNOWN))[0], share)
    return [Day(day, *shares) for day, shares in sorted(both.items())]


def _left_out(votes: Votes) -> dict[str, int]:
    """Why votes do not count in agreement, and how many each."""
    found: Counter[str] = Counter()
    for one in votes.given:
        who, item = votes.raters[one.rater], votes.items[one.item]
        if why := _why_not(one, who, item):
            found[why] += 1
    return dict(found)


def _why_not(one: Given, who: Who, item: votes_read.About) -> str:
    if one.kind in ("skip", "flag"):
        return {"skip": "skipped", "flag": "flagged"}[one.kind]
    if not who.is_person:
        return "of automatic raters"
    if who.status == "removed":
        return "of raters who were taken out"
    if item.role != "normal":
        return f"on {item.role} items"
    if item.status != "open":
        return f"on items that are {item.status}"
    return "second votes on repeated items" if one.round else ""


def report_out(found: QualityReport) -> dict[str, Any]:
    """The report as REST answers it."""
    made = asdict(found)
    made["references"] = [asdict(each) for each in verdicts.REFERENCES]
    for lines, name in ((made["people"], "people"), (made["automatic"], "automatic")):
        for shown, line in zip(lines, getattr(found, name), strict=True):
            shown["who"] = {"id": line.who.id, "name": line.who.name, "kind": line.who.kind, "status": line.who.status}
    return made
