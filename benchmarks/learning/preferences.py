"""Objectives that learn from preferences: dpo, kto, orpo, simpo, and the heads reward and score. A rater of known taste likes it short.

Answers are the model's own, two to each prompt; only those that ended by themselves count, since one that was cut teaches nothing about
its length. Held out are all prompts about a third of the things.
"""  # fmt: skip

from __future__ import annotations

from typing import Any

import numpy as np

from app.feedback.intervals import Estimate
from benchmarks.learning.bench import Bench, Finding, log_probabilities
from benchmarks.ratings_loop import SAMPLING, SEED, prompts, share, side, worth

TRAIN, HELD_OUT, SINGLE = 400, 272, 200
"""Prompts to train on and held out, and pairs of which each answer is taken by itself (kto, score)."""
ACCURATE, WINS, HEADS = 0.75, 0.55, 0.80
"""Bounds: held-out preference accuracy, lower 95 % bound of wins over the start (ties one half), pairs a head gets right."""
LEAST = 0.125
"""Two answers nearer to each other than an eighth of a doubling are the same to the rater."""


def answered(bench: Bench) -> dict[str, list[Any]]:
    """For `train` and `held_out`: each prompt with its two answers."""

    def make() -> dict[str, list[Any]]:
        train, held_out = prompts(TRAIN, HELD_OUT)
        found: dict[str, list[Any]] = {}
        for name, asked in (("train", train[:TRAIN]), ("held_out", held_out)):
            two = [
                bench.answers(None, asked, temperature=each["temperature"], longest=each["max_tokens"], seed=SEED + number)
                for number, each in enumerate(SAMPLING)
            ]
            found[name] = [[prompt, *both] for prompt, *both in zip(asked, *two, strict=True)]
        return found

    return bench.once("answered", lambda: bench.kept("answered", make))


def pairs(bench: Bench, part: str) -> list[tuple[str, str, str]]:
    """Prompt, better and worse answer."""
    found = []
    for prompt, (one, one_ended), (other, other_ended) in answered(bench)[part]:
        ahead = worth(one) - worth(other)
        if one and other and one_ended and other_ended and abs(ahead) >= LEAST:
            found.append((prompt, one, other) if ahead > 0 else (prompt, other, one))
    return found


def rows_of(bench: Bench, shape: str) -> str:
    """The dataset of a shape, made of the pairs to train on."""

    def make() -> str:
        there = pairs(bench, "train")
        if shape == "preference":
            return bench.dataset("preferences", [{"prompt": a, "chosen": b, "rejected": c} for a, b, c in there])
        there = there[:SINGLE]
        if shape == "unpaired":
            rows = [{"prompt": a, "completion": text, "label": good} for a, b, c in there for text, good in ((b, True), (c, False))]
            return bench.dataset("thumbs", rows)
        values = [worth(text) for _, *both in there for text in both]
        limits = np.quantile(values, [0.2, 0.4, 0.6, 0.8])
        return bench.dataset(
            "grades",
            [
                {"prompt": prompt, "completion": text, "score": 1 + int((worth(text) > limits).sum())}
                for prompt, *both in there
                for text in both
            ],
        )

    return str(bench.once(f"rows {shape}", make))


def speaker(bench: Bench, method: str, shape: str, *, means: bool) -> list[Finding]:
    """Train a model that answers, and judge it by two things: of two answers, whether training made the better one likelier against the
    other, as whole answers; and what it then writes.

    Args:
        means: whether the objective looks at the mean of a token and at no reference. Then it is told, too, how often the better answer has
            the higher mean by itself; that is a matter of length more than of taste, before training and after.
    """
    run = bench.run(method, rows_of(bench, shape), max_length=256)
    there = pairs(bench, "held_out")
    rows = [(prompt, text) for prompt, *both in there for text in both]
    with bench.model(run["checkpoint"]) as (model, tokenizer):
        after, lengths = log_probabilities(model, tokenizer, rows)
        with model.disable_adapter():
            before = bench.kept("likely", lambda: log_probabilities(model, tokenizer, rows)[0])

    def accuracy(values: Any) -> Estimate:
        return share([side(values[place] - values[place + 1]) for place in range(0, len(rows), 2)])

    right = accuracy(np.array(after) - before)
    found = [Finding("held-out preferences right", 0.5, right, f"≥ {ACCURATE}", (right.value or 0) >= ACCURATE, run["seconds"])]
    if means:
        start, alone = accuracy(np.array(before) / lengths), accuracy(np.array(after) / lengths)
        found.append(Finding("better answer has the higher mean of a token", start.value or 0.0, alone, "–", True))
    return [*found, *wins(bench, run["checkpoint"])]


def wins(bench: Bench, checkpoint: str) -> list[Finding]:
    """How often the answers of a checkpoint are better than those of the start, drawn in the same way."""
    there = answered(bench)["held_out"]
    said = bench.answers(checkpoint, [row[0] for row in there], temperature=SAMPLING[0]["temperature"], longest=SAMPLING[0]["max_tokens"])
    won = share([side(worth(text) - worth(row[1][0])) for (text, _), row in zip(said, there, strict=True)])
    empty = sum(not text for text, _ in said) / len(said)
    bench.notes.append(f"    answers of {checkpoint}: {empty:.1%} empty, such as {said[0][0][:100]!r}")
    return [Finding("wins over the start", 0.5, won, f"lower bound > {WINS}, none empty", (won.low or 0) > WINS and empty <= 0.02)]


def head_run(bench: Bench, method: str) -> dict[str, Any]:
    """The run of a model that gives numbers."""
    shape = "preference" if method == "reward" else "rated"
    return dict(bench.once(f"run {method}", lambda: bench.run(method, rows_of(bench, shape), max_length=256)))


def head(bench: Bench, method: str) -> list[Finding]:
    """Train a model that gives numbers, and judge it by pairs it has not seen."""
    from worker import rewards
    from worker.libraries import quiet

    run = head_run(bench, method)
    there = pairs(bench, "held_out")
    with quiet():
        scorer = rewards.load(bench.paths(run["checkpoint"]))
    rows = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": text}] for prompt, *both in there for text in both]
    numbers = rewards.score(scorer, rows)
    right = share([side(numbers[place] - numbers[place + 1]) for place in range(0, len(rows), 2)])
    return [Finding("held-out pairs right", 0.5, right, f"≥ {HEADS}", (right.value or 0) >= HEADS, run["seconds"])]
