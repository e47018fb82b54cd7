"""What figures of agreement mean, in plain words, and the figures of others to read them by. Reckons nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FEW_ITEMS = 50
"""Shared items under which nothing is said of agreement: with fewer, raw agreement is known to ± 12 points at best."""
GUESSING = 0.5
USUAL = (0.63, 0.81)
"""Raw agreement that studies of open questions report."""


@dataclass(frozen=True)
class Reference:
    """What a study found."""

    study: str
    value: float
    words: str
    scale: Literal["raw", "chance"]
    """Share of equal votes, or a coefficient that is corrected for chance."""


REFERENCES = (
    Reference("Anthropic", 0.63, "about 63 %, researchers and crowd", "raw"),
    Reference("MT-Bench, with ties", 0.63, "63 %, people and people", "raw"),
    Reference("FairEval", 0.717, "71.7 %", "raw"),
    Reference("InstructGPT", 0.726, "72.6 ± 1.5 %, its training labelers", "raw"),
    Reference("MT-Bench, no ties", 0.81, "81 %, people and people", "raw"),
    Reference("LLMBar", 0.94, "94 %, experts on items with an objective answer", "raw"),
    Reference("FairEval", 0.54, "kappa 0.54", "chance"),
)
"""Only figures that were read in the papers themselves."""


def sentence(kind: str, value: float | None, low: float | None, high: float | None, items: int, raters: int) -> str:
    """What raw agreement on the side, ties left out, says about these votes."""
    if raters < 2 or not items:
        return (
            "No two people have rated the same item yet, so nothing can be said about agreement. Set the overlap to 2 or more for a part of"
            " the items, and have a second person rate."
        )
    if value is None or low is None or high is None or items < FEW_ITEMS:
        there = f"{items} shared {'item' if items == 1 else 'items'}"
        return f"Too few votes to say: {there}, and {FEW_ITEMS} are needed to know agreement to about ± 12 points."
    what = {"single": "Two people judge an answer alike", "rank": "Two people put two answers in the same order"}.get(
        kind, "Two people who both take a side take the same one"
    )
    start = f"{what} in {100 * value:.0f} % of cases (95 %: {100 * low:.0f} to {100 * high:.0f})."
    if low <= GUESSING <= high:
        return f"{start} That cannot be told from guessing: read some disputed items, and see whether the guidelines decide them."
    if high < GUESSING:
        return f"{start} That is less than guessing gives: somebody may have read the question the other way round."
    if high < USUAL[0]:
        return f"{start} Studies report 63 to 81 %. The guidelines may leave room, or the answers may be about equally good."
    if low > USUAL[1]:
        return f"{start} That is more than most studies report (63 to 81 %), and usual where one answer is plainly right."
    return f"{start} That is within what studies of open questions report: 63 to 81 %, InstructGPT’s labelers 73 %."


def skewed(raw: float | None, alpha: float | None) -> str:
    """Why a coefficient may be low though nearly all votes are the same; empty where that is not so."""
    if raw is None or alpha is None or raw < 0.85 or alpha > 0.4:
        return ""
    return (
        f"{100 * raw:.0f} % of the votes are alike and alpha is only {alpha:.2f}: nearly all votes say the same, so little is left to agree"
        " about. AC1 is the figure to read then."
    )
