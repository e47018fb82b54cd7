"""Objectives that learn from rewards: grpo, rloo, ppo and online_dpo, asked for answers of ten words at most, and judged greedily nowhere:
answers are drawn as the model says, before and after.

What is not rewarded is looked at too, with limits stated here, so that a model that collapses fails though its reward is high: how far it
went from the start (KL), how likely its answers are to the start, and how many of them differ.
"""  # fmt: skip

from __future__ import annotations

from statistics import fmean
from typing import Any

import numpy as np

from app.rewards.base import Answered
from app.rewards.length import Length, LengthParams
from benchmarks.learning import preferences
from benchmarks.learning.bench import Bench, Finding, log_probabilities
from benchmarks.ratings_loop import prompts, share

REWARD = {"kind": "length", "maximum": 10}
TRAIN, HELD_OUT, LONGEST = 600, 104, 32
GAP = 0.6
"""Share of the way from the start's mean reward to the highest that has to be gone."""
KL, LIKELY, DIFFERENT = 0.6, 1.0, 0.8
"""Limits: KL from the start a token at most, nats a token by which answers may be less likely to the start than its own are, share of the
answers to different prompts that differ."""
STEPS, STEPS_ON_A_MODEL = 24, 20
"""A model's reward has no highest value, so answers go on leaving the start: with 32 and 48 steps of ppo they went past the limits."""


def asked() -> tuple[list[str], list[str]]:
    """Prompts to learn from, and prompts to judge by."""
    train, held_out = prompts(TRAIN, HELD_OUT)
    return train[:TRAIN], held_out


def rows_of(bench: Bench) -> str:
    """The dataset of prompts."""
    return str(bench.once("prompts", lambda: bench.dataset("prompts", [{"prompt": each} for each in asked()[0]])))


def scores(prompts: list[str], texts: list[str]) -> list[float]:
    """The rule's reward of each answer."""
    rule, settings = Length(), LengthParams(**{key: value for key, value in REWARD.items() if key != "kind"})  # type: ignore[arg-type]
    return [rule.score(settings, Answered(prompt=prompt, text=text, tokens=0)) for prompt, text in zip(prompts, texts, strict=True)]


def learner(bench: Bench, method: str, *, model: bool = False, steps: int = STEPS, **params: Any) -> list[Finding]:
    """Train from rewards and judge.

    Args:
        model: rewarded by a trained reward run in place of the rule.
    """
    rewards = [{"kind": "model", "checkpoint": preferences.head_run(bench, "reward")["checkpoint"]}] if model else [REWARD]
    run = bench.run(method, rows_of(bench), rewards=rewards, max_completion_length=LONGEST, max_length=256, max_steps=steps, **params)
    questions = asked()[1]

    def drawn(checkpoint: str | None) -> tuple[list[str], list[tuple[str, str]]]:
        """All answers, and those that ended by themselves with their questions: where one was cut, its end was not drawn."""
        found = bench.answers(checkpoint, questions, temperature=1.0, longest=LONGEST)
        ended = [(question, text) for question, (text, end) in zip(questions, found, strict=True) if end and text]
        return [text for text, _ in found], ended

    before, rows_before = bench.once("drawn by the start", lambda: drawn(None))
    after, rows = drawn(run["checkpoint"])
    score, most = (by_model(bench), None) if model else (scores, 1.0)
    was, now = score(questions, before), score(questions, after)
    with bench.model(run["checkpoint"]) as (speaker, tokenizer):
        new, lengths = log_probabilities(speaker, tokenizer, rows)
        with speaker.disable_adapter():
            old, _ = log_probabilities(speaker, tokenizer, rows)
            own, own_lengths = log_probabilities(speaker, tokenizer, rows_before)
    kl = (sum(new) - sum(old)) / sum(lengths)
    lost = sum(own) / sum(own_lengths) - sum(old) / sum(lengths)
    different = len(set(after)) / len(after)
    bench.notes.append(
        f"    words {fmean(len(text.split()) for text in before):.1f} → {fmean(len(text.split()) for text in after):.1f}, "
        f"such as {after[0][:100]!r}"
    )
    sound = kl <= KL and lost <= LIKELY and different >= DIFFERENT
    quality = Finding(
        f"KL {kl:.2f} a token, answers {lost:+.2f} nats a token less likely to the start, different",
        len(set(before)) / len(before),
        share([float(after.index(text) == place) for place, text in enumerate(after)]),
        f"KL ≤ {KL}, ≤ {LIKELY}, ≥ {DIFFERENT}",
        sound,
    )
    if model:  # there is no highest reward of a model, so it is judged in the spread of the start's own rewards
        spread = float(np.std(was)) or 1.0
        risen = share([(b - a) / spread for a, b in zip(was, now, strict=True)])
        return [
            Finding("reward over the start's, in its spread", 0.0, risen, "lower bound > 0.5", (risen.low or 0) > 0.5, run["seconds"]),
            quality,
        ]
    gap = (fmean(now) - fmean(was)) / ((most or 1.0) - fmean(was))
    return [
        Finding(f"reward; {gap:.0%} of the gap gone", fmean(was), share(now), f"≥ {GAP:.0%} of the gap", gap >= GAP, run["seconds"]),
        quality,
    ]


def by_model(bench: Bench) -> Any:
    """What gives rewards as the trained reward run does."""

    def score(questions: list[str], texts: list[str]) -> list[float]:
        from worker import rewards
        from worker.libraries import quiet

        with quiet():
            scorer = rewards.load(bench.paths(preferences.head_run(bench, "reward")["checkpoint"]))
        rows = [
            [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
            for question, text in zip(questions, texts, strict=True)
        ]
        return rewards.score(scorer, rows)

    return score


def online(bench: Bench) -> list[Finding]:
    """Online DPO with the trained reward run as its judge, judged by the rater's own taste."""
    rewards = [{"kind": "model", "checkpoint": preferences.head_run(bench, "reward")["checkpoint"]}]
    run = bench.run("online_dpo", rows_of(bench), rewards=rewards, max_completion_length=LONGEST, max_length=256, max_steps=STEPS)
    found = preferences.wins(bench, run["checkpoint"])
    return [Finding(each.what, each.before, each.after, each.bound, each.kept, run["seconds"]) for each in found]
