"""What a judge that writes is asked, word for word, and the letters it can answer with. Knows no model and no table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.recipes.judging import ASKED, LETTERS

NUMBERS = ("1", "2", "3", "4", "5")
SINGLE = """Below are a conversation and an answer to its last message.

[Conversation]
{conversation}

[Answer]
{first}

[Question]
{question}

Reply with one number and nothing else, from 1 (not at all) to 5 (fully)."""
PLAIN_END = "\n\nReply:"
"""Ends what a model without chat template reads."""

_QUESTIONS = {
    ("pair", "better"): "Which answer is better?",
    ("pair", "worse"): "Which answer is worse?",
    ("single", "better"): "How good is the answer?",
    ("single", "worse"): "How bad is the answer?",
}


def questions(kind: str, direction: str, question: str, principles: Sequence[str]) -> list[str]:
    """What is asked of every item: one question for each principle, or that of the project.

    Args:
        kind: of the project: pair, single or rank. Rankings are asked pair by pair.
        direction: `worse` where people pick the worse answer.
    """
    if principles:
        words = "How well does the answer follow this principle?" if kind == "single" else "Which answer follows this principle better?"
        return [f"Principle: {principle}\n{words}" for principle in principles]
    usual = _QUESTIONS["single" if kind == "single" else "pair", direction]
    return [usual if kind == "rank" or not question.strip() else question.strip()]


def choices(kind: str) -> tuple[str, ...]:
    """What it can answer with."""
    return NUMBERS if kind == "single" else LETTERS


def template(kind: str) -> str:
    """The message with places for the question and what is judged."""
    return SINGLE if kind == "single" else ASKED


def asked(kind: str, question: str, prompt: Sequence[Mapping[str, str]], first: str, second: str = "") -> str:
    """The message a judge is sent."""
    conversation = "\n\n".join(f"{str(each['role']).capitalize()}: {each['content']}" for each in prompt)
    return template(kind).format(conversation=conversation, first=first, second=second, question=question)
