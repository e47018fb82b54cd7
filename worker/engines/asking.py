"""What trainers that learn from answers of the model share: which prompts they ask and when, and what a checkpoint keeps of the answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler

from worker import generate

BATCHES_FILE = "answers.pth"
EXPECTED = "expected"
"""Column with the answer a row gives; trl's trainers keep `completion` from their rewards."""


def prepared(rows: Any, tokenizer: Any, longest: int) -> Any:
    """Rows as they are asked: the answer a row gives, if any, under another name, and no row whose prompt is empty or too long.

    Args:
        longest: tokens a prompt may have.
    """
    if rows is None:
        return None
    if "completion" in rows.column_names:
        rows = rows.map(lambda row: {EXPECTED: text_of(row["completion"])}, remove_columns=["completion"])

    def fits(row: dict[str, Any]) -> bool:
        prompt = row["prompt"]
        if not prompt:
            return False
        ids = tokenizer(generate.prompt_text(tokenizer, prompt), add_special_tokens=isinstance(prompt, str))["input_ids"]
        return 0 < len(ids) <= longest

    return rows.filter(fits)


def text_of(value: str | list[dict[str, str]]) -> str:
    """The words of an answer."""
    return value if isinstance(value, str) else "\n\n".join(message["content"] for message in value)


def room(model: Any, max_length: int, answer: int) -> int:
    """Tokens a prompt may have so that an answer of full length fits behind it."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
    return min(max_length, int(context)) - answer


def first(rows: Any, count: int) -> Any:
    """The first rows of a dataset, or None."""
    return None if rows is None else rows.select(range(min(count, len(rows))))


def enough(rows: Any, prompts: int) -> None:
    """Whether there are as many rows as are asked together.

    Raises:
        ValueError: there are fewer.
    """
    if 0 < len(rows) < prompts:
        raise ValueError(
            f"each step asks {prompts} prompts, and there are {len(rows)} rows that fit; lower batch_size or "
            "gradient_accumulation, or take more rows"
        )


class Order(Sampler[int]):
    """Rows in an order drawn anew for each epoch, in groups that are asked together; an incomplete group at the end is left out.

    The order of an epoch hangs on the seed and its number alone, so that a resumed run meets the same rows.

    Args:
        rows: how many there are.
        together: rows of a group.
        answers: how often each row stands in its group.
        times: how often each group comes, one after the other.
    """

    def __init__(self, rows: int, together: int, seed: int, *, answers: int = 1, times: int = 1) -> None:
        self.rows, self.together, self.seed, self.answers, self.times = rows, together, seed, answers, times
        self.epoch = 0

    def __len__(self) -> int:
        return self.rows // self.together * self.together * self.answers * self.times

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        draw = torch.Generator()
        draw.manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.rows, generator=draw).tolist()
        for start in range(0, self.rows - self.together + 1, self.together):
            group = [number for number in order[start : start + self.together] for _ in range(self.answers)]
            for _ in range(self.times):
                yield from group


@contextmanager
def writing(model: Any) -> Iterator[None]:
    """While a model writes answers: what only learning needs is left out.

    A mixture of experts would balance its experts over the tokens of the prompt, and while it writes only the latest token is there.
    """
    config = model.config.get_text_config()
    balances = getattr(config, "output_router_logits", None)
    try:
        if balances:
            config.output_router_logits = False
        with generate._whole_rows(model):
            yield
    finally:
        if balances:
            config.output_router_logits = balances


def keep_batches(folder: str, done: int, batches: list[dict[str, torch.Tensor]], accumulation: int) -> None:
    """Write batches of answers that are still to be learned from beside a checkpoint, so that a run can go on between them.

    Args:
        done: batches made since training began.
        accumulation: batches of a step.
    """
    torch.save({"done": done, "batches": batches, "accumulation": accumulation}, Path(folder) / BATCHES_FILE)


def kept_batches(folder: str, device: Any, accumulation: int) -> tuple[int, list[dict[str, torch.Tensor]]]:
    """What `keep_batches` wrote; each batch in parts where the studio has divided them for want of memory meanwhile."""
    file = Path(folder) / BATCHES_FILE
    if not file.is_file():
        return 0, []
    found = torch.load(file, weights_only=True, map_location=device)
    parts = accumulation // found["accumulation"]
    return found["done"] * parts, [part for batch in found["batches"] for part in _divided(batch, parts)]


def _divided(batch: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    size = max(len(tensor) for tensor in batch.values() if tensor.dim()) // parts
    return [
        {name: tensor[part * size : (part + 1) * size] if tensor.dim() else tensor for name, tensor in batch.items()}
        for part in range(parts)
    ]
