"""Recipe `constitution`: drafts that are criticised and revised by principles, and preferences of the revision over the draft."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.recipes.base import Answer, Maker, Messages, PromptsParams, Row, WrittenRecipe
from app.recipes.judging import Judge, Pair, Verdict
from app.recipes.texts import batches, drawn, plain, prompt_of, seed_of, usable
from app.references import PolicyId

QUESTION = "Which answer follows this principle better?"


class Principle(BaseModel):
    """One principle: what is asked for, and the two requests that apply it."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, str_strip_whitespace=True)

    id: str = Field(min_length=1, max_length=100)
    """Names it in the rows."""
    text: str = Field(min_length=1, max_length=2000)
    """The principle itself, in a sentence; a judge compares by it."""
    critique: str = Field(min_length=1, max_length=2000)
    """Asks for what is wrong with the answer."""
    revision: str = Field(min_length=1, max_length=2000)
    """Asks for a better answer."""


def _principle(id: str, text: str, wrong: str, better: str) -> Principle:
    return Principle(
        id=id, text=text, critique=f"Say in short {wrong}", revision=f"Rewrite your answer {better} Reply with the new answer alone."
    )


PRINCIPLES = [
    _principle(
        "harm",
        "The answer does not help anybody to hurt people, animals or property.",
        "how your last answer could help somebody to do harm, if it could.",
        "so that it helps nobody to do harm, and says why where it leaves something out.",
    ),
    _principle(
        "honesty",
        "The answer is true, and says what it does not know.",
        "what in your last answer is untrue, made up, or surer than it can be.",
        "so that all of it is true and doubts are named.",
    ),
    _principle(
        "respect",
        "The answer is respectful and without prejudice.",
        "what in your last answer is rude, insulting or prejudiced.",
        "so that it is respectful to everybody.",
    ),
    _principle(
        "use",
        "The answer helps with what was asked, clearly and without filler.",
        "what in your last answer does not help with what was asked.",
        "so that it answers what was asked, clearly and in few words.",
    ),
]


class ConstitutionParams(PromptsParams):
    """Settings of the recipe."""

    leave_out: list[Literal["refusals", "cut"]] = Field(default=["cut"])
    """What is left out, and counted. Refusals in English are kept here unless you add them: a revision that declines to do harm is one."""
    critic: PolicyId | None = Field(None, title="Critic")
    """Checkpoint that criticises, revises and compares. Empty: the writer does it itself."""
    principles: list[Principle] = Field(default=PRINCIPLES, min_length=1, max_length=100)
    """The constitution. For each revision one principle is drawn by the seed, none twice for the same prompt while there are others."""
    revisions: int = Field(1, ge=1, le=4)
    """Times each draft is criticised and revised."""
    preferences: bool = True
    """Whether a second dataset is made of draft and last revision, the better one by the critic's judgement in both orders."""

    @field_validator("principles")
    @classmethod
    def _named_once(cls, value: list[Principle]) -> list[Principle]:
        names = [each.id for each in value]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"Two principles have the id “{twice}”. Give each its own")
        return value


@dataclass
class _Draft:
    prompt: Messages
    principles: list[Principle]
    """In the order they are applied."""
    texts: list[str]
    """The draft, then each revision."""
    steps: list[dict[str, Any]] = field(default_factory=list)


