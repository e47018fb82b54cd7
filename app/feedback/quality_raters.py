"""Each rater by what they did: against the others, gold, side, length, repeats, time, keys. Reckons from votes that were read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.feedback import answers as votes_as
from app.feedback.tables import Project
from app.feedback.votes_read import Answer, Given, Votes, Who, pairs_of

if TYPE_CHECKING:
    from app.feedback.biases import Anomaly, Gold, LengthBias, Pace, PositionBias, StraightLining, SwapRepeats
    from app.feedback.intervals import Estimate

LAST_KEYS = 500
"""Keys that straight-lining is looked for in: the last so many."""
MOST_HURRIED = 0.1
"""Share of votes under the floor from which a rater is said to hurry."""
MANY_REPEATS = 10
PER_RATER = 0.01
"""Level of the test for a side in one rater: many are tested."""
KEYS = {"pair": 9, "five": 5, "thumbs": 2}
"""Keys there are to press."""

Unit = tuple[Any, str, int]
"""(item, or item and two answers; rater; value): what agreement is reckoned from. Values are signed, 0 being undecided."""


@dataclass(frozen=True)
class Line:
    """What one rater's votes look like."""

    who: Who
    votes: int
    others: Estimate
    """How often with most of the others; of an automatic rater: with most of the people."""
    gold: Gold
    position: PositionBias
    length: LengthBias
    repeats: SwapRepeats
    pace: Pace
    keys: StraightLining | None
    anomaly: Anomaly
    remarks: list[str]
    """What to look at, in words."""


@dataclass
class Heap:
    """What a rater's votes are heaped up to before anything is reckoned."""

    votes: int = 0
    left: int = 0
    decisive: int = 0
    lengths: list[tuple[float, float, float, str]] = field(default_factory=list)
    keys: list[Any] = field(default_factory=list)
    times: list[tuple[float, int]] = field(default_factory=list)
    twice: list[tuple[float, float]] = field(default_factory=list)
    gold: list[tuple[float, bool]] = field(default_factory=list)
    agreed: list[tuple[float, bool]] = field(default_factory=list)
    against: list[tuple[float, int, int]] = field(default_factory=list)


def value_of(project: Project, vote: Given) -> int | None:
    """A vote on a pair or a single answer as a signed number: towards the second answer, or above the middle."""
    if project.kind == "pair":
        return vote.preference
    if vote.score is None:
        return None
    return round(vote.score) - 3 if project.scale == "five" else (1 if vote.score else -1)


def units(project: Project, votes: Votes, given: Iterable[Given]) -> list[Unit]:
    """First votes on ordinary items; a ranking is as many as it has pairs."""
    found: list[Unit] = []
    for vote in given:
        if vote.round or not votes.items[vote.item].counts:
            continue
        if project.kind == "rank":
            found += [((vote.item, a.id, b.id), vote.rater, side) for a, b, side in pairs_of(vote.ranking or [], votes.answers[vote.item])]
        elif (value := value_of(project, vote)) is not None:
            found.append((vote.item, vote.rater, value))
    return found


def heaps(project: Project, votes: Votes, given: list[Given]) -> dict[str, Heap]:
    """What each rater did, besides how it compares with others."""
    found: dict[str, Heap] = defaultdict(Heap)
    firsts = {(vote.item, vote.rater): vote for vote in given if not vote.round}
    for vote in given:
        heap, item, there = found[vote.rater], votes.items[vote.item], votes.answers.get(vote.item, [])
        if item.role == "practice":
            continue
        heap.votes += not vote.round
        if vote.active_ms is not None:
            heap.times.append((vote.active_ms, sum(answer.words for answer in there)))
        if project.kind != "rank":
            heap.keys.append(_key(vote, there))
        if vote.round:
            before = firsts.get((vote.item, vote.rater))
            if before is not None and before.preference is not None and vote.preference is not None:
                heap.twice.append((before.preference, vote.preference))
        elif item.role == "gold" and vote.item in votes.gold:
            if votes_as.is_test(votes.gold[vote.item], vote.at):
                heap.gold.append((vote.at, _is_right(project, votes.gold[vote.item], vote, there)))
        elif item.counts and project.kind == "pair" and len(there) > 1 and vote.preference is not None:
            _side_and_length(project, heap, vote, there, item.prompt_hash)
    return found


