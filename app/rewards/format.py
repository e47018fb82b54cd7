"""Reward: the answer begins, ends, contains and leaves out what it should."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from app.rewards.base import Answered, Lines, Reward, RewardParams


class FormatParams(RewardParams):
    """The share of conditions met: begins with, ends with, contains, must not contain."""

    model_config = ConfigDict(title="Format")

    kind: Literal["format"] = "format"
    begins_with: str = Field("", max_length=500, title="Begins with")
    """What the answer must begin with."""
    ends_with: str = Field("", max_length=500, title="Ends with")
    """What the answer must end with."""
    contains: Lines = Field(default_factory=list, max_length=50, title="Contains")
    """Texts the answer must contain, in any order."""
    forbids: Lines = Field(default_factory=list, max_length=50, title="Must not contain")
    """Texts the answer must not contain."""
    ignore_case: bool = Field(False, title="Ignore case")
    """Whether small and capital letters count as the same."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> FormatParams:
        if not (self.begins_with.strip() or self.ends_with.strip() or self.contains or self.forbids):
            raise ValueError("Say what the answer must look like: set begins_with, ends_with, contains or forbids")
        return self


class Format(Reward):
    """The share of its conditions that the answer meets; blanks around the answer do not count.

    Take it for tags that must be there, such as <answer>, or words that must not.
    """

    name = "format"
    title = "Format"
    summary = "The share of conditions met: begins with, ends with, contains, must not contain."
    params = FormatParams

    def score(self, params: FormatParams, answered: Answered) -> float:
        """0 to 1."""

        def plain(text: str) -> str:
            return text.casefold() if params.ignore_case else text

        text = plain(answered.text.strip())
        met = [plain(each) in text for each in params.contains] + [plain(each) not in text for each in params.forbids]
        if params.begins_with.strip():
            met.append(text.startswith(plain(params.begins_with.strip())))
        if params.ends_with.strip():
            met.append(text.endswith(plain(params.ends_with.strip())))
        return sum(met) / len(met)
