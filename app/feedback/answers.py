"""Votes: checked, turned from sides to places in the data and back, and held against right answers. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from app.errors import Invalid
from app.feedback.schemas import Vote
from app.feedback.tables import Project


class Placed(Protocol):
    """A response, as far as its place goes."""

    @property
    def id(self) -> str: ...
    @property
    def place(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def finish(self) -> str | None: ...


def normalised(project: Project, order: Sequence[Placed], vote: Vote) -> dict[str, Any]:
    """A vote as it is stored, whatever side the responses were shown on.

    Raises:
        Invalid: the vote does not fit the kind of project.
    """
    answer: dict[str, Any] = {"preference": None, "quality": None, "score": None, "ranking": None}
    if project.kind == "pair":
        if vote.preference is None:
            raise Invalid("A vote on a pair has a “preference”: -3 to 3, both_good or both_bad.", field="preference")
        if isinstance(vote.preference, str):
            answer.update(preference=0, quality=vote.preference)
        else:
            answer["preference"] = _turned(vote.preference, order)
    elif project.kind == "single":
        answer["score"] = _score(project, vote)
    else:
        answer["ranking"] = _ranking(order, vote)
    answer["labels"] = _labels(project, order, vote)
    answer["comment"] = _clean(vote.comment)
    if vote.better and vote.better.strip():
        answer["better"] = _clean(vote.better)
    return answer


def as_given(answer: dict[str, Any], order: Sequence[Placed]) -> dict[str, Any]:
    """A stored vote as the rater gave it, on the sides the rater saw."""
    preference = answer.get("preference")
    given: dict[str, Any] = {
        "preference": answer.get("quality") or (None if preference is None else _turned(preference, order)),
        "score": answer.get("score"),
        "ranking": answer.get("ranking"),
        "labels": answer.get("labels") or None,
        "comment": answer.get("comment") or None,
        "better": answer.get("better"),
    }
    return {name: value for name, value in given.items() if value is not None}


def _turned(preference: int, order: Sequence[Placed]) -> int:
    return preference if not order or order[0].place == min(response.place for response in order) else -preference


def _score(project: Project, vote: Vote) -> float:
    low, high = (0, 1) if project.scale == "thumbs" else (1, 5)
    if vote.score is None or vote.score not in range(low, high + 1):
        words = "0 (thumbs down) or 1 (thumbs up)" if project.scale == "thumbs" else "1 to 5"
        raise Invalid(f"A vote on a single answer has a “score”: {words}.", field="score")
    return float(vote.score)


def _ranking(order: Sequence[Placed], vote: Vote) -> list[list[str]]:
    ids = sorted(response.id for response in order)
    if vote.ranking is None or sorted(one for tied in vote.ranking for one in tied) != ids or not all(vote.ranking):
        raise Invalid("“ranking” holds the id of each response once, best first; those of equal rank in one list.", field="ranking")
    return [list(tied) for tied in vote.ranking]


def _labels(project: Project, order: Sequence[Placed], vote: Vote) -> dict[str, Any]:
    """Answers to the extra questions. Those to questions that are gone are kept: the guidelines may have changed meanwhile."""
    if len(vote.labels) > 20:
        raise Invalid("At most 20 labels.", field="labels")
    asked = {criterion["key"]: criterion for criterion in project.criteria}
    ids = {response.id for response in order}
    for key, value in vote.labels.items():
        parts = value.values() if isinstance(value, dict) else [value]
        if isinstance(value, dict) and not value.keys() <= ids:
            raise Invalid("A label of each response has their ids as keys.", field=f"labels.{key}")
        if len(key) > 40 or any(not isinstance(part, str | int | float | bool | None) or len(str(part)) > 500 for part in parts):
            raise Invalid("A label is a word of the options, or one for each response.", field=f"labels.{key[:40]}")
        if key in asked and any(part is not None and part not in asked[key]["options"] for part in parts):
            raise Invalid(f"“{key}” is answered by {', '.join(asked[key]['options'])}.", field=f"labels.{key}")
    return vote.labels


def _clean(text: str) -> str:
    return text.replace("\x00", "").encode("utf-8", "replace").decode()


# --- right answers --------------------------------------------------------------------------------------------------------


def is_test(gold: dict[str, Any], at: float) -> bool:
    """Whether a vote given at a moment tests its rater: not one from before the item became gold."""
    return at >= (gold.get("since") or 0.0)


def is_right(project: Project, gold: dict[str, Any], answer: dict[str, Any], order: Sequence[Placed]) -> bool:
    """Whether a stored vote agrees with the right answer."""
    tolerance = gold.get("tolerance", 1)
    if project.kind == "pair":
        given, wanted = answer["preference"] or 0, gold.get("preference") or 0
        return (given > 0) - (given < 0) == (wanted > 0) - (wanted < 0) and abs(given - wanted) <= tolerance
    if project.kind == "single":
        allowed = 0 if project.scale == "thumbs" else tolerance
        return answer["score"] is not None and abs(answer["score"] - gold.get("score", 0)) <= allowed
    best = next((response.id for response in order if response.place == gold.get("best")), None)
    return bool(answer["ranking"]) and best in answer["ranking"][0]


def expected(project: Project, gold: dict[str, Any], order: Sequence[Placed]) -> Any:
    """The right answer as the rater would have given it: a preference, a score, or the id of the best response."""
    if project.kind == "pair":
        return _turned(gold.get("preference") or 0, order)
    if project.kind == "single":
        return gold.get("score")
    return next((response.id for response in order if response.place == gold.get("best")), None)
