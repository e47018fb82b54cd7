"""What a model answers while it is trained: samples of fixed prompts, and the share of answers that are right. Disturbs no random state."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.generate import Speaker, answer
from worker.resumable import undisturbed

Prompt = str | Sequence[dict[str, str]]
_INTEGER = re.compile(r"(?:(?<![\d)])[-−])?\d+(?:,\d{3})*")
CHECK_BATCH = 100


@dataclass(frozen=True)
class Question:
    """A prompt with the answer its row gives."""

    prompt: Prompt
    expected: str

    @property
    def shown(self) -> str:
        """The prompt as people read it."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return self.prompt[0]["content"]
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.prompt)


def questions(rows: Any, answer_column: str, count: int) -> list[Question]:
    """The first rows of a dataset as questions; rows without that answer have none to compare with."""
    found = []
    for row in rows.select(range(min(count, len(rows)))):
        value = row.get(answer_column, "")
        expected = value if isinstance(value, str) else value[-1]["content"] if value else ""
        found.append(Question(row["prompt"], expected.strip()))
    return found


def last_integer(text: str) -> int | None:
    """The last whole number in a text: `72` of "so it is 1,072 - 1,000 = 72.", None where there is none."""
    numbers = _INTEGER.findall(text)
    return int(numbers[-1].replace(",", "").replace("−", "-")) if numbers else None


def ask(model: Any, tokenizer: Any, asked: Sequence[Question], max_new_tokens: int, done: Callable[[int], None] | None = None) -> list[str]:
    """Greedy answers; the model is put back into the mode it was in."""
    was_training = model.training
    model.eval()
    found: list[str] = []
    try:
        with undisturbed():
            for text in answer(
                Speaker(model, tokenizer), [each.prompt for each in asked], max_new_tokens=max_new_tokens, batch_size=CHECK_BATCH
            ):
                found.append(text.strip())
                if done and len(found) % CHECK_BATCH == 0:
                    done(len(found))
    finally:
        model.train(was_training)
    return found


def exact_match(
    model: Any, tokenizer: Any, asked: Sequence[Question], max_new_tokens: int, done: Callable[[int], None] | None = None
) -> float:
    """Share of questions whose answer ends with the same whole number as the row's."""
    # Prompts of like length share a batch, so that little is reckoned on padding.
    ordered = sorted(asked, key=lambda each: len(each.shown))
    answers = ask(model, tokenizer, ordered, max_new_tokens, done)
    right = sum(last_integer(text) == last_integer(each.expected) is not None for text, each in zip(answers, ordered, strict=True))
    return right / len(ordered)
