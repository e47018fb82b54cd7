"""Recipe `ai_feedback`: pairs of answers, of which a judge model says which follows a principle better; both orders are asked."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator

from app.recipes.base import Answer, Maker, Messages, PromptsParams, Row, WrittenRecipe
from app.recipes.judging import Judge, Pair
from app.recipes.texts import batches, drawn_rows, plain, prompt_of, seed_of, usable
from app.references import PolicyId

QUESTION = "Which answer follows this principle better?"


class AiFeedbackParams(PromptsParams):
    """Settings of the recipe."""

    temperature: float = Field(1.0, ge=0, le=2)
    """How freely the two answers are sampled, so that they differ."""
    judge: PolicyId | None = Field(None, title="Judge")
    """Checkpoint that compares. Empty: the endpoint that an admin has set. It should be a better model than the writer; small ones favour
    a place whatever stands there."""
    principles: list[Annotated[str, Field(max_length=2000)]] = Field(
        default=["The answer is helpful, honest and harmless."], min_length=1, max_length=50
    )
    """One sentence each; for each pair one is drawn by the seed, as in constitutional AI."""
    least_certainty: float = Field(0.0, ge=0, lt=1)
    """Pairs of which the judge is not surer than this are left out: 0 keeps all but ties, 0.5 those it gives at least 75 % to one answer.
    A judge that tells no probabilities counts as sure when both orders agree."""

    @field_validator("principles")
    @classmethod
    def _say_something(cls, value: list[str]) -> list[str]:
        if not all(each.strip() for each in value):
            raise ValueError("A principle is empty. Write a sentence, or remove it")
        return [each.strip() for each in value]

    def writers(self, shapes: Sequence[str]) -> list[str]:
        """Writer and judge; the judge alone where the answers are there."""
        return ["judge"] if "preference" in shapes else ["writer", "judge"]


class AiFeedback(WrittenRecipe):
    """Has a model answer each prompt twice, and a judge say which answer is better by a principle of yours.

    The rows are preferences for `dpo` or `reward` (RL from AI feedback, arXiv 2212.08073 and 2309.00267). A dataset of preferences is
    judged anew: its two answers are taken as they are, and nothing is written. Each pair is asked about in both orders. From a judge that
    tells probabilities both are averaged; from one that does not, only pairs count on which both orders agree. The report says how much
    the place mattered: where it is far from 50 %, take a better judge. Ask people too, and see on a sample how far they agree with it.
    """

    name = "ai_feedback"
    title = "AI feedback"
    summary = "Preferences given by a judge model by principles you write, in both orders."
    produces = "preference"
    params = AiFeedbackParams

    def make(self, params: AiFeedbackParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, chosen, rejected}`; `steps` holds both answers, the principle and what the judge said."""
        prompts = drawn_rows(maker, params.prompts, params.limit, params.seed)
        maker.count("prompts", len(prompts))
        judge = Judge(maker, params.judge)
        maker.begin(len(prompts), "prompts")
        for part in batches(prompts, max(1, maker.together // 2)):
            pairs = []
            for (asked, _, _), answers in zip(part, self._answers(params, maker, part), strict=True):
                if answers is not None:
                    principle = random.Random(seed_of(params.seed, "principle", asked)).choice(params.principles)
                    pairs.append((Pair(asked, *answers, f"Principle: {principle}\n{QUESTION}"), principle))
            for (pair, principle), verdict in zip(pairs, judge([pair for pair, _ in pairs]), strict=True):
                if verdict.second_wins is None or verdict.certainty <= params.least_certainty:
                    if verdict.second_wins is not None:
                        maker.count("pairs the judge is not sure of")
                    elif "second_picked" in verdict.detail:
                        maker.count("ties")
                    continue
                chosen, rejected = (pair.second, pair.first) if verdict.second_wins else (pair.first, pair.second)
                steps = [
                    {"step": "first", "answer": pair.first},
                    {"step": "second", "answer": pair.second},
                    {"step": "judged", "principle": principle, "certainty": verdict.certainty, **verdict.detail},
                ]
                yield "train", {"prompt": prompt_of(pair.prompt), "chosen": chosen, "rejected": rejected, "steps": steps}
            maker.step(len(part))
        judge.report()

    def _answers(self, params: AiFeedbackParams, maker: Maker, part: Sequence[tuple[Messages, Row, str]]) -> list[tuple[str, str] | None]:
        """Two different answers to each prompt: those of its row where it has two, else written; None where there are none."""
        found: list[tuple[str, str] | None] = [
            (_text(row["chosen"]), _text(row["rejected"])) if shape == "preference" else None for _, row, shape in part
        ]
        missing = [number for number, (_, _, shape) in enumerate(part) if shape != "preference"]
        written: list[list[Answer]] = []
        if missing:
            written = maker.write(
                [part[number][0] for number in missing],
                by=params.writer,
                temperature=params.temperature,
                max_tokens=params.max_tokens,
                seed=params.seed,
                n=2,
            )
        for number, answers in zip(missing, written, strict=True):
            first, second = answers
            if all([usable(first, params, maker), usable(second, params, maker)]):
                found[number] = (first.text.strip(), second.text.strip())
        for number, pair in enumerate(found):
            if pair is not None and plain(pair[0]) == plain(pair[1]):
                maker.count("pairs of the same answer")
                found[number] = None
            elif pair is not None and random.Random(seed_of(params.seed, "order", part[number][0])).random() < 0.5:
                found[number] = (pair[1], pair[0])  # a row's chosen answer is not to be told by its place
        return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "\n\n".join(str(message["content"]) for message in value)
