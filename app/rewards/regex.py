"""Reward: a regular expression matches somewhere in the answer."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from app.rewards.base import Answered, Reward, RewardParams

SECONDS = 1.0
"""Time that a pattern may take for one answer. Sound ones take microseconds; one that explodes would never end."""


class RegexParams(RewardParams):
    """1 where a pattern is found in the answer, else 0."""

    model_config = ConfigDict(title="Regular expression")

    kind: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1, max_length=300, title="Pattern")
    """Searched for anywhere in the answer, in the language of Python's `re`; `\\A` and `\\Z` stand for its beginning and end."""
    ignore_case: bool = Field(False, title="Ignore case")
    """Whether small and capital letters count as the same."""
    absent: bool = Field(False, title="Must be absent")
    """Whether an answer is good when the pattern does not match."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"This is no regular expression: {error}. Correct it") from error
        return value


class Regex(Reward):
    """1 where the pattern is found in the answer (or, if it must be absent, is not), else 0.

    Take it for a form that can be told by a pattern, such as a date or a tag. Patterns are bounded: at most 300 characters, at most 20,000
    characters of an answer, and a second for each; a run whose pattern takes longer stops and says so.
    """

    name = "regex"
    title = "Regular expression"
    summary = "1 where a pattern is found in the answer, else 0."
    params = RegexParams

    def score(self, params: RegexParams, answered: Answered) -> float:
        """1 or 0.

        Raises:
            ValueError: the pattern takes too long for this answer, or the library that can stop it does not know it.
        """
        # Its search can be stopped, unlike that of `re`; it comes with transformers.
        import regex  # type: ignore[import-untyped]  # it has no types

        try:
            # V0 behaves as `re` does; the library keeps compiled patterns itself.
            found = regex.search(
                params.pattern, answered.cut, flags=regex.V0 | (regex.IGNORECASE if params.ignore_case else 0), timeout=SECONDS
            )
        except TimeoutError as error:
            raise ValueError(
                f"the pattern {params.pattern!r} took longer than a second for an answer of {len(answered.cut):,} characters; simplify it, "
                "such as by not nesting repetitions"
            ) from error
        except regex.error as error:
            raise ValueError(f"the pattern {params.pattern!r} cannot be used: {error}; write it more plainly") from error
        return float((found is None) == params.absent)