def _key(vote: Given, there: list[Answer]) -> Any:
    """The key that was pressed: a grade from left to right, both good or bad, or points."""
    if vote.preference is None:
        return vote.score
    turned = bool(there) and vote.left is not None and vote.left != there[0].place
    return vote.quality or (-vote.preference if turned else vote.preference)


def _side_and_length(project: Project, heap: Heap, vote: Given, there: list[Answer], prompt: str) -> None:
    grade = vote.preference or 0
    if grade and vote.left is not None:
        heap.decisive += 1
        heap.left += (grade < 0) == (vote.left == there[0].place)
    first_won = 0.5 if grade == 0 else float((grade < 0) == (project.direction == "better"))
    heap.lengths.append((there[0].words, there[1].words, first_won, prompt))


def _is_right(project: Project, gold: dict[str, Any], vote: Given, there: list[Answer]) -> bool:
    said = {"preference": vote.preference, "score": vote.score, "ranking": vote.ranking}
    return votes_as.is_right(project, gold, said, there)  # type: ignore[arg-type]  # needs id and place alone


def compare(of: Iterable[Unit], heaps: dict[str, Heap], at: dict[tuple[str, str], float]) -> None:
    """Hold every vote of a person against the side most of the others took, and count how many took each."""
    by_item: dict[Any, list[tuple[str, int]]] = defaultdict(list)
    for item, rater, value in of:
        by_item[item].append((rater, (value > 0) - (value < 0)))
    for item, taken in by_item.items():
        if len(taken) < 2:
            continue
        signs = Counter(sign for _, sign in taken)
        name = item if isinstance(item, str) else item[0]
        for rater, own in taken:
            hold(heaps[rater], own, signs, at.get((name, rater), 0.0), counted=True)


def hold(heap: Heap, own: int, signs: Counter[int], at: float, *, counted: bool) -> None:
    """Hold one vote against the sides people took; `counted` says that this vote is among those."""
    rest = {sign: count - (counted and sign == own) for sign, count in signs.items()}
    most = max(rest.values(), default=0)
    top = [sign for sign, count in rest.items() if count == most]
    if most and len(top) == 1:
        heap.agreed.append((at, own == top[0]))
    if own:
        heap.against.append((1.0 if own < 0 else 0.0, rest.get(-1, 0), rest.get(1, 0)))


def line(project: Project, who: Who, heap: Heap) -> Line:
    """The figures of one rater, and what to look at."""
    from app.feedback import biases
    from app.feedback.intervals import wilson

    keys = heap.keys[-LAST_KEYS:]
    options = KEYS.get("pair" if project.kind == "pair" else project.scale)
    others = wilson(sum(hit for _, hit in heap.agreed), len(heap.agreed))
    made = Line(
        who=who,
        votes=heap.votes,
        others=others,
        gold=biases.gold_accuracy(sum(hit for _, hit in heap.gold), len(heap.gold), project.gate_accuracy, project.gate_items),
        position=biases.position_bias(heap.left, heap.decisive - heap.left, PER_RATER),
        length=biases.length_bias(heap.lengths),
        repeats=biases.swap_repeats(heap.twice),
        pace=biases.pace(heap.times),
        keys=biases.straight_lining(keys, options) if options and keys else None,
        anomaly=biases.anomaly(heap.against),
        remarks=[],
    )
    made.remarks.extend(_remarks(made))
    return made


def _remarks(line: Line) -> list[str]:
    """What of a rater's figures is more than chance."""
    found: list[str] = []
    if line.position.found:
        found.append(f"leans to the {line.position.found}")
    longer = line.length.longer_wins
    if longer.low is not None and longer.low > 0.6:
        found.append("goes for the longer answer")
    if line.gold.verdict == "below":
        found.append("gold below the gate")
    if line.keys is not None and line.keys.flagged:
        found.append(f"one key {line.keys.longest_run} times in a row")
    if line.pace.hurried.low is not None and line.pace.hurried.low > MOST_HURRIED:
        found.append("often faster than one can read")
    if line.anomaly.flagged_at is not None:
        found.append(f"against the others by vote {line.anomaly.flagged_at}")
    flips = line.repeats.flips
    if flips.n >= MANY_REPEATS and flips.high is not None and flips.high >= 0.5 and (flips.value or 0) > 0.3:
        found.append("repeats are hardly steadier than chance")
    return found


def day_of(at: float) -> str:
    """The day of a moment, UTC."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()
