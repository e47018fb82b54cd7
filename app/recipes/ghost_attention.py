"""Recipe `ghost_attention`: dialogues answered under an instruction that the row holds in its first turn alone (Llama 2)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from app.recipes.base import Answer, Maker, Messages, PromptsParams, Row, WrittenRecipe
from app.recipes.texts import batches, drawn_rows, messages_of, seed_of, usable


class GhostAttentionParams(PromptsParams):
    """Settings of the recipe."""

    limit: int = Field(1000, ge=1, le=100_000)
    """At most so many prompts, drawn by the seed; single ones are put together into dialogues."""
    instructions: list[Annotated[str, Field(max_length=5000)]] = Field(min_length=1, max_length=1000)
    """What is to hold through a whole dialogue, such as “Always answer with a rhyme.”; one is drawn for each dialogue by the seed."""
    turns: int = Field(3, ge=2, le=10)
    """Questions of a dialogue. A dialogue that has more is cut after these; single prompts are put together, so many each."""
    told: Literal["every", "first"] = "every"
    """Where the writer is told while it answers: before each question, as in Llama 2, or before the first alone, which asks more of it."""

    @field_validator("instructions")
    @classmethod
    def _say_something(cls, value: list[str]) -> list[str]:
        if not all(each.strip() for each in value):
            raise ValueError("An instruction is empty. Write it, or remove it")
        return list(dict.fromkeys(each.strip() for each in value))


class GhostAttention(WrittenRecipe):
    """Has a model answer whole dialogues under an instruction, which the rows hold before the first question only.

    Train on the rows with `sft`, which learns the last answer of a chat and nothing before it: the model learns to mind, many turns later,
    what it was told once (Ghost Attention, Llama 2, arXiv 2307.09288, section 3.3). A dialogue with a refusal, an empty or a cut answer
    in any turn is left out whole. The writer must obey the instruction: a small one hardly does before it was tuned to.
    """

    name = "ghost_attention"
    title = "Ghost attention"
    summary = "Dialogues that follow an instruction to the end, though only the first turn says it."
    produces = "chat"
    params = GhostAttentionParams

    def make(self, params: GhostAttentionParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{messages}`; `steps` holds each turn as it was asked."""
        dialogues = self._dialogues(params, maker)
        maker.count("dialogues", len(dialogues))
        maker.begin(len(dialogues) * params.turns, "turns")
        for part in batches(dialogues, maker.together):
            drawn = [random.Random(seed_of(params.seed, "instruction", each)).choice(params.instructions) for each in part]
            answers: list[list[Answer]] = [[] for _ in part]
            alive = list(range(len(part)))
            for turn in range(params.turns):
                alive = [number for number in alive if turn < len(part[number])]
                found = maker.write(
                    [_asked(part[number][: turn + 1], answers[number], drawn[number], params.told == "every") for number in alive],
                    by=params.writer,
                    temperature=params.temperature,
                    max_tokens=params.max_tokens,
                    seed=params.seed,
                )
                going = []
                for number, [answer] in zip(alive, found, strict=True):
                    if usable(answer, params, maker):
                        answers[number].append(answer)
                        going.append(number)
                    else:
                        maker.count("dialogues left out for one of their answers")
                        answers[number].clear()
                alive = going
                maker.step(len(part))
            for questions, instruction, said in zip(part, drawn, answers, strict=True):
                if len(said) == len(questions):
                    yield "train", self._row(questions, instruction, said, params)

    def _row(self, questions: Sequence[str], instruction: str, said: list[Answer], params: GhostAttentionParams) -> Row:
        every = params.told == "every"
        steps = [
            {"step": f"turn {turn + 1}", "asked": _asked(questions[: turn + 1], said, instruction, every), "answer": answer.text}
            for turn, answer in enumerate(said)
        ]
        last = {"role": "assistant", "content": said[-1].text.strip()}
        return {"messages": [*_asked(questions, said, instruction, False), last], "steps": steps, "meta": {"instruction": instruction}}

    def _dialogues(self, params: GhostAttentionParams, maker: Maker) -> list[list[str]]:
        """Questions of each dialogue: those of a dialogue with several, and single ones put together in an order drawn by the seed."""
        found, single = [], []
        for asked, row, shape in drawn_rows(maker, params.prompts, params.limit, params.seed):
            whole = messages_of(row["messages"]) if shape == "chat" else asked
            questions = [each["content"] for each in whole if each["role"] == "user" and each["content"].strip()]
            if len(questions) > 1:
                found.append(questions[: params.turns])
            else:
                single += questions
        random.Random(seed_of(params.seed, "dialogues")).shuffle(single)
        whole_groups = len(single) // params.turns * params.turns
        if whole_groups < len(single):
            maker.count("prompts left over", len(single) - whole_groups)
        return found + [list(each) for each in batches(single[:whole_groups], params.turns)]


def _asked(questions: Sequence[str], said: Sequence[Answer], instruction: str, every: bool) -> Messages:
    """A dialogue up to a question, the instruction before each question or before the first alone."""
    found: Messages = []
    for turn, question in enumerate(questions):
        found.append({"role": "user", "content": f"{instruction}\n\n{question}" if every or turn == 0 else question})
        if turn < len(questions) - 1:
            found.append({"role": "assistant", "content": said[turn].text.strip()})
    return found
