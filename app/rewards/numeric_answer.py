"""Reward: the last number of the answer is that of the row's answer."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Literal

from pydantic import ConfigDict, Field

from app.rewards.base import Answered, Reward, RewardParams

_NUMBER = re.compile(r"(?:(?<![\w)])[-−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d{1,3}(?!\d))?|(?<!\d)\.\d+")


class NumericAnswerParams(RewardParams):
    """1 where the last number of the answer is that of its row, else 0."""

    model_config = ConfigDict(title="Numeric answer")

    kind: Literal["numeric_answer"] = "numeric_answer"
    tolerance: float = Field(0.0, ge=0, le=1e9, title="Tolerance")
    """How far apart both numbers may be, such as 0.01. 0 asks for the same number; 1.50 and 1.5 are the same."""


class NumericAnswer(Reward):
    """1 where the last number of the answer is the last one of its row's answer, else 0.

    Take it for calculations: the way there may be written freely, and only the result counts, as in the rule rewards of DeepSeek-R1
    (arXiv 2501.12948).
    """

    name = "numeric_answer"
    title = "Numeric answer"
    summary = "1 where the last number of the answer is that of its row, else 0."
    params = NumericAnswerParams
    expects = True

    def score(self, params: NumericAnswerParams, answered: Answered) -> float:
        """1 or 0; 0 too where one of both has no number."""
        found, wanted = last_number(answered.cut), last_number(answered.wanted)
        if found is None or wanted is None:
            return 0.0
        return float(found == wanted or abs(found - wanted) <= Decimal(repr(params.tolerance)))


def last_number(text: str) -> Decimal | None:
    """The last number in a text: `1072` of "3 times, so 1,072."; None where there is none."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None
    except InvalidOperation:  # beyond what decimals hold
        return None
