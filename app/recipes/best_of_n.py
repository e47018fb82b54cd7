"""Recipe `best_of_n`: the best of several answers to each prompt by a reward (rejection sampling), and pairs of best and worst."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from pydantic import Field, model_validator

from app.recipes.base import Answer, Maker, Messages, PromptsParams, Row, WrittenRecipe
from app.recipes.texts import batches, drawn_rows, plain, prompt_of, usable
from app.references import RewardId
from app.rewards import RewardSettings, in_need_of_answers, of
from app.rewards.base import Answered


class BestOfNParams(PromptsParams):
    """Settings of the recipe."""

    temperature: float = Field(0.9, ge=0, le=2)
    """How freely answers are sampled: with little freedom they hardly differ, and there is nothing to choose from."""
    answers: int = Field(4, ge=2, le=64)
    """Answers to each prompt. Llama 2 took 1 to 100 and saw the best reward still grow; each further one adds less."""
    reward: RewardId | None = Field(None, title="Reward model")
    """Checkpoint of a reward or score run that gives each answer a number. Empty: only the rules count."""
    rules: list[RewardSettings] = Field(default_factory=list, max_length=20)
    """Rules that give answers a number, such as `{"kind": "length", "target": 30}` (see the rewards of `grpo`); each times its weight is
    added to the number of the reward model. Rules that compare with the answer of the row need a dataset with answers; where a rule
    counts tokens, words are counted here."""
    least_difference: float = Field(0.0, ge=0, le=1_000_000)
    """A pair is only made where the best answer's reward is more than this above the worst one's."""

    @model_validator(mode="after")
    def _scores(self) -> BestOfNParams:
        if self.reward is None and not self.rules:
            raise ValueError("Say what tells good answers from bad ones: set reward, or add rules")
        modelled = next((of(each).name for each in self.rules if of(each).engine), None)
        if modelled is not None:
            raise ValueError(f"“{modelled}” is no rule of the studio’s own. Set reward to a reward model, or take rules such as length")
        if self.temperature == 0:
            raise ValueError("With a temperature of 0 all answers are the same. Set it above 0, such as 0.9")
        return self


class BestOfN(WrittenRecipe):
    """Has a model answer each prompt several times and keeps the answer with the best reward.

    It makes two datasets: the best answers, to train on with `sft` (rejection sampling, as in Llama 2, arXiv 2307.09288, section 3.2.3),
    and pairs of the best and the worst answer for `dpo`. Take it to get more out of a reward model without reinforcement learning. The
    reward model can be outwitted here too: look at what it likes. Where all answers are as good as each other, no pair is made.
    """

    name = "best_of_n"
    title = "Best of n"
    summary = "The best of several answers by a reward model or by rules, to imitate; and pairs of best and worst."
    produces = "prompt_completion"
    params = BestOfNParams

    def parts(self, params: BestOfNParams) -> dict[str, str]:
        """The best answers, and the pairs."""
        return {"train": "", "pairs": "-pairs"}

    def make(self, params: BestOfNParams, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows `{prompt, completion}` and `{prompt, chosen, rejected}`; `steps` holds all answers with their rewards."""
        prompts = drawn_rows(maker, params.prompts, params.limit, params.seed)
        maker.count("prompts", len(prompts))
        if prompts and (needy := in_need_of_answers(params.rules)) and "completion" not in prompts[0][1]:
            raise ValueError(f"{needy[0]} compares with the answer of the row, and these rows have none. Take prompts with answers")
        maker.begin(len(prompts), "prompts")
        every: list[float] = []
        best: list[float] = []
        for part in batches(prompts, max(1, maker.together // params.answers)):
            found = maker.write(
                [asked for asked, _, _ in part],
                by=params.writer,
                temperature=params.temperature,
                max_tokens=params.max_tokens,
                seed=params.seed,
                n=params.answers,
            )
            for (asked, row, _), answers in zip(part, found, strict=True):
                different: dict[str, Answer] = {}
                for answer in answers:
                    if usable(answer, params, maker):
                        if plain(answer.text) in different:
                            maker.count("duplicate answers")
                        different.setdefault(plain(answer.text), answer)
                ranked = self._ranked(params, maker, asked, row, list(different.values()))
                every += [score for score, _ in ranked]
                if not ranked:
                    continue
                best.append(ranked[0][0])
                steps = [{"step": "answer", "answer": each.text, "finish": each.finish, "reward": score} for score, each in ranked]
                prompt, chosen = prompt_of(asked), ranked[0][1].text.strip()
                yield "train", {"prompt": prompt, "completion": chosen, "steps": steps}
                if ranked[0][0] - ranked[-1][0] > params.least_difference:
                    yield "pairs", {"prompt": prompt, "chosen": chosen, "rejected": ranked[-1][1].text.strip(), "steps": steps}
                else:
                    maker.count("prompts without a pair")
            maker.step(len(part))
        if every:
            mean, top = fmean(every), fmean(best)
            maker.note("mean_reward", mean, f"The mean reward of all {len(every):,} answers is {mean:.4g}.")
            maker.note("best_reward", top, f"The mean reward of the {len(best):,} chosen ones is {top:.4g}.")

    def _ranked(
        self, params: BestOfNParams, maker: Maker, asked: Messages, row: Row, answers: Sequence[Answer]
    ) -> list[tuple[float, Answer]]:
        """Answers with their rewards, the best first; of equals the earlier one."""
        totals = [0.0] * len(answers)
        if params.reward and answers:
            told = maker.score([[*asked, {"role": "assistant", "content": each.text.strip()}] for each in answers], by=params.reward)
            for number, value in enumerate(told):
                if value is None:
                    maker.count("answers the reward model cannot read")
                    totals[number] = float("nan")
                else:
                    totals[number] = value
        for number, each in enumerate(answers):
            answered = Answered(asked, each.text.strip(), len(each.text.split()), _expected(row))
            totals[number] += sum(rule.weight * of(rule).score(rule, answered) for rule in params.rules)
        ranked = [(total, number) for number, total in enumerate(totals) if total == total]
        return [(total, answers[number]) for total, number in sorted(ranked, key=lambda each: (-each[0], each[1]))]


def _expected(row: dict[str, Any]) -> str | None:
    answer = row.get("completion")
    if isinstance(answer, list):
        return str(answer[-1]["content"])
    return answer if isinstance(answer, str) else None
