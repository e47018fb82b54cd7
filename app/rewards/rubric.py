"""Reward: how surely a judge says that an answer follows some rules. Says what the judge is asked, word for word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ConfigDict, Field, field_validator

from app.references import PolicyId
from app.rewards.base import Lines, Reward, RewardParams

LETTERS = ("A", "B")
ASKED = """Below are a conversation and an answer to its last message.

[Conversation]
{conversation}

[Answer]
{answer}

[Question]
Does the answer follow this rule?
Rule: {rule}

A: {a}
B: {b}

Reply with one letter and nothing else: A or B."""


class RubricParams(RewardParams):
    """How surely a judge checkpoint says that the answer follows your rules, from 0 to 1."""

    model_config = ConfigDict(title="Rubric")

    kind: Literal["rubric"] = "rubric"
    checkpoint: PolicyId = Field(min_length=1, title="Judge")
    """A checkpoint that writes text and follows instructions."""
    rules: Lines = Field(max_length=20, title="Rules")
    """One sentence each, such as “The answer is polite.”; each is asked by itself, and they count alike."""

    @field_validator("rules")
    @classmethod
    def _say_something(cls, value: list[str]) -> list[str]:
        if not value:
            raise ValueError("There is no rule to ask about. Write at least one, such as “The answer is polite.”")
        if not all(rule.strip() for rule in value):
            raise ValueError("A rule is empty. Write a sentence, or remove it")
        return [rule.strip() for rule in value]


class Rubric(Reward):
    """The probability with which a judge says yes when asked whether the answer follows a rule, on average over the rules.

    Nothing is sampled: it is read off the probabilities of the letters that stand for yes and no. Each rule is asked with either option
    first, and both are averaged, since models favour a place. Take it where a rule can be said in words but not in code, as in
    constitutional AI (arXiv 2212.08073); small models judge badly. The judge is held in memory beside the model that learns.
    """

    name = "rubric"
    title = "Rubric"
    summary = "How surely a judge checkpoint says that the answer follows your rules, from 0 to 1."
    params = RubricParams
    engine = "worker.engines.rewarding:AskedByRules"


def questions(rule: str, prompt: str | Sequence[Mapping[str, str]], answer: str) -> tuple[str, str]:
    """What a judge is asked about a rule: once with yes as A, once with yes as B."""
    conversation = prompt if isinstance(prompt, str) else "\n\n".join(f"{each['role'].capitalize()}: {each['content']}" for each in prompt)
    first, second = (ASKED.format(conversation=conversation, answer=answer, rule=rule, a=a, b=b) for a, b in (("yes", "no"), ("no", "yes")))
    return first, second
