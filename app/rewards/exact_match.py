"""Reward: the answer is the one the row gives."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ConfigDict, Field

from app.rewards.base import Answered, Reward, RewardParams

_NO_WORD = re.compile(r"[^\w\s]")


class ExactMatchParams(RewardParams):
    """1 where the answer is that of its row, else 0."""

    model_config = ConfigDict(title="Exact match")

    kind: Literal["exact_match"] = "exact_match"
    ignore_case: bool = Field(True, title="Ignore case")
    """Whether small and capital letters count as the same."""
    ignore_punctuation: bool = Field(False, title="Ignore punctuation")
    """Whether everything that is no letter, digit or blank is left out of both."""


class ExactMatch(Reward):
    """1 where the answer is that of its row, else 0; blanks around and between words do not count.

    Take it where there is one right answer that is short, such as a class, a name or a choice.
    """

    name = "exact_match"
    title = "Exact match"
    summary = "1 where the answer is that of its row, else 0."
    params = ExactMatchParams
    expects = True

    def score(self, params: ExactMatchParams, answered: Answered) -> float:
        """1 or 0."""

        def plain(text: str) -> list[str]:
            text = _NO_WORD.sub(" ", text) if params.ignore_punctuation else text
            return (text.casefold() if params.ignore_case else text).split()

        return float(plain(answered.cut) == plain(answered.wanted))
