"""What keeps an item from being rated: answers that are the same, empty, cut off, error messages, or tell who gave them. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Sequence

from app.feedback.schemas import ResponseIn

_MAKERS = (
    r"(?:chat ?gpt|gpt-?\d\w*|open ?ai|anthropic|claude|google|gemini|bard|deepmind|meta ai|llama(?:[- ]?\d[\w.]*)?|mistral(?: ai)?|"
    r"mixtral|qwen[\w.]*|alibaba(?: cloud)?|deep ?seek|smollm\w*|hugging ?face|vicuna|lmsys|cohere|phi-\d\w*|microsoft|grok|xai|"
    r"falcon|stability ai)"
)
_LEAK = re.compile(
    rf"\b(?:i am|i'm|i’m|my name is|call me|(?:was|am|model|assistant) (?:developed|trained|created|made|built) (?:by|at)|"
    rf"(?:developed|trained|created|made|built) by|(?:language )?model (?:from|by|of))\b[^.!?\n]{{0,60}}?\b{_MAKERS}\b",
    re.IGNORECASE,
)
_ERROR = re.compile(
    r"^\W*(?:(?:internal )?server error|error(?: code)?[: ]+\d{3}|traceback \(most recent call last\)|\$?network error|rate limit exceeded|"
    r"cuda out of memory|api request error)",
    re.IGNORECASE,
)
_CURSOR = ("▌", "█")
"""What chat pages leave where an answer is still being written."""


def reason_against(prompt: str, responses: Sequence[ResponseIn]) -> str | None:
    """Why an item should not be rated, as a key of `FILTERS`; None where nothing speaks against it."""
    texts = [response.text.strip() for response in responses]
    if not all(texts):
        return "empty"
    if any(response.finish == "error" for response in responses) or any(_ERROR.match(text) for text in texts):
        return "error"
    if any(response.finish == "length" for response in responses) or any(text.endswith(_CURSOR) for text in texts):
        return "cut"
    if len(texts) > 1 and len({" ".join(text.split()) for text in texts}) == 1:
        return "identical"
    if any(_LEAK.search(text[:20_000]) for text in texts) or any(_names_itself(prompt, response) for response in responses):
        return "leak"
    return None


def _names_itself(prompt: str, response: ResponseIn) -> bool:
    """Whether an answer holds the name of its own source, and was not asked about it."""
    name = response.source.strip().lower()
    if len(name) < 5 or not re.search(r"[\d_\-/]", name):  # a plain word such as “model” or “human” may well be in an answer
        return False
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", response.text.lower()) is not None and name not in prompt.lower()


def style(text: str) -> dict[str, int]:
    """What could sway a rater: counts of words, headers, list entries and bold passages."""
    return {
        "words": len(text.split()),
        "headers": len(re.findall(r"^#{1,6} ", text, re.MULTILINE)),
        "lists": len(re.findall(r"^\s*(?:[-*+]|\d{1,3}[.)]) ", text, re.MULTILINE)),
        "bold": len(re.findall(r"\*\*[^*\n]+\*\*|__[^_\n]+__", text)),
    }
