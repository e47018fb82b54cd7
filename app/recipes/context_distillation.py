"""Recipe `context_distillation`: answers given under a system prompt, kept without it, so that a model learns to need none."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, field_validator

from app.recipes.base import Maker, PromptsParams, Row, WrittenRecipe
from app.recipes.texts import batches, drawn, plain, prompt_of, usable, with_system


class ContextDistillationParams(PromptsParams):
    """Settings of the recipe."""

    system: str = Field(min_length=1, max_length=20_000, title="System prompt")
    """What the writer is told before each prompt. The rows do not have it: it is what the tuned model will do unasked."""
    answers: int = Field(1, ge=1, le=16)
    """Answers to each prompt; those that repeat another one are left out. More than 1 wants a temperature above 0."""

    @field_validator("system")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("Write the system prompt that is to be learned")
        return value.strip()


class ContextDistillation(WrittenRecipe):
    """Has a model answer prompts under a system prompt, and keeps the answers without that prompt.

    Train a model on the rows with `sft`: it then answers as if it had been told, and the tokens of the system prompt are saved (context
    distillation, arXiv 2112.00861). The writer must obey the system prompt: a small one hardly does before it was tuned to.
    Facts that only the system prompt holds are better looked up than learned this way.
    """

    name = "context_distillation"
    title = "Context distillation"
    summary = "Answers given under a system prompt, kept without it: a model learns to behave so unasked."
    produces = "prompt_completion"
    params = ContextDistillationParams

    def make(self, params: ContextDistillationParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, completion}`, with what the writer was told in `steps`."""
        prompts = drawn(maker, params)
        maker.begin(len(prompts), "prompts")
        for part in batches(prompts, maker.together):
            found = maker.write(
                [with_system(each, params.system) for each in part],
                by=params.writer,
                temperature=params.temperature,
                max_tokens=params.max_tokens,
                seed=params.seed,
                n=params.answers,
            )
            for prompt, answers in zip(part, found, strict=True):
                seen: set[str] = set()
                for answer in answers:
                    if not usable(answer, params, maker):
                        continue
                    if plain(answer.text) in seen:
                        maker.count("duplicate answers")
                        continue
                    seen.add(plain(answer.text))
                    step = {"step": "answer", "asked": with_system(prompt, params.system), "answer": answer.text, "finish": answer.finish}
                    yield "train", {"prompt": prompt_of(prompt), "completion": answer.text.strip(), "steps": [step]}
            maker.step(len(part))
