"""Reward: how like the answer is to the one the row gives."""

from __future__ import annotations

import re
from collections import Counter
from difflib import SequenceMatcher
from typing import Literal

from pydantic import ConfigDict, Field

from app.rewards.base import Answered, Reward, RewardParams

_WORD = re.compile(r"\w+")
_LONGEST_COMPARED = 2_000
"""Characters compared one by one: the time that takes grows with their square."""


class SimilarityParams(RewardParams):
    """How like the answer is to that of its row, from 0 to 1."""

    model_config = ConfigDict(title="Similarity")

    kind: Literal["similarity"] = "similarity"
    measure: Literal["token_f1", "characters"] = Field("token_f1", title="Measured by")
    """`token_f1`: the words both share, whatever their order, as for question answering (SQuAD, arXiv 1606.05250). `characters`: the share
    of characters that match in order (Ratcliff and Obershelp), of the first 2,000."""


class Similarity(Reward):
    """0 for an answer that shares nothing with that of its row, 1 for the same one.

    Take it where answers may differ in wording, and no judge or reward model is at hand. It rewards sounding alike, not being right.
    """

    name = "similarity"
    title = "Similarity"
    summary = "How like the answer is to that of its row, from 0 to 1."
    params = SimilarityParams
    expects = True

    def score(self, params: SimilarityParams, answered: Answered) -> float:
        """0 to 1."""
        if params.measure == "characters":
            sides = (answered.text.strip()[:_LONGEST_COMPARED], (answered.expected or "").strip()[:_LONGEST_COMPARED])
            return SequenceMatcher(None, *sides, autojunk=False).ratio()
        found, wanted = (Counter(_WORD.findall(text.casefold())) for text in (answered.cut, answered.wanted))
        if not found or not wanted:
            return float(found == wanted)
        shared = (found & wanted).total()
        return 2 * shared / (found.total() + wanted.total())
