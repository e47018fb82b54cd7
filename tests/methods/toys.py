"""Small tasks with a known rule, which a tiny model learns in seconds: is what was learned right for prompts it has not seen?"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.methods import child

GOOD, BAD = ("kind", "warm", "true", "calm", "fair"), ("rude", "cold", "fake", "loud", "mean")


def prompts(count: int, seed: int) -> list[str]:
    """Prompts without a meaning, all different."""
    draw = random.Random(seed)
    return [f"{draw.randrange(10**6)} {draw.choice('abcdefgh')}?" for _ in range(count)]


def pairs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """The better answer uses a good word, the worse one a bad word; a third of the rows say by how much."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(prompts(count, seed)):
        row = {"prompt": prompt, "chosen": f"be {draw.choice(GOOD)} now", "rejected": f"be {draw.choice(BAD)} now"}
        rows.append(row if number % 3 else {**row, "margin": 1})
    return rows


def thumbs(count: int, seed: int = 1, good: float = 0.5) -> list[dict[str, Any]]:
    """Single answers; a share of them is good."""
    rows: list[dict[str, Any]] = []
    for number, row in enumerate(pairs(count, seed)):
        is_good = number % 100 < 100 * good
        rows.append({"prompt": row["prompt"], "completion": row["chosen" if is_good else "rejected"], "label": is_good})
    return rows


def ratings(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Answers of four words, rated 1 to 5: one, and one more for each good word."""
    draw = random.Random(seed)
    rows = []
    for prompt in prompts(count, seed):
        good = draw.randrange(5)
        words = [draw.choice(GOOD) for _ in range(good)] + [draw.choice(BAD) for _ in range(4 - good)]
        draw.shuffle(words)
        rows.append({"prompt": prompt, "completion": " ".join(words), "score": 1 + good})
    return rows


def write(file: Path, train: Iterable[dict[str, Any]], held_out: Iterable[dict[str, Any]]) -> None:
    """A dataset's `rows.jsonl`."""
    split = [("train", row) for row in train] + [("eval", row) for row in held_out]
    lines = [json.dumps({"line": number, "split": name, "row": row, "source": row}) for number, (name, row) in enumerate(split, 1)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def spec(folder: Path, method: str, tuner: str, make: Callable[[int, int], list[dict[str, Any]]], **params: Any) -> dict[str, Any]:
    """What a worker would tell the child: 256 rows to learn from, 100 to be judged by."""
    job = child.spec(folder, method, tuner, held_out=1, params={"batch_size": 16, "eval_steps": 1000, "save_steps": 1000, **params})
    write(Path(job["train"]["path"]), make(256, 1), make(100, 2))
    return job
