"""Recipe `explanation_traces`: answers that explain themselves, asked for by system messages that stay in the rows (Orca)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, field_validator

from app.recipes.base import Maker, PromptsParams, Row, WrittenRecipe
from app.recipes.texts import batches, drawn, prompt_of, seed_of, usable, with_system

SYSTEMS = [
    "You are a helpful assistant. Think step by step and give reasons for your answer.",
    "You are a teacher. Explain the task in simple words first, then answer it, so that a ten-year-old child understands.",
    "Solve the task in numbered steps. Say for each step why it follows, and end with the answer in a line of its own.",
    "You are a careful expert. Before you answer, say what is known, what is asked, and what has to be found out.",
    "Answer, and then explain how you came to the answer and how one can check it.",
    "You are an assistant that gives a detailed answer, so that nobody needs to look anything up to understand it.",
]
"""System messages in the manner of Orca, in our words."""


class ExplanationTracesParams(PromptsParams):
    """Settings of the recipe."""

    max_tokens: int = Field(1024, ge=1, le=32_768)
    """Most tokens of an answer; explanations are long. Answers that reach it are cut."""
    systems: list[Annotated[str, Field(max_length=5000)]] = Field(default=SYSTEMS, min_length=1, max_length=100)
    """System messages that ask for explanations."""
    each: int = Field(1, ge=1, le=100)
    """How many different system messages each prompt is asked under; they are drawn by the seed."""
    keep_system: bool = True
    """Whether the rows hold the system message, as in Orca: the model then explains when it is asked to, and only then."""

    @field_validator("systems")
    @classmethod
    def _say_something(cls, value: list[str]) -> list[str]:
        if not all(each.strip() for each in value):
            raise ValueError("A system message is empty. Write it, or remove it")
        return list(dict.fromkeys(each.strip() for each in value))


class ExplanationTraces(WrittenRecipe):
    """Has a model answer prompts under system messages that ask for reasons and steps.

    Take it to hand the way a large model reasons on to a small one, not just its answers (Orca, arXiv 2306.02707); train on the rows with
    `sft`. Where each row should answer without being told to explain, leave `keep_system` off, which is context distillation with several
    messages. The explanations are as right as the writer is: check some.
    """

    name = "explanation_traces"
    title = "Explanation traces"
    summary = "Answers with reasons and steps, asked for by system messages that stay in the rows (Orca)."
    produces = "prompt_completion"
    params = ExplanationTracesParams

    def make(self, params: ExplanationTracesParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, completion}` whose prompt begins with the system message; `steps` says what was asked."""
        prompts = drawn(maker, params)
        maker.begin(len(prompts), "prompts")
        each = min(params.each, len(params.systems))
        for part in batches(prompts, max(1, maker.together // each)):
            asked = []
            for prompt in part:
                source = random.Random(seed_of(params.seed, "system", prompt))
                asked += [(prompt, system) for system in source.sample(params.systems, each)]
            found = maker.write(
                [with_system(prompt, system) for prompt, system in asked],
                by=params.writer,
                temperature=params.temperature,
                max_tokens=params.max_tokens,
                seed=params.seed,
            )
            for (prompt, system), [answer] in zip(asked, found, strict=True):
                if usable(answer, params, maker):
                    told = with_system(prompt, system)
                    step = {"step": "answer", "system": system, "asked": told, "answer": answer.text, "finish": answer.finish}
                    kept = told if params.keep_system else prompt_of(prompt)
                    yield "train", {"prompt": kept, "completion": answer.text.strip(), "steps": [step]}
            maker.step(len(part))
