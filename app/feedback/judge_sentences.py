"""What the figures of a judge mean, in plain words, and what to be wary of. Reckons nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from app.feedback.verdicts import FEW_ITEMS, GUESSING

if TYPE_CHECKING:
    from app.feedback.intervals import Estimate
    from app.feedback.judge_report import Compared, JudgeReport

LEAST_MASS = 0.5
"""Probability of the letters under which a judge mostly means to say something else."""
MANY_FLIPS = 0.25


def worded(found: JudgeReport, kind: str) -> JudgeReport:
    """The report with its sentence and its warnings."""
    return replace(found, sentence=_sentence(found, kind), warnings=list(_warnings(found)))


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _interval(of: Estimate) -> str:
    return "" if of.low is None or of.high is None else f" (95 %: {100 * of.low:.0f} to {100 * of.high:.0f})"


def _sentence(found: JudgeReport, kind: str) -> str:
    figures = {figure.key: figure for figure in found.figures}
    if not found.judged:
        return "It has judged nothing yet."
    if not found.rated:
        if found.own:
            return "People rated no item it judged but such as it answered itself, so nothing can be said of agreement."
        return "People rated none of the items it judged, so nothing can be said of agreement."
    if found.rated < FEW_ITEMS:
        there = f"{found.rated} {'item' if found.rated == 1 else 'items'} that people rated"
        return f"Too few items to say: it judged {there}, and {FEW_ITEMS} are needed to know agreement to about ± 12 points."
    most = figures.get("most")
    most = most if most and most.judge.value is not None else figures.get("order")
    if most is None or most.judge.value is None:
        return "Judge and people hardly ever both take a side, so nothing can be said of agreement."
    value, share = most.judge, f"{_percent(most.judge.value)}{_interval(most.judge)}"
    if most.key == "order":
        start = f"It puts two answers in the same order as people in {share} of cases."
    elif kind == "single":
        start = f"It judges an answer as most people do in {share} of cases."
    else:
        start = f"Where both take a side, it takes that of most people in {share} of cases."
    if value.low is not None and value.high is not None:
        if value.low <= GUESSING <= value.high:
            return f"{start} That cannot be told from guessing."
        if value.high < GUESSING:
            return f"{start} That is less than guessing gives: it may read the question the other way round."
    return f"{start}{_next_to_people(figures.get('one'))}"


def _next_to_people(one: Compared | None) -> str:
    if one is None or one.judge.value is None or one.people is None or one.people.value is None:
        return ""
    lead = f" With one person it agrees in {_percent(one.judge.value)}, two people with each other in {_percent(one.people.value)}"
    bounds = (one.judge.low, one.judge.high, one.people.low, one.people.high)
    if None in bounds:
        return f"{lead}."
    if (one.judge.high or 0) < (one.people.low or 0):
        return f"{lead}: less than people agree."
    if (one.judge.low or 0) > (one.people.high or 0):
        return f"{lead}: more than people agree, as one steady voice among many may."
    return f"{lead}: no difference can be seen."


def _warnings(found: JudgeReport) -> list[str]:
    said: list[str] = []
    if found.trained_here:
        said.append("It was trained on votes of this project: that it agrees with them is no proof. Hold it against another project.")
    if found.flips.value is not None and found.flips.value > MANY_FLIPS and found.flips.n >= 10:
        said.append(
            f"In {_percent(found.flips.value)} of the questions it changes its mind when the two answers change places; averaged over both "
            "orders these mostly come out as ties."
        )
    if found.mass is not None and found.mass < LEAST_MASS:
        said.append(
            f"The letters or numbers it is asked for have {_percent(found.mass)} of its probability: it would rather say something else, "
            "so its verdicts mean little. Models that were trained to follow instructions do better."
        )
    if found.own:
        count = f"{found.own:,} {'item has' if found.own == 1 else 'items have'}"
        said.append(f"{count} an answer of its own; there it would agree with itself, so they are in no figure of agreement.")
    failed = sum(count for _, count in found.problems)
    if failed:
        said.append(f"It could not judge {failed:,} {'item' if failed == 1 else 'items'}: {found.problems[0][0]}")
    return said
