"""From votes on an item to rows of training data: pure functions, no table and no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

from app.feedback.orders import places_of, side, tiers, urgency
from app.feedback.rules import Rules

CUT_MARKS = ("▌", "█")
"""Signs of an answer that was still being written."""
WIDE = 2
"""Grades, or points, that votes may be apart."""
STRONG = 2
"""Grade from which a pair may give labels."""

Message = dict[str, str]
Row = dict[str, Any]


class Answer(NamedTuple):
    """One response of an item."""

    id: str
    text: str
    source: str = ""
    checkpoint_id: str | None = None
    finish: str | None = None
    tokens: int | None = None

    @property
    def size(self) -> int:
        """Its length, in words: tokenizers differ from model to model."""
        return len(self.text.split())


class Said(NamedTuple):
    """One vote that counts, as it is stored: preference < 0 means the first response."""

    rater_id: str
    preference: int | None = None
    quality: str | None = None
    score: float | None = None
    ranking: list[list[str]] | None = None


class Judged(NamedTuple):
    """An item with the votes that count."""

    item_id: str
    prompt: list[Message]
    prompt_hash: str
    answers: list[Answer]
    """In the order of the data; answers that raters wrote come last."""
    votes: list[Said]


@dataclass
class Example:
    """One row with what the choice among rows needs."""

    row: Row
    meta: dict[str, Any]
    answers: list[Answer]
    grade: float | bool | None = None
    """Grade of a pair, score, or label."""
    strength: float = 0.0
    """The strongest row of a prompt is its best answer."""
    rank: int = 0
    """Place among the rows of a ranking: those beyond the cap are left out."""
    longer: bool | None = None
    """Whether the chosen answer is the longer one; None where they are as long."""


@dataclass
class Made:
    """What came of an item."""

    examples: list[Example] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    """Why there is nothing (or, in rankings, no pair) to learn from."""


class Verdict(NamedTuple):
    """What votes come to: a value, or the reason why there is none."""

    value: float
    votes: list[float]
    agreement: float
    reason: str | None = None


def verdicts(values: Sequence[float], rules: Rules) -> Iterator[Verdict]:
    """What votes (at least one) come to: one verdict, or one for each vote where every vote is a row. 0 takes no side."""
    if rules.combine == "every":
        for value in values:
            yield Verdict(value, [value], 1.0)
        return
    sides = Counter(side(value) for value in values)
    commonest = max(sides, key=lambda each: sides[each])
    agreement = sides[commonest] / len(values)
    least, most = min(values), max(values)
    reason = None
    if rules.drop_wide and most - least > WIDE and least < 0 < most:
        reason = "wide"
    elif 2 * sides[commonest] <= len(values):
        reason = "split"
    elif rules.combine == "unanimous" and len(sides) > 1:
        reason = "divided"
    yield Verdict(float(median(values)), list(values), agreement, reason)


def margin_of(grade: float, rules: Rules) -> float:
    """How far apart the scores of a pair of a grade must be; always a number, since one missing margin makes TRL drop all."""
    return float({"small": abs(grade) / 3, "large": abs(grade), "none": 0.0}[rules.margin])


def flaw(answer: Answer) -> str | None:
    """Why an answer cannot be learned from, or None."""
    if not answer.text.strip():
        return "empty"
    if answer.finish == "length" or answer.text.rstrip().endswith(CUT_MARKS):
        return "cut"
    return "error" if answer.finish == "error" else None


def make(item: Judged, rules: Rules, kind: str, scale: str, direction: str) -> Made:
    """The rows an item gives under the rules.

    Args:
        kind: of the project: pair, single or rank.
        scale: thumbs or five, for single answers.
        direction: `worse` where raters picked the worse answer.
    """
    made = Made()
    if (
        not item.prompt
        or item.prompt[-1].get("role") == "assistant"
        or not any(str(each.get("content", "")).strip() for each in item.prompt)
    ):
        made.dropped["unusable"] += 1
        return made
    given = [answer for answer in item.answers if answer.finish != "edited"]
    if kind == "rank":
        _from_rankings(made, item, given, rules, -1 if direction == "worse" else 1)
    elif kind == "single":
        _from_scores(made, item, given[:1], rules, scale, direction)
    else:
        _from_pairs(made, item, given[:2], rules, -1 if direction == "worse" else 1)
    if rules.shape in ("prompt_completion", "chat") and item.votes:
        _prefer_edited(made, item, rules)
    return made


# --- pairs ----------------------------------------------------------------------------------------------------------------


def _flaws(answers: Sequence[Answer], wanted: int) -> str | None:
    found = next((why for answer in answers if (why := flaw(answer))), None)
    if found is None and len(answers) < wanted:
        found = "empty"
    if found is None and wanted > 1 and answers[0].text.strip() == answers[1].text.strip():
        found = "identical"
    return found


def _from_pairs(made: Made, item: Judged, answers: list[Answer], rules: Rules, turn: int) -> None:
    votes = [vote for vote in item.votes if vote.preference is not None]
    why = "unrated" if not votes else _flaws(answers, 2)
    if why:
        made.dropped[why] += 1
    elif rules.shape == "unpaired":
        _labels_from_pairs(made, item, answers, votes, rules, turn)
    else:
        for verdict in verdicts([turn * vote.preference for vote in votes if vote.preference is not None], rules):
            why = verdict.reason or _tie(verdict, votes) or ("weak" if abs(verdict.value) < rules.min_grade else None)
            if why:
                made.dropped[why] += 1
                continue
            chosen, rejected = answers if verdict.value < 0 else answers[::-1]
            _add_pair(made, item, chosen, rejected, rules, verdict, abs(verdict.value))


def _tie(verdict: Verdict, votes: Sequence[Said]) -> str | None:
    if verdict.value:
        return None
    said = {vote.quality for vote in votes if vote.preference == 0}
    return next(iter(said)) or "tie" if len(said) == 1 else "tie"


def _add_pair(
    made: Made, item: Judged, chosen: Answer, rejected: Answer, rules: Rules, verdict: Verdict, grade: float | None, rank: int = 0
) -> None:
    meta = {
        **_meta(item, verdict),
        "grade": grade,
        "chosen_model": chosen.source,
        "rejected_model": rejected.source,
        "length_difference": chosen.size - rejected.size,
    }
    if rules.shape in ("prompt_completion", "chat"):
        made.examples.append(_completed(item, chosen, rules, meta, verdict.value, strength=abs(verdict.value)))
        return
    row: Row = {"prompt": item.prompt, "chosen": _says(chosen), "rejected": _says(rejected)}
    if rules.shape == "margin":
        row["margin"] = 0.0 if grade is None else margin_of(grade, rules)
    longer = None if chosen.size == rejected.size else chosen.size > rejected.size
    made.examples.append(Example(row, meta, [chosen, rejected], grade=grade, rank=rank, longer=longer))


def _labels_from_pairs(made: Made, item: Judged, answers: list[Answer], votes: list[Said], rules: Rules, turn: int) -> None:
    """Labels come only from what was said of both; from a pair alone where the rules ask for it."""
    for group in [[vote] for vote in votes] if rules.combine == "every" else [votes]:
        for word, label in (("both_good", True), ("both_bad", False)):
            share = sum(vote.quality == word for vote in group) / len(group)
            if share > (0.5 if rules.combine != "unanimous" else 0.999):
                for answer in answers:
                    _add_label(made, item, answer, label, Verdict(float(label), [float(label)] * len(group), share))
                break
        else:
            [verdict] = verdicts([turn * (vote.preference or 0) for vote in group], rules)
            weak = not rules.strong_pairs or abs(verdict.value) < STRONG
            why = "no_label" if weak else verdict.reason
            if why:
                made.dropped[why] += 1
                continue
            winner, loser = answers if verdict.value < 0 else answers[::-1]
            _add_label(made, item, winner, True, verdict)
            _add_label(made, item, loser, False, verdict)


def _add_label(made: Made, item: Judged, answer: Answer, label: bool, verdict: Verdict) -> None:
    row = {"prompt": item.prompt, "completion": _says(answer), "label": label}
    made.examples.append(Example(row, {**_meta(item, verdict), "model": answer.source}, [answer], grade=label))


# --- single answers -------------------------------------------------------------------------------------------------------


def _from_scores(made: Made, item: Judged, answers: list[Answer], rules: Rules, scale: str, direction: str) -> None:
    scores = [vote.score for vote in item.votes if vote.score is not None]
    if direction == "worse":  # asked how bad it is: the scale is turned round
        scores = [(1 if scale == "thumbs" else 6) - score for score in scores]
    why = "unrated" if not scores else _flaws(answers, 1)
    if why is None and rules.drop_wide and max(scores) - min(scores) > WIDE:
        why = "wide"
    if why:
        made.dropped[why] += 1
        return
    [answer] = answers
    if rules.shape == "rated":
        for verdict in _scored(scores, rules):
            if verdict.reason:
                made.dropped[verdict.reason] += 1
                continue
            row = {"prompt": item.prompt, "completion": _says(answer), "score": verdict.value}
            made.examples.append(Example(row, {**_meta(item, verdict), "model": answer.source}, [answer], grade=verdict.value))
        return
    good, bad = (1.0, 0.0) if scale == "thumbs" else (rules.good_from, rules.bad_to)
    for verdict in verdicts([float((score >= good) - (score <= bad)) for score in scores], rules):
        why = verdict.reason or ("unclear" if not verdict.value else None)
        if why is None and rules.shape != "unpaired" and verdict.value < 0:
            why = "not_best"
        if why:
            made.dropped[why] += 1
        elif rules.shape == "unpaired":
            _add_label(made, item, answer, verdict.value > 0, verdict)
        else:
            meta = {**_meta(item, verdict), "model": answer.source}
            made.examples.append(_completed(item, answer, rules, meta, float(median(scores)), strength=float(median(scores))))


def _scored(scores: Sequence[float], rules: Rules) -> Iterator[Verdict]:
    if rules.combine == "every":
        yield from (Verdict(score, [score], 1.0) for score in scores)
        return
    same = max(Counter(scores).values()) / len(scores)
    yield Verdict(float(median(scores)), list(scores), same, "divided" if rules.combine == "unanimous" and same < 1 else None)


# --- rankings -------------------------------------------------------------------------------------------------------------


def _from_rankings(made: Made, item: Judged, given: list[Answer], rules: Rules, turn: int) -> None:
    votes = [vote for vote in item.votes if vote.ranking]
    answers = [answer for answer in given if flaw(answer) is None]
    if not votes or len(answers) < 2:
        flaws = [why for answer in given if (why := flaw(answer))]
        made.dropped["unrated" if not votes else flaws[0] if flaws else "empty"] += 1
        return
    for group in [[vote] for vote in votes] if rules.combine == "every" else [votes]:
        _from_places(made, item, answers, [places_of(vote.ranking or [], turn) for vote in group], rules)


def _from_places(made: Made, item: Judged, answers: list[Answer], rankings: list[dict[str, int]], rules: Rules) -> None:
    won: list[tuple[Answer, Answer, Verdict]] = []
    reasons: Counter[str] = Counter()
    for one, other in combinations(answers, 2):
        signs = [float(side(places[one.id] - places[other.id])) for places in rankings if one.id in places and other.id in places]
        if not signs or one.text.strip() == other.text.strip():
            reasons["identical" if signs else "unrated"] += 1
            continue
        [verdict] = verdicts(signs, rules.model_copy(update={"combine": "majority"} if rules.combine == "every" else {}))
        if verdict.reason or not verdict.value:
            reasons[verdict.reason or "tie"] += 1
        else:
            won.append((one, other, verdict) if verdict.value < 0 else (other, one, verdict))
    order = tiers({answer.id for answer in answers}, [(better.id, worse.id) for better, worse, _ in won])
    if order is None:
        made.dropped["cycle"] += 1
        return
    if not won:
        made.dropped[reasons.most_common(1)[0][0]] += 1
        return
    last = max(order.values())
    won.sort(key=lambda pair: urgency(order[pair[0].id], order[pair[1].id], last))
    if rules.shape in ("prompt_completion", "chat"):
        better, worse, verdict = min(won, key=lambda pair: order[pair[0].id])
        _add_pair(made, item, better, worse, rules, verdict, None)
        return
    if rules.shape in ("preference", "margin"):
        for rank, (better, worse, verdict) in enumerate(won):
            _add_pair(made, item, better, worse, rules, verdict, None, rank)


# --- pieces ---------------------------------------------------------------------------------------------------------------


def _says(answer: Answer) -> list[Message]:
    return [{"role": "assistant", "content": answer.text.strip()}]


def _meta(item: Judged, verdict: Verdict) -> dict[str, Any]:
    return {
        "item": item.item_id,
        "prompt_hash": item.prompt_hash,
        "votes": verdict.votes,
        "raters": len({vote.rater_id for vote in item.votes}),
        "agreement": round(verdict.agreement, 4),
    }


def _completed(item: Judged, answer: Answer, rules: Rules, meta: dict[str, Any], grade: float, strength: float) -> Example:
    row: Row
    if rules.shape == "chat":
        row = {"messages": [*item.prompt, *_says(answer)]}
    else:
        row = {"prompt": item.prompt, "completion": _says(answer)}
    meta = {**meta, "model": answer.source, "edited": answer.finish == "edited"}
    return Example(row, meta, [answer], grade=abs(grade), strength=strength)


def _prefer_edited(made: Made, item: Judged, rules: Rules) -> None:
    """Where a rater wrote a better answer, that is the best one."""
    edited = [answer for answer in item.answers if answer.finish == "edited" and answer.text.strip()]
    if edited:
        best = _completed(item, edited[-1], rules, _meta(item, Verdict(0.0, [], 1.0)), 0.0, strength=100.0)
        made.examples, made.dropped = [best], Counter()
