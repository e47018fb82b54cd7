"""Answers of a loaded model to many prompts at once, each drawn with random numbers of its own. Knows no project and keeps nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from worker.reporting import Failed

MARGIN = 0.05
"""Share of a device's memory that is left alone."""
LIKELY = 1024
"""So many of the likeliest tokens are sorted first; all of them only where these do not reach top_p."""

Message = dict[str, str]


@dataclass(frozen=True)
class Question:
    """A prompt, and the seed its answer is drawn with."""

    messages: list[Message]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What a model said."""

    text: str
    finish: str
    """stop, length, or error: then the text says what was wrong."""
    tokens: int


# --- loading --------------------------------------------------------------------------------------------------------------


def load(name: str, model: dict[str, Any], device: str, threads: int, *, scores: bool = False) -> Any:
    """A checkpoint (`path`, and `adapter` or None), ready to answer, or with `scores` to give numbers; in the precision a chat would use.

    Raises:
        Failed: it cannot be read, or there is not enough memory for it, or it gives numbers where text is wanted or the other way round.
    """
    try:
        import torch

        from worker import generate, rewards
        from worker.libraries import out_of_memory, quiet
        from worker.loading import precision
    except ImportError as error:
        raise Failed(
            f"This worker has no {error.name or 'torch'}, so it cannot generate. Install it with: pip install 'luthier[train]'.", "no_torch"
        ) from error
    if threads:
        torch.set_num_threads(threads)
    path, adapter = Path(model["path"]), Path(model["adapter"]) if model["adapter"] else None
    try:
        dtype = stored = generate.stored_dtype(path)
    except (OSError, ValueError) as error:
        raise Failed(f"The model “{name}” cannot be read. It may have been deleted; import it again, or take another.", "model") from error
    if device == "cpu" and stored != "float32":
        dtype = precision("auto", "adapter", "cpu").loaded
    needed = sum(file.stat().st_size for place in (path, adapter) if place for file in place.glob("*.safetensors"))
    needed = int(1.2 * needed * (2 if dtype == "float32" != stored else 1))
    if device == "cpu":
        memory = psutil.virtual_memory()
        room, total = memory.available, memory.total
    else:
        room, total = torch.cuda.mem_get_info()
    short = (
        f"“{name}” needs about {needed / 1e9:.1f} GB of memory to answer, and {room / 1e9:.1f} GB are free. Close what else uses the "
        "memory of this machine, or take a smaller model."
    )
    if needed > room - MARGIN * total:
        raise Failed(short, "oom")
    try:
        with quiet():
            if scores:
                return rewards.load({**model, "name": f"“{name}”"}, device, dtype)
            return generate.load(path, adapter=adapter, device=device, dtype=dtype)
    except Exception as error:
        if out_of_memory(error):
            raise Failed(short, "oom") from error
        raise


def free() -> None:
    """Give back the memory of a model that was let go."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- answering ------------------------------------------------------------------------------------------------------------


