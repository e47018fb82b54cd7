"""Two answers put to a model, in both orders: what it is asked, word for word, and what is made of what it says. Declares no recipe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from app.recipes.base import Choice, Maker, Messages
from app.recipes.texts import transcript

LETTERS = ("A", "B")
ASKED = """Below are a conversation and two answers to its last message.

[Conversation]
{conversation}

[Answer A]
{first}

[Answer B]
{second}

[Question]
{question}

Reply with one letter and nothing else: A or B."""


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, and what is asked about them."""

    prompt: Messages
    first: str
    second: str
    question: str


@dataclass(frozen=True)
class Verdict:
    """What came of asking in both orders."""

    second_wins: bool | None
    """None where there is no verdict."""
    certainty: float
    """0 (undecided) to 1; 1 where the model named the same answer both times and told no probabilities."""
    detail: dict[str, Any]
    """Probability that the second answer is picked where it stands second and first, or the letters that were named."""


@dataclass
class Judge:
    """Asks about pairs and keeps count of how much the place of an answer mattered.

    Args:
        by: checkpoint, or None for the endpoint.
    """

    maker: Maker
    by: str | None
    _of_first: list[float] = field(default_factory=list)
    """For each question the probability of the first place, or whether it was named."""
    _flips: list[bool] = field(default_factory=list)
    """For each pair whether the other order changed the verdict."""

    def __call__(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """A verdict on each pair."""
        asked = [_asked(pair, swapped) for pair in pairs for swapped in (False, True)]
        said = self.maker.choose(asked, LETTERS, by=self.by)
        return [self._verdict(*said[number : number + 2]) for number in range(0, len(said), 2)]

    def _verdict(self, plain: Choice, swapped: Choice) -> Verdict:
        if plain.logs is not None and swapped.logs is not None:
            first_there, first_here = (_sigmoid(logs[0] - logs[1]) for logs in (plain.logs, swapped.logs))
            second = 1 - first_there, first_here  # as it stands second, and first
            self._of_first += [first_there, first_here]
            self._flips.append((second[0] > 0.5) != (second[1] > 0.5))
            average = sum(second) / 2
            detail: dict[str, Any] = {"second_picked": average, "where_second": second[0], "where_first": second[1]}
            return Verdict(None if average == 0.5 else average > 0.5, abs(2 * average - 1), detail)
        named = [None if choice.picked is None else LETTERS[choice.picked] for choice in (plain, swapped)]
        detail = {"named": named[0], "named_swapped": named[1]}
        if plain.picked is None or swapped.picked is None:
            self.maker.count("pairs without a verdict")
            return Verdict(None, 0.0, detail)
        self._of_first += [float(choice.picked == 0) for choice in (plain, swapped)]
        agrees = plain.picked != swapped.picked  # the letter changes when the answer stays the same
        self._flips.append(not agrees)
        if not agrees:
            self.maker.count("pairs judged otherwise when swapped")
            return Verdict(None, 0.0, detail)
        return Verdict(plain.picked == 1, 1.0, detail)

    def report(self) -> None:
        """Add to the report how much the place mattered."""
        if self._flips:
            lean, flips = fmean(self._of_first), fmean(self._flips)
            self.maker.note("first_place", lean, f"Whatever stood first was picked with a probability of {lean:.0%}; 50 % is fair.")
            self.maker.note("flips", flips, f"{flips:.0%} of the pairs were judged otherwise when swapped.")


def _asked(pair: Pair, swapped: bool) -> Messages:
    first, second = (pair.second, pair.first) if swapped else (pair.first, pair.second)
    text = ASKED.format(conversation=_shown(pair.prompt), first=first, second=second, question=pair.question)
    return [{"role": "user", "content": text}]


def _shown(prompt: Messages) -> str:
    return f"User: {transcript(prompt)}" if len(prompt) == 1 else transcript(prompt)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