class Constitution(WrittenRecipe):
    """Has a model answer, find fault with its answer by a principle, and write a better one.

    It makes two datasets: prompts with their last revision for `sft`, and, where asked for, preferences between draft and revision for
    `dpo` or `reward` (constitutional AI, arXiv 2212.08073, without a person labelling harm). Draft, principle, critique and revision are
    kept with each row. It takes a model that can criticise: small ones repeat the request. Where only preferences by principles are
    wanted, `ai_feedback` asks less.
    """

    name = "constitution"
    title = "Constitution"
    summary = "Answers criticised and revised by principles you write, and preferences of the revision over the draft."
    produces = "prompt_completion"
    params = ConstitutionParams

    def parts(self, params: ConstitutionParams) -> dict[str, str]:
        """The revisions, and the preferences where asked for."""
        return {"train": "", **({"preferences": "-preferences"} if params.preferences else {})}

    def make(self, params: ConstitutionParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, completion}` and `{prompt, chosen, rejected}`; `steps` holds draft, critiques and revisions."""
        critic = params.critic or params.writer
        prompts = drawn(maker, params)
        judge = Judge(maker, critic)
        maker.begin(len(prompts), "prompts")
        for part in batches(prompts, maker.together):
            drafts = []
            for prompt, answer in zip(part, self._write(params, maker, params.writer, part, "draft"), strict=True):
                if usable(answer, params, maker):
                    drafts.append(_Draft(prompt, self._principles(params, prompt), [answer.text.strip()], [_step("draft", answer)]))
            for number in range(params.revisions):
                drafts = self._revised(params, maker, critic, drafts, number)
            pairs = [self._pair(params, each) for each in drafts] if params.preferences else []
            for number, each in enumerate(drafts):
                yield "train", {"prompt": prompt_of(each.prompt), "completion": each.texts[-1], "steps": each.steps}
                if plain(each.texts[0]) == plain(each.texts[-1]):
                    maker.count("revisions that change nothing")
                    if params.preferences:
                        pairs[number] = None
            asked = [(each, pair) for each, pair in zip(drafts, pairs, strict=False) if pair is not None]
            for (each, pair), verdict in zip(asked, judge([pair for _, pair in asked]), strict=True):
                row = self._preference(maker, each, pair, verdict)
                if row is not None:
                    yield "preferences", row
            maker.step(len(part))
        judge.report()

    def _write(self, params: ConstitutionParams, maker: Maker, by: str | None, asked: Sequence[Messages], what: str) -> list[Answer]:
        found = maker.write(asked, by=by, temperature=params.temperature, max_tokens=params.max_tokens, seed=seed_of(params.seed, what))
        return [answers[0] for answers in found]

    def _principles(self, params: ConstitutionParams, prompt: Messages) -> list[Principle]:
        source = random.Random(seed_of(params.seed, "principles", prompt))
        drawn: list[Principle] = []
        while len(drawn) < params.revisions:
            drawn += source.sample(params.principles, len(params.principles))
        return drawn[: params.revisions]

    def _revised(self, params: ConstitutionParams, maker: Maker, critic: str | None, drafts: list[_Draft], number: int) -> list[_Draft]:
        """The drafts once more criticised and revised; those that cannot be are left out."""
        asked = [_request(each, each.principles[number].critique) for each in drafts]
        kept, revising = [], []
        for each, talk, critique in zip(drafts, asked, self._write(params, maker, critic, asked, f"critique {number}"), strict=True):
            if critique.finish == "error" or not critique.text.strip():
                maker.count("critiques that are empty or could not be asked for")
                continue
            principle = each.principles[number]
            each.steps.append({**_step("critique", critique), "principle": principle.id, "asked": principle.critique})
            kept.append(each)
            answered = {"role": "assistant", "content": critique.text.strip()}
            revising.append([*talk, answered, {"role": "user", "content": principle.revision}])
        found = []
        for each, revision in zip(kept, self._write(params, maker, critic, revising, f"revision {number}"), strict=True):
            if usable(revision, params, maker):
                principle = each.principles[number]
                each.steps.append({**_step("revision", revision), "principle": principle.id, "asked": principle.revision})
                each.texts.append(revision.text.strip())
                found.append(each)
        return found

    def _pair(self, params: ConstitutionParams, each: _Draft) -> Pair | None:
        """Draft and last revision in an order drawn by the seed, and the principle of the last revision."""
        first, second = each.texts[0], each.texts[-1]
        if random.Random(seed_of(params.seed, "order", each.prompt)).random() < 0.5:
            first, second = second, first
        return Pair(each.prompt, first, second, f"Principle: {each.principles[-1].text}\n{QUESTION}")

    def _preference(self, maker: Maker, each: _Draft, pair: Pair, verdict: Verdict) -> Row | None:
        if verdict.second_wins is None:
            if "second_picked" in verdict.detail:
                maker.count("ties")
            return None
        chosen, rejected = (pair.second, pair.first) if verdict.second_wins else (pair.first, pair.second)
        maker.count("pairs won by the revision" if chosen == each.texts[-1] else "pairs won by the draft")
        judged = {
            "step": "judged",
            "principle": each.principles[-1].id,
            "first": "draft" if pair.first == each.texts[0] else "revision",
            "certainty": verdict.certainty,
            **verdict.detail,
        }
        return {"prompt": prompt_of(each.prompt), "chosen": chosen, "rejected": rejected, "steps": [*each.steps, judged]}


def _step(name: str, answer: Answer) -> dict[str, Any]:
    return {"step": name, "answer": answer.text, "finish": answer.finish}


def _request(each: _Draft, request: str) -> Messages:
    return [*each.prompt, {"role": "assistant", "content": each.texts[-1]}, {"role": "user", "content": request}]
