"""Objectives that learn from given answers, texts or classes: sft and distill on sums, pretrain, classify and features on GSM8K."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.feedback.intervals import Estimate
from app.recipes.arithmetic import Arithmetic, ArithmeticParams
from benchmarks.learning.bench import Bench, Finding, Row, log_probabilities
from benchmarks.ratings_loop import SEED, share
from worker.sampling import last_integer

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
EXACT, NEARER, LESS, POINTS = 40, 0.5, 0.2, 10
"""Bounds: points of exact match gained, share by which KL falls, share by which perplexity falls, points above the few-shot baseline."""
SUMS, TEXTS, CLASSED, HELD_OUT = 1000, 300, 600, 200
SHOTS = 2


# --- sums -----------------------------------------------------------------------------------------------------------------


def sums(bench: Bench) -> tuple[list[Row], list[Row]]:
    """Questions to train on, and held-out ones that share no pair of operands with them."""

    def make() -> tuple[list[Row], list[Row]]:
        recipe, params = Arithmetic(), ArithmeticParams(rows=SUMS, held_out=HELD_OUT, seed=SEED)
        return list(recipe.generate(params)), list(recipe.generate(params, "held_out"))

    return bench.once("sums", make)  # type: ignore[no-any-return]


def tuned_on_sums(bench: Bench) -> dict[str, Any]:
    """The run of supervised fine-tuning on sums."""
    return dict(bench.once("run sft", lambda: bench.run("sft", sums_as_rows(bench), max_length=256)))


def sums_as_rows(bench: Bench) -> str:
    """The dataset of sums."""
    return str(bench.once("rows sums", lambda: bench.dataset("sums", sums(bench)[0])))


def sft(bench: Bench) -> list[Finding]:
    """Exact match of greedy answers to held-out sums."""
    run, held_out = tuned_on_sums(bench), sums(bench)[1]

    def right(checkpoint: str | None) -> Estimate:
        said = bench.answers(checkpoint, [row["prompt"] for row in held_out], temperature=0)
        return share([float(last_integer(text) == int(row["completion"])) for (text, _), row in zip(said, held_out, strict=True)])

    before, after = right(None).value or 0.0, right(run["checkpoint"])
    gained = 100 * ((after.value or 0.0) - before)
    return [Finding("exact match of held-out sums", before, after, f"+{EXACT} points", gained >= EXACT, run["seconds"])]


def distill(bench: Bench) -> list[Finding]:
    """The student learns what a model tuned on sums would say next, from the questions and answers of the sums."""
    teacher = tuned_on_sums(bench)["checkpoint"]
    run = bench.run("distill", sums_as_rows(bench), max_length=256, teacher=teacher)
    rows = [(row["prompt"], row["completion"]) for row in sums(bench)[1]]
    target = distributions(bench, teacher, rows)
    before, after = (divergence(target, distributions(bench, each, rows)) for each in (None, run["checkpoint"]))
    was = share(before).value or 0.0
    found = share(after)
    fallen = 1 - (found.value or 0.0) / was
    return [Finding(f"KL to the teacher, down {fallen:.0%}", was, found, f"down {NEARER:.0%}", fallen >= NEARER, run["seconds"])]


def distributions(bench: Bench, checkpoint: str | None, rows: Sequence[tuple[str, str]]) -> list[Any]:
    """What a checkpoint expects at each token of the answers, as log-probabilities (tokens × vocabulary) for each row."""
    import torch

    from worker import generate

    found = []
    with bench.model(checkpoint) as (model, tokenizer), torch.inference_mode():
        for prompt, answer in rows:
            asked = tokenizer(generate.prompt_text(tokenizer, [{"role": "user", "content": prompt}]), add_special_tokens=False)["input_ids"]
            said = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
            logits = model(input_ids=torch.tensor([asked + said]), use_cache=False).logits[0, len(asked) - 1 : -1]
            found.append(logits.float().log_softmax(-1))
    return found


def divergence(target: Sequence[Any], found: Sequence[Any]) -> list[float]:
    """KL from the target of each row, the mean of its tokens, in nats."""
    return [float((one.exp() * (one - other)).sum(-1).mean()) for one, other in zip(target, found, strict=True)]


# --- GSM8K ----------------------------------------------------------------------------------------------------------------


def gsm8k(part: str) -> list[dict[str, str]]:
    """Its questions and answers, in an order of their own.

    Raises:
        SystemExit: the data is not there.
    """
    file = GSM8K / f"{part}.jsonl"
    if not file.is_file():
        raise SystemExit("This experiment needs GSM8K at ../shared/data/gsm8k beside the checkout.")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    random.Random(SEED).shuffle(rows)
    return rows


def pretrain(bench: Bench) -> list[Finding]:
    """Perplexity of texts of the domain that were not trained on."""

    def texts(part: str, many: int) -> list[str]:
        return [f"{row['question']}\n{row['answer']}" for row in gsm8k(part)[:many]]

    run = bench.run("pretrain", bench.dataset("problems", [{"text": each} for each in texts("train", TEXTS)]), max_length=256)
    held_out = texts("test", HELD_OUT)
    before, after = perplexity(bench, None, held_out), perplexity(bench, run["checkpoint"], held_out)
    was = share(before).value or 0.0
    found = share(after)
    # Perplexities are told of the mean loss, not as means of perplexities.
    shown = Estimate(*(None if value is None else math.exp(value) for value in (found.value, found.low, found.high)), found.n)
    fallen = 1 - math.exp((found.value or 0.0) - was)
    what = f"perplexity of held-out texts, down {fallen:.0%}"
    return [Finding(what, math.exp(was), shown, f"down {LESS:.0%}", fallen >= LESS, run["seconds"])]


def perplexity(bench: Bench, checkpoint: str | None, texts: Sequence[str]) -> list[float]:
    """Mean loss of a token, in nats, of each text."""
    import torch

    found = []
    with bench.model(checkpoint) as (model, tokenizer), torch.inference_mode():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            found.append(float(model(input_ids=ids, labels=ids, use_cache=False).loss))
    return found


def classed() -> tuple[list[Row], list[Row]]:
    """Problems with whether their solution takes few steps (2 at most) or many (4 at least), as many of each, to train on and held out."""

    def both(part: str, many: int) -> list[Row]:
        counted = [(row["question"], row["answer"].count("<<")) for row in gsm8k(part)]
        few = [{"text": text, "label": "few"} for text, steps in counted if steps <= 2][: many // 2]
        more = [{"text": text, "label": "many"} for text, steps in counted if steps >= 4][: many // 2]
        return [row for pair in zip(few, more, strict=True) for row in pair]

    return both("train", CLASSED), both("test", HELD_OUT)


def few_shot(bench: Bench) -> float:
    """Accuracy of the start without training: it is shown examples, and the likelier class counts."""

    def ask() -> float:
        train, held_out = classed()
        shown = "".join(f"Problem: {row['text']}\nSteps of its solution: {row['label']}\n\n" for row in train[:SHOTS])
        asked = [f"{shown}Problem: {row['text']}\nSteps of its solution, few or many?" for row in held_out]
        with bench.model(None) as (model, tokenizer):
            likely, _ = log_probabilities(model, tokenizer, [(each, label) for each in asked for label in ("few", "many")])
        said = ["few" if likely[place] > likely[place + 1] else "many" for place in range(0, len(likely), 2)]
        return sum(a == row["label"] for a, row in zip(said, held_out, strict=True)) / len(held_out)

    return float(bench.once("few-shot", lambda: bench.kept("few-shot", ask)))


def classes(bench: Bench, method: str) -> list[Finding]:
    """Accuracy on problems that were not trained on, beside that of the start with a few examples in its prompt."""
    train, held_out = classed()
    rows = bench.once("rows classed", lambda: bench.dataset("steps", train))
    asked = bench.once("rows classed held out", lambda: bench.dataset("steps held out", held_out))
    run = bench.run(method, rows, asked, tuner="head_only" if method == "features" else "lora")
    accuracy = run["curves"]["eval_accuracy"][-1]
    right = round(accuracy * len(held_out))
    found = share([1.0] * right + [0.0] * (len(held_out) - right))
    before = few_shot(bench)
    gained = 100 * ((found.value or 0.0) - before)
    what = f"accuracy; before: {SHOTS} examples in the prompt"
    return [Finding(what, before, found, f"+{POINTS} points", gained >= POINTS, run["seconds"])]