def answers(speaker: Any, questions: Sequence[Question], sampling: dict[str, Any], batch: int) -> Iterator[Answer]:
    """One answer for each question, in order.

    A question the model cannot be asked (too long, or refused by its template) gets an answer with `finish` error instead of ending all.

    Args:
        sampling: `{temperature, top_p, top_k, max_tokens}`; temperature 0 is greedy.
        batch: how many are answered at once; fewer, where memory does not suffice for so many.

    Raises:
        Failed: not even one answer fits into memory.
    """
    from worker.chat_stream import context_of, prompt
    from worker.libraries import out_of_memory

    limit = context_of(speaker.model)
    most = int(sampling["max_tokens"])
    waiting: list[tuple[list[int], int]] = []
    size = batch

    def said() -> Iterator[Answer]:
        nonlocal size
        place = 0
        while place < len(waiting):
            part = waiting[place : place + size]
            try:
                found = _generate(speaker, part, sampling, limit)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise Failed(
                        "An answer did not fit into the memory of the device. Ask for fewer tokens, or take a smaller model.", "oom"
                    ) from error
                size = max(1, len(part) // 2)
                free()
                continue
            yield from found
            place += len(part)
        waiting.clear()

    for question in questions:
        problem, ids = None, []
        try:
            text, special = prompt(speaker.tokenizer, question.messages)
        except Failed as failure:
            problem = failure.reason
        else:
            ids = speaker.tokenizer(text, add_special_tokens=special)["input_ids"]
            if limit is not None and len(ids) >= limit:
                problem = f"The prompt has {len(ids):,} tokens, and this model reads at most {limit:,}."
            elif not ids:
                problem = "The prompt is empty for this model: its tokenizer makes no token of it."
        if problem is not None:
            yield from said()
            yield Answer(problem, "error", 0)
            continue
        # Where padding would cost an answer some of its room, it does not share a batch.
        tight = limit is not None and max([len(ids), *(len(each) for each, _ in waiting)]) + most > limit
        if waiting and (tight or len(waiting) == batch):
            yield from said()
        waiting.append((ids, question.seed))
    yield from said()


def _generate(speaker: Any, asked: Sequence[tuple[list[int], int]], sampling: dict[str, Any], limit: int | None) -> list[Answer]:
    """Answers to a batch of prompts, given as tokens with their seeds."""
    import torch
    from transformers import LogitsProcessorList

    from worker.generate import _whole_rows  # it saves a copy of the output layer for each prompt

    model, tokenizer = speaker.model, speaker.tokenizer
    width = max(len(ids) for ids, _ in asked)
    # Padding goes to the left, so that every answer begins right after its prompt.
    tokens = [[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids, _ in asked]
    mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in asked]
    ends = model.generation_config.eos_token_id
    ends = sorted({*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None})
    processors = LogitsProcessorList()
    if sampling["temperature"] > 0:
        processors.append(_drawing(sampling, [seed for _, seed in asked]))
    most = int(sampling["max_tokens"]) if limit is None else min(int(sampling["max_tokens"]), limit - width)
    with _whole_rows(model), torch.no_grad():
        found = model.generate(
            input_ids=torch.tensor(tokens, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            max_new_tokens=most,
            do_sample=False,  # the processor draws, since `generate` would use one stream of random numbers for the whole batch
            temperature=None,
            top_p=None,
            top_k=None,
            use_cache=True,
            logits_processor=processors,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
        )
    result = []
    for row in found[:, width:].tolist():
        end = next((place for place, token in enumerate(row) if token in ends), None)
        kept = row if end is None else row[:end]
        text = tokenizer.batch_decode([kept], skip_special_tokens=True)[0]
        result.append(Answer(text, "length" if end is None else "stop", len(kept) + (end is not None)))
    return result


def _drawing(sampling: dict[str, Any], seeds: Sequence[int]) -> Any:
    """Leaves of each row only the token that its own random numbers draw, so that an answer does not hang on what else is in the batch."""
    import torch

    streams = [random.Random(seed) for seed in seeds]
    temperature, top_p, top_k = float(sampling["temperature"]), float(sampling["top_p"]), int(sampling["top_k"])

    def draw(_: Any, scores: Any) -> Any:
        weights = torch.softmax(scores.float() / temperature, dim=-1)
        every = weights.shape[-1]
        most = min(top_k or every, every)
        shares, order = weights.topk(min(most, LIKELY) if most == every else most, dim=-1)
        if shares.shape[-1] < most and float(shares.sum(dim=-1).min()) < top_p:
            shares, order = weights.topk(every, dim=-1)
        reached = shares.cumsum(dim=-1)
        # A token is kept while those before it fall short of top_p; so the likeliest always is. Top_k comes first, as in transformers.
        whole = reached[:, -1:] if most < every else torch.ones_like(reached[:, -1:])
        kept = (reached - shares < top_p * whole).sum(dim=-1, keepdim=True)
        last = reached.gather(-1, kept - 1)
        numbers = torch.tensor([[stream.random()] for stream in streams], dtype=reached.dtype, device=reached.device)
        place = torch.minimum((reached <= numbers * last).sum(dim=-1, keepdim=True), kept - 1)
        only = torch.full_like(scores, float("-inf"))
        return only.scatter_(-1, order.gather(-1, place), 0.0)

    return draw
