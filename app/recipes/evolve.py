"""Recipe `evolve`: prompts made harder or wider step by step, and answered; evolutions that went wrong are dropped by rule."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from app.recipes.base import Answer, Maker, Messages, PromptsParams, Row, WrittenRecipe
from app.recipes.texts import alike, batches, drawn, is_refusal, likeness, plain, seed_of, usable, words

Operator = Literal["constrain", "deepen", "concretise", "reason", "broaden"]
OPERATORS: dict[str, str] = {
    "constrain": "Rewrite the task so that it is a little harder: add one more condition or requirement that the answer has to meet.",
    "deepen": "Rewrite the task so that it is a little harder: ask further into its subject, for something that takes more knowledge.",
    "concretise": "Rewrite the task so that it is a little harder: put something more particular in the place of a general notion.",
    "reason": "Rewrite the task so that it is a little harder: a task that takes one step is to take several steps of thought.",
    "broaden": "Write another task instead: of the same field and about as hard, but rarer, with another subject.",
}
ASKED = """{operator}

It must stay a task that people understand and that can be answered in writing alone, of at most {most} words more. Reply with the task \
and nothing else.

[Task]
{task}"""
LEAKED = ("given task", "rewritten task", "new task", "the task above", "[task]", "given prompt", "rewritten prompt", "#new", "#rewritten")
"""What a task must not say: words of the request that found their way into it (fourth rule of WizardLM)."""
SAME = 0.9
"""A task this like its parent has gained nothing."""
MORE_WORDS = 25
SHORT_ANSWER = 80
"""Words of an answer below which “sorry” means that the task cannot be answered (second rule of WizardLM)."""


class EvolveParams(PromptsParams):
    """Settings of the recipe."""

    rounds: int = Field(2, ge=1, le=8)
    """How often each task is evolved; each round starts from what the one before made. WizardLM did 4."""
    operators: list[Operator] = Field(default=["constrain", "deepen", "concretise", "reason", "broaden"], min_length=1, max_length=5)
    """What may be done to a task, one drawn by the seed each time: add a condition, ask deeper, be more particular, ask for several steps
    of thought; `broaden` makes another, rarer task."""
    keep_originals: bool = True
    """Whether the tasks you gave are answered too, as in WizardLM."""
    task_temperature: float = Field(1.0, ge=0, le=2)
    """How freely tasks are rewritten."""


@dataclass
class _Task:
    text: str
    steps: list[dict[str, Any]] = field(default_factory=list)


class Evolve(WrittenRecipe):
    """Has a model make tasks harder or wider, round by round, and answer each of them.

    Take it to get demanding instructions out of simple ones, as WizardLM did (Evol-Instruct, arXiv 2304.12244); train on the rows with
    `sft`. An evolution is dropped, and the task tried again in the next round, when it says the same as before or as another task, repeats
    words of the request, is a refusal, or gets an answer that is one. Only prompts of a single message are evolved.
    """

    name = "evolve"
    title = "Evolve"
    summary = "Tasks made harder or wider step by step, with answers (WizardLM)."
    produces = "prompt_completion"
    params = EvolveParams

    def make(self, params: EvolveParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, completion}`; `steps` holds each operator and what came of it."""
        prompts = [asked for asked in drawn(maker, params)]
        single = [_Task(asked[0]["content"]) for asked in prompts if len(asked) == 1 and asked[0]["role"] == "user"]
        if len(single) < len(prompts):
            maker.count("prompts of several messages left out", len(prompts) - len(single))
        maker.begin(len(single) * (params.rounds + params.keep_originals), "tasks")
        # Likeness is judged within a part, so that it takes no longer the more there are.
        for part in batches(single, max(1, maker.together)):
            pool = [words(each.text) for each in part]
            if params.keep_originals:
                for task, answer in zip(part, self._answers(params, maker, part), strict=True):
                    if usable(answer, params, maker):
                        yield "train", _row(task, answer)
                maker.step(len(part))
            current = list(part)
            for number in range(params.rounds):
                evolved = self._evolved(params, maker, current, number, pool)
                places = [place for place, each in enumerate(evolved) if each is not None]
                tasks = [each for each in evolved if each is not None]
                for place, task, answer in zip(places, tasks, self._answers(params, maker, tasks), strict=True):
                    if "sorry" in words(answer.text) and len(answer.text.split()) < SHORT_ANSWER:
                        maker.count("evolutions that cannot be answered")
                    elif usable(answer, params, maker):
                        maker.count(f"tasks evolved by {task.steps[-1]['operator']}")
                        current[place] = task
                        yield "train", _row(task, answer)
                maker.step(len(part))

    def _evolved(
        self, params: EvolveParams, maker: Maker, tasks: Sequence[_Task], number: int, pool: list[list[str]]
    ) -> list[_Task | None]:
        """What became of each task; None where the evolution went wrong."""
        chosen = [random.Random(seed_of(params.seed, "operator", number, each.text)).choice(params.operators) for each in tasks]
        asked: list[Messages] = [
            [{"role": "user", "content": ASKED.format(operator=OPERATORS[operator], most=MORE_WORDS, task=each.text)}]
            for each, operator in zip(tasks, chosen, strict=True)
        ]
        found = maker.write(
            asked,
            by=params.writer,
            temperature=params.task_temperature,
            max_tokens=params.max_tokens,
            seed=seed_of(params.seed, "evolve", number),
        )
        result: list[_Task | None] = []
        for task, operator, request, [answer] in zip(tasks, chosen, asked, found, strict=True):
            text = answer.text.strip()
            wrong = self._wrong(task.text, text, answer, operator, pool)
            if wrong:
                maker.count(wrong)
                result.append(None)
                continue
            pool.append(words(text))
            step = {"step": "evolve", "operator": operator, "from": task.text, "asked": request, "answer": answer.text}
            result.append(_Task(text, [*task.steps, step]))
        return result

    def _wrong(self, before: str, text: str, answer: Answer, operator: str, pool: Sequence[Sequence[str]]) -> str:
        """By which rule an evolution is dropped; empty where it is kept."""
        mine = words(text)
        if answer.finish == "error":
            return "errors"
        if answer.finish == "refused" or is_refusal(text):
            return "evolutions that are refusals"
        if answer.finish == "length":
            return "evolutions cut at the limit"
        if len(mine) < 3:
            return "evolutions without words"
        if any(leak in plain(text) and leak not in plain(before) for leak in LEAKED):
            return "evolutions that repeat the request"
        if likeness(mine, words(before)) >= SAME:
            return "evolutions that change nothing"
        return "evolutions too like other tasks" if alike(mine, pool, SAME) else ""

    def _answers(self, params: EvolveParams, maker: Maker, tasks: Sequence[_Task]) -> list[Answer]:
        found = maker.write(
            [[{"role": "user", "content": each.text}] for each in tasks],
            by=params.writer,
            temperature=params.temperature,
            max_tokens=params.max_tokens,
            seed=params.seed,
        )
        return [answers[0] for answers in found]


def _row(task: _Task, answer: Answer) -> Row:
    steps = [*task.steps, {"step": "answer", "answer": answer.text, "finish": answer.finish}]
    return {"prompt": task.text, "completion": answer.text.strip(), "steps": steps}
