"""From what a judge's model gave to a verdict like a vote: grade, score or order. Pure arithmetic; the model itself runs in a worker.

A worker says of an item either `{"rewards": [number of each answer]}`, or `{"asked": [{principle, first, second, p, q, mass}]}` where p
is the probability that the second answer is picked when it stands second, and q when it stands first, or `{"numbers": [{principle,
value, mass}]}`, or `{"problem": words}`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TIE = 0.1
"""How far the probability of the second answer must be from one half for a verdict to take a side."""
GRADES = 3


def sigmoid(value: float) -> float:
    """The logistic function: the probability that a reward model gives a difference of rewards."""
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def grade(lean: float, tie: float) -> int:
    """A probability that the second answer is picked, as a grade: 0 within `tie` of one half, and from there to 0 or 1 in three steps."""
    distance = abs(lean - 0.5)
    if distance <= tie + 1e-9:
        return 0
    step = min(GRADES, 1 + int(GRADES * (distance - tie) / (0.5 - tie)))
    return step if lean > 0.5 else -step


def verdict(said: dict[str, Any], *, kind: str, scale: str, turned: bool, tie: float, answers: Sequence[str]) -> dict[str, Any]:
    """Columns of a judgement.

    Args:
        said: what the worker gave for the item.
        kind, scale: of the project.
        turned: the judge said what is better, and people pick what is worse.
        answers: ids of the item's answers, in the order of the data.
    """
    empty = {"preference": None, "score": None, "ranking": None, "lean": None, "questions": 0, "flips": 0, "firsts": 0, "mass": None}
    if said.get("problem"):
        return {**empty, "problem": str(said["problem"])[:500], "detail": {}}
    detail = {name: said[name] for name in ("rewards", "asked", "numbers") if name in said}
    found = {**empty, "problem": None, "detail": detail, **_counts(said)}
    if kind == "single":
        return found | _single(said, scale, turned)
    leans = _leans(said, len(answers))
    if turned:
        leans = {pair: 1 - lean for pair, lean in leans.items()}
    if kind == "pair":
        return found | {"lean": leans[0, 1], "preference": grade(leans[0, 1], tie)}
    return found | {"ranking": _order(leans, answers, tie)}


def _counts(said: dict[str, Any]) -> dict[str, Any]:
    """Questions, how many the two orders answered differently, and how often the first answer was taken."""
    asked, both = said.get("asked", []), [*said.get("asked", []), *said.get("numbers", [])]
    return {
        "questions": len(asked),
        "flips": sum((one["p"] - 0.5) * (one["q"] - 0.5) < 0 for one in asked),
        "firsts": sum((one["p"] < 0.5) + (one["q"] > 0.5) for one in asked),
        "mass": sum(one["mass"] for one in both) / len(both) if both else None,
    }


def _leans(said: dict[str, Any], count: int) -> dict[tuple[int, int], float]:
    """Probability that the second of each two answers is picked: mean over both orders and all principles."""
    if "rewards" in said:
        rewards = said["rewards"]
        return {(a, b): sigmoid(rewards[b] - rewards[a]) for a in range(count) for b in range(a + 1, count)}
    heaps: dict[tuple[int, int], list[float]] = {}
    for one in said["asked"]:
        heaps.setdefault((one["first"], one["second"]), []).append((one["p"] + one["q"]) / 2)
    return {pair: sum(heap) / len(heap) for pair, heap in heaps.items()}


def _single(said: dict[str, Any], scale: str, turned: bool) -> dict[str, Any]:
    """A number as it is; of a judge that was asked for 1 to 5, also as a vote."""
    if "rewards" in said:
        value = said["rewards"][0]
        return {"lean": -value if turned else value}
    value = sum(one["value"] for one in said["numbers"]) / len(said["numbers"])
    value = 6 - value if turned else value
    score = float(value > 3) if scale == "thumbs" else float(math.floor(value + 0.5))
    return {"lean": value, "score": score}


def _order(leans: dict[tuple[int, int], float], answers: Sequence[str], tie: float) -> list[list[str]]:
    """Answers by the wins to be expected of each against all others, best first; neighbours are tied where neither side is taken."""
    wins = [0.0] * len(answers)
    for (a, b), lean in leans.items():
        wins[a] += 1 - lean
        wins[b] += lean
    places = sorted(range(len(answers)), key=lambda each: -wins[each])
    order: list[list[str]] = []
    for above, place in zip([None, *places], places, strict=False):
        if above is not None and grade(leans[min(above, place), max(above, place)], tie) == 0:
            order[-1].append(answers[place])
        else:
            order.append([answers[place]])
    return order
