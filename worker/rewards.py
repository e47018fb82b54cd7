"""Scores of answers by a reward or score checkpoint: load it once, put many conversations through it. Trains nothing, writes no rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.checkpoints.heads import HEAD_FILE
from worker import heads, loading, rows
from worker.reporting import Failed

Messages = Sequence[Mapping[str, str]]
Conversation = Messages | Mapping[str, Any]
"""Messages that end with the answer to score, or a row with `prompt` and `completion`."""


@dataclass(frozen=True)
class Scorer:
    """A checkpoint that gives numbers, in memory."""

    model: Any
    tokenizer: Any
    mean: float
    spread: float
    """A number of the head times `spread` plus `mean` is on the scale of the ratings; for a reward they are 1 and 0."""
    device: str


def load(checkpoint: Mapping[str, Any], device: str = "cpu", dtype: str = "float32") -> Scorer:
    """A reward or score checkpoint, ready to score.

    Args:
        checkpoint: `path` of the whole weights and `adapter` to put on them or None, as `checkpoints.service.training_paths` gives them.

    Raises:
        Failed: it cannot be read, or answers instead of scoring.
    """
    path, adapter = str(checkpoint["path"]), checkpoint.get("adapter")
    name = checkpoint.get("name") or "This checkpoint"
    head = heads.at(path, adapter)
    if head is None or head.labels:
        does = "writes answers and gives" if head is None else "gives classes and"
        raise Failed(f"{name} {does} no scores. Take a checkpoint of a reward or score run.", "model")
    speaker = adapter if adapter and (Path(adapter) / "tokenizer_config.json").is_file() else path
    tokenizer = loading.load_tokenizer(speaker)
    model = loading.load_model(path, adapter, dtype).to(device).eval().requires_grad_(False)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    file = Path(adapter or path) / HEAD_FILE
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return Scorer(model, tokenizer, float(facts.get("mean", 0.0)), float(facts.get("spread", 1.0)), device)


def score(
    checkpoint: Scorer | Mapping[str, Any],
    conversations: Sequence[Conversation],
    *,
    batch_size: int = 16,
    done: Callable[[int], None] | None = None,
) -> list[float]:
    """One number for each conversation, in their order: higher is better.

    Args:
        checkpoint: loaded by `load`, or what `load` takes.
        batch_size: conversations that go through the model at once; those of like length share a batch.
        done: told how many are scored.

    Raises:
        Failed: the checkpoint cannot score, or a conversation has no answer.
    """
    import torch

    scorer = checkpoint if isinstance(checkpoint, Scorer) else load(checkpoint)
    tokens = [tokens_of(scorer, conversation, number) for number, conversation in enumerate(conversations)]
    order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
    found = [0.0] * len(tokens)
    pad = scorer.tokenizer.pad_token_id
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            longest = len(tokens[chosen[-1]])
            ids = torch.tensor([tokens[number] + [pad] * (longest - len(tokens[number])) for number in chosen], device=scorer.device)
            mask = torch.tensor(
                [[1] * len(tokens[number]) + [0] * (longest - len(tokens[number])) for number in chosen], device=scorer.device
            )
            numbers = scorer.model(input_ids=ids, attention_mask=mask, use_cache=False).logits.squeeze(-1).double().tolist()
            for number, value in zip(chosen, numbers, strict=True):
                found[number] = value * scorer.spread + scorer.mean
            if done:
                done(start + len(chosen))
    return found


def tokens_of(scorer: Scorer, conversation: Conversation, number: int = 0) -> list[int]:
    """What the model reads of a conversation; `number` is its place among those that are scored.

    Raises:
        Failed: it has no answer.
    """
    if isinstance(conversation, Mapping):
        row = {"prompt": conversation["prompt"], "completion": conversation["completion"]}
    else:
        row = {"prompt": list(conversation[:-1]), "completion": list(conversation[-1:])}
        if len(conversation) < 2 or conversation[-1]["role"] != "assistant":
            raise Failed(f"Conversation {number + 1} does not end with an answer of the assistant, so there is nothing to score.", "data")
    sides = rows.to_trl(row, "prompt_completion", bool(scorer.tokenizer.chat_template))
    return token_ids(scorer.tokenizer, sides["prompt"], sides["completion"])


def token_ids(tokenizer: Any, prompt: Any, completion: Any) -> list[int]:
    """A prompt with its answer as token ids, exactly as trl's RewardTrainer makes them (one test compares the two)."""
    if isinstance(prompt, list):
        return list(tokenizer.apply_chat_template([*prompt, *completion], tokenize=True, return_dict=True)["input_ids"])
    eos = tokenizer.eos_token or ""
    ended = completion if not eos or completion.endswith(eos) else completion + eos
    return list(tokenizer(text=prompt + ended)["input_ids"])
