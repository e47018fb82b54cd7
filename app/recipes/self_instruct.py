"""Recipe `self_instruct`: new tasks written after the pattern of a few seed tasks, each unlike the others, and answers to them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from app.recipes.base import Answer, Maker, Messages, Row, WrittenParams, WrittenRecipe
from app.recipes.texts import alike, drawn_rows, seed_of, transcript, usable, words
from app.references import DatasetId

ASKED = """Below are some tasks that people give an assistant.

{examples}

Write {count} new tasks. Make them as different from these and from each other as you can: other subjects, other kinds of task, short ones \
and long ones. Each must be answered in writing alone. Write them as a numbered list, one task each, and nothing else."""
SEEDS_READ = 2000
FEWEST_WORDS, MOST_WORDS = 3, 150
"""A task outside of these is left out, as in Self-Instruct."""
IDLE_ROUNDS = 5
"""After so many rounds without one new row nothing new is to be expected."""
_NUMBERED = re.compile(r"^[ \t]*(?:#+ *)?(?:\*\*)?(?:task )?(\d{1,3})[.):](?:\*\*)?[ \t]*", re.MULTILINE | re.IGNORECASE)


class SelfInstructParams(WrittenParams):
    """Settings of the recipe."""

    seeds: DatasetId = Field(min_length=1, title="Seed tasks")
    """Dataset with tasks of the kind that is wanted, as its prompts; some dozens that differ much do well (Alpaca had 175)."""
    rows: int = Field(100, ge=1, le=100_000)
    """How many tasks with answers to make. It ends earlier when nothing new comes any more."""
    examples: int = Field(3, ge=1, le=20)
    """Seed tasks that are shown in each request, drawn anew; from the second round on one of the new tasks is shown too."""
    each: int = Field(5, ge=1, le=20)
    """New tasks asked for in each request."""
    likeness: float = Field(0.7, gt=0, le=1)
    """A task that is this like a seed task or an earlier one is left out: 0 shares no words, 1 is the same (ROUGE-L, 0.7 as in
    Self-Instruct)."""
    task_temperature: float = Field(1.0, ge=0, le=2)
    """How freely tasks are written; they want more freedom than answers."""
    forbidden: list[Annotated[str, Field(min_length=1, max_length=100)]] = Field(
        default=["image", "picture", "photo", "graph", "diagram", "flowchart", "file", "map", "draw", "plot", "video", "audio", "music"],
        max_length=200,
    )
    """Tasks with one of these words are left out: a model that only writes cannot do them. The list is after that of Self-Instruct."""


@dataclass(frozen=True)
class _Task:
    text: str
    asked: Messages
    answer: str


class SelfInstruct(WrittenRecipe):
    """Has a model write new tasks after the pattern of yours, and answer them.

    Take it to make many instructions out of few, as Self-Instruct (arXiv 2212.10560) and Alpaca did; train on the rows with `sft`. The
    tuned model copies the writer's style far sooner than its knowledge, and its mistakes too: look at the rows before training. Many
    providers forbid to train models on what theirs write; check the terms of the writer.
    """

    name = "self_instruct"
    title = "Self-instruct"
    summary = "New tasks after the pattern of some seed tasks, each unlike the others, with answers."
    produces = "prompt_completion"
    params = SelfInstructParams

    def make(self, params: SelfInstructParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, completion}`, with the request each task came from in `steps`."""
        seeds = [transcript(asked) for asked, _, _ in drawn_rows(maker, params.seeds, SEEDS_READ, params.seed)]
        if not seeds:
            raise ValueError("the dataset with the seed tasks holds no prompt")
        pool, made, idle, number = [words(each) for each in seeds], 0, 0, 0
        tasks: list[str] = []
        maker.begin(params.rows, "tasks")
        while made < params.rows and idle < IDLE_ROUNDS:
            wanted = params.rows - made
            count = max(1, min(maker.together, -(-wanted // params.each)))
            requests = [self._request(params, seeds, tasks, number + each) for each in range(count)]
            found = maker.write(
                requests,
                by=params.writer,
                temperature=params.task_temperature,
                max_tokens=params.max_tokens,
                seed=seed_of(params.seed, "tasks", number),
            )
            number += count
            maker.count("requests for tasks", count)
            new = []
            for asked, [answer] in zip(requests, found, strict=True):
                for text in self._read(answer, maker):
                    if self._fits(text, params, pool, maker):
                        pool.append(words(text))
                        new.append(_Task(text, asked, answer.text))
            before = made
            for row in self._answered(params, maker, new[:wanted]):
                made += 1
                yield "train", row
            tasks += [each.text for each in new]
            idle = 0 if made > before else idle + 1
        if made < params.rows:
            maker.note(
                "missing", params.rows - made, f"It ended after {made:,} rows, since {IDLE_ROUNDS} rounds in a row brought nothing new."
            )

    def _request(self, params: SelfInstructParams, seeds: list[str], tasks: list[str], number: int) -> Messages:
        source = random.Random(seed_of(params.seed, "examples", number))
        shown = source.sample(seeds, min(params.examples, len(seeds))) + (source.sample(tasks, 1) if tasks else [])
        source.shuffle(shown)
        examples = "\n\n".join(f"{place}. {text}" for place, text in enumerate(shown, 1))
        return [{"role": "user", "content": ASKED.format(examples=examples, count=params.each)}]

    def _read(self, answer: Answer, maker: Maker) -> list[str]:
        """The tasks of a numbered list; of one cut at the limit without its last, which is not whole."""
        if answer.finish in ("error", "refused"):
            maker.count("errors" if answer.finish == "error" else "refusals")
            return []
        marks = list(_NUMBERED.finditer(answer.text))
        if not marks:
            maker.count("lists that cannot be read")
            return []
        ends = [mark.start() for mark in marks[1:]] + [len(answer.text)]
        found = [answer.text[mark.end() : end].strip().strip("*").strip() for mark, end in zip(marks, ends, strict=True)]
        if answer.finish == "length":
            maker.count("tasks cut at the limit")
            found = found[:-1]
        return [each for each in found if each]

    def _fits(self, text: str, params: SelfInstructParams, pool: list[list[str]], maker: Maker) -> bool:
        """Whether a task is taken; why not is counted."""
        mine = words(text)
        forbidden = {word.casefold() for word in params.forbidden}
        if not FEWEST_WORDS <= len(text.split()) <= MOST_WORDS:
            maker.count("tasks too short or too long")
        elif any(word in forbidden or word.removesuffix("s") in forbidden for word in mine):
            maker.count("tasks with a forbidden word")
        elif alike(mine, pool, params.likeness):
            maker.count("tasks too like others")
        else:
            return True
        return False

    def _answered(self, params: SelfInstructParams, maker: Maker, tasks: list[_Task]) -> Iterator[Row]:
        asked: list[Messages] = [[{"role": "user", "content": each.text}] for each in tasks]
        found = maker.write(asked, by=params.writer, temperature=params.temperature, max_tokens=params.max_tokens, seed=params.seed)
        for task, [answer] in zip(tasks, found, strict=True):
            if usable(answer, params, maker):
                maker.step()
                steps = [
                    {"step": "tasks", "asked": task.asked, "answer": task.answer},
                    {"step": "answer", "answer": answer.text, "finish": answer.finish},
                ]
                yield {"prompt": task.text, "completion": answer.text.strip(), "steps": steps}
