"""Rewards of answers while a model learns from them: rules, reward models and judges, added up. Samples nothing and trains nothing."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from app import rewards
from app.rewards.base import Answered, RewardParams
from app.rewards.model import ModelParams
from app.rewards.rubric import LETTERS, RubricParams, questions
from worker import generate
from worker import rewards as scoring
from worker.feedback_judge import _Letters, in_batches, tokens_for
from worker.libraries import out_of_memory
from worker.reporting import Failed
from worker.rows import Messages

Checkpoints = Mapping[str, Mapping[str, Any]]
"""Folders of other checkpoints: id -> `path`, `adapter` and `name`."""


class Scoring(Protocol):
    """Gives many answers a number at once."""

    def __call__(self, answers: Sequence[Answered]) -> Sequence[float]:
        """One number for each answer, in their order."""


class ScoredByRule:
    """Scores by a rule of `app.rewards`.

    Raises:
        Failed: the rule cannot be applied to an answer.
    """

    def __init__(self, params: RewardParams) -> None:
        self.params, self.rule = params, rewards.of(params)

    def __call__(self, answers: Sequence[Answered]) -> Sequence[float]:
        """One number for each answer."""
        try:
            return [self.rule.score(self.params, answered) for answered in answers]
        except ValueError as error:
            raise Failed(f"The reward {self.rule.name} cannot go on: {error}.", "config") from error


class ScoredByModel:
    """Scores by a finished reward or score run."""

    def __init__(self, params: ModelParams, others: Checkpoints, device: str, dtype: str) -> None:
        self.scorer = scoring.load(_named(others, params.checkpoint), device, dtype)

    def __call__(self, answers: Sequence[Answered]) -> Sequence[float]:
        """One number for each answer."""
        read = [{"prompt": each.prompt, "completion": each.text} for each in answers]
        lengths = [len(scoring.tokens_of(self.scorer, each)) for each in read]
        return in_batches(
            lengths, self.scorer.device, lambda part: scoring.score(self.scorer, [read[one] for one in part], batch_size=len(part))
        )


class AskedByRules:
    """Scores by what a judge would say to each rule."""

    def __init__(self, params: RubricParams, others: Checkpoints, device: str, dtype: str) -> None:
        folder = _named(others, params.checkpoint)
        speaker = generate.load(folder["path"], adapter=folder["adapter"], device=device, dtype=dtype)
        speaker.model.requires_grad_(False)
        self.letters = _Letters(speaker, "pair", [], device, tokens_for(speaker.tokenizer, LETTERS))
        self.rules = params.rules

    def __call__(self, answers: Sequence[Answered]) -> Sequence[float]:
        """The probability of yes, on average over rules and orders."""
        asked = [
            self.letters._ids(text)
            for each in answers
            for rule in self.rules
            for text in questions(rule, each.prompt, each.text)  # yes is the first letter, then the second
        ]
        found = in_batches([len(ids) for ids in asked], self.letters.device, lambda part: self.letters._shares([asked[n] for n in part]))
        yes = [1 / (1 + math.exp(min(700.0, (b - a) if number % 2 == 0 else (a - b)))) for number, (a, b) in enumerate(found)]
        each = 2 * len(self.rules)
        return [math.fsum(yes[start : start + each]) / each for start in range(0, len(yes), each)]


def _named(others: Checkpoints, checkpoint: str) -> Mapping[str, Any]:
    found = others.get(checkpoint)
    if found is None:
        raise Failed("The files of a checkpoint that a reward names are gone. Name another one in rewards.", "config")
    return {"adapter": None, **found}


class Rewards:
    """All rewards of a run.

    Args:
        params: settings of each.
        others: folders of the checkpoints they name.
        device: where their models are held.
        dtype: type of the weights of their models.
    """

    def __init__(self, params: Sequence[RewardParams], others: Checkpoints, device: str, dtype: str) -> None:
        self.weights = [each.weight for each in params]
        self.names = _apart([rewards.of(each).name for each in params])
        self.parts = [self._part(each, others, device, dtype) for each in params]

    def _part(self, params: RewardParams, others: Checkpoints, device: str, dtype: str) -> Scoring:
        engine = rewards.of(params).engine
        if engine is None:
            return ScoredByRule(params)
        try:
            made: Scoring = pkgutil.resolve_name(engine)(params, others, device, dtype)
        except Exception as error:
            if out_of_memory(error):
                raise Failed(
                    "The model of a reward does not fit into memory beside the one that learns. Take a smaller one, or quantise the base.",
                    "config",
                ) from error
            raise
        return made

    def columns(self, answers: Sequence[Answered]) -> list[list[float]]:
        """For each reward one number for each answer, not weighed yet.

        Raises:
            Failed: a reward gives no finite number.
        """
        return [finite(name, part(answers)) for name, part in zip(self.names, self.parts, strict=True)]

    def total(self, columns: Sequence[Sequence[float]]) -> torch.Tensor:
        """The sum of all rewards of each answer, each times its weight."""
        weights = torch.tensor(self.weights, dtype=torch.float64)
        return (torch.tensor(columns, dtype=torch.float64) * weights[:, None]).sum(dim=0).float()

    def figures(self, columns: Sequence[Sequence[float]]) -> dict[str, float]:
        """The mean of each reward, where there are several."""
        if len(self.names) < 2:
            return {}
        return {f"rewards/{name}": math.fsum(column) / len(column) for name, column in zip(self.names, columns, strict=True)}


def finite(name: str, numbers: Sequence[float]) -> list[float]:
    """The numbers of a reward.

    Raises:
        Failed: one is none.
    """
    if not all(map(math.isfinite, numbers)):
        raise Failed(f"The reward {name} gave no number (NaN): its checkpoint may be damaged. Take another one.", "model")
    return [float(number) for number in numbers]


def _apart(names: Sequence[str]) -> list[str]:
    """Names that differ: a second `length` is `length_2`."""
    return [name if names[:number].count(name) == 0 else f"{name}_{names[:number].count(name) + 1}" for number, name in enumerate(names)]


def answered(
    prompts: Sequence[str | Messages], texts: Sequence[str], tokens: Sequence[int], expected: Sequence[str | None]
) -> list[Answered]:
    """Answers side by side with what they answer."""
    return [Answered(*each) for each in zip(prompts, texts, tokens, expected, strict=True)]
