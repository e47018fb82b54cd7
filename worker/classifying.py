"""Classes of texts by a classifier: load it once, put many texts through it. Trains nothing, writes no rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.checkpoints.heads import FEATURES, HEAD_FILE, is_encoder
from worker import heads, loading
from worker.reporting import Failed

Array = np.ndarray[Any, Any]
DEFAULT_LENGTH = 512


@dataclass(frozen=True)
class Classifier:
    """A checkpoint that gives classes, in memory."""

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]
    max_length: int
    """Tokens that are read of a text."""
    device: str
    fitted: Any = None
    """What was fitted on frozen features (`worker.engines.features.Fitted`); None where the model has a head of its own."""


def load(checkpoint: Mapping[str, Any], device: str = "cpu", dtype: str = "float32") -> Classifier:
    """A classifier, ready to classify.

    Args:
        checkpoint: `path` of the whole weights and `adapter` to put on them or None, as `checkpoints.service.training_paths` gives them.

    Raises:
        Failed: it cannot be read, or gives no classes.
    """
    path, adapter = str(checkpoint["path"]), checkpoint.get("adapter")
    name = checkpoint.get("name") or "This checkpoint"
    head = heads.at(path, adapter)
    if head is None or not head.labels:
        gives = "writes text" if head is None else "gives numbers"
        raise Failed(f"{name} {gives} and no classes. Take a checkpoint of a classify or features run.", "model")
    own = Path(adapter or path)
    speaker = own if (own / "tokenizer_config.json").is_file() else Path(path)
    tokenizer = loading.load_tokenizer(str(speaker))
    model = loading.load_model(path, adapter, dtype).to(device).eval().requires_grad_(False)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    file = own / HEAD_FILE
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    fitted = None
    if facts.get("kind") == FEATURES:
        from worker.engines.features import Fitted

        fitted = Fitted.read(own, facts)
    return Classifier(model, tokenizer, head.labels, readable(model, int(facts.get("max_length") or DEFAULT_LENGTH)), device, fitted)


def predict(
    checkpoint: Classifier | Mapping[str, Any],
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    done: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """For each text the probability of each class, in the order of `labels`.

    Args:
        checkpoint: loaded by `load`, or what `load` takes.
        batch_size: texts that go through the model at once; those of like length share a batch.
        done: told how many are classified.

    Raises:
        Failed: the checkpoint gives no classes.
    """
    import torch

    mine = checkpoint if isinstance(checkpoint, Classifier) else load(checkpoint)
    tokens = [token_ids(mine.tokenizer, text, mine.max_length) for text in texts]
    pad = mine.tokenizer.pad_token_id
    if mine.fitted is not None:
        found = embed(mine.model, tokens, mine.fitted.pool, pad, batch_size=batch_size, done=done)
        return [list(map(float, each)) for each in mine.fitted.probabilities(found)] if len(texts) else []
    options = {} if is_encoder(mine.model.config.to_dict()) else {"use_cache": False}
    told: list[list[float]] = [[] for _ in tokens]
    count = 0
    with torch.inference_mode():
        for chosen in batches(tokens, batch_size):
            ids, mask = padded([tokens[number] for number in chosen], pad)
            logits = mine.model(input_ids=ids.to(mine.device), attention_mask=mask.to(mine.device), **options).logits
            for number, values in zip(chosen, logits.double().softmax(-1).tolist(), strict=True):
                told[number] = values
            count += len(chosen)
            if done:
                done(count)
    return told


def token_ids(tokenizer: Any, text: str, limit: int) -> list[int]:
    """A text as the model reads it: with the tokenizer's own beginning and end, and cut to a length."""
    ids = list(tokenizer(text=text, verbose=False)["input_ids"])
    if not ids:  # a text of nothing the tokenizer knows
        return [next(each for each in (tokenizer.unk_token_id, tokenizer.eos_token_id, 0) if each is not None)]
    ends = ids[-1:] if ids[-1] in tokenizer.all_special_ids else []  # an encoder reads its end of the text, too
    return ids if len(ids) <= limit else [*ids[: limit - len(ends)], *ends]


def readable(model: Any, asked: int) -> int:
    """Tokens of a text a model can read: encoders have a fixed number of places, of which virtual tokens take some."""
    config = model.config.to_dict()
    if not is_encoder(config) or not config.get("max_position_embeddings"):
        return asked
    places = int(config["max_position_embeddings"])
    if "roberta" in str(config.get("model_type")):  # counts from behind its padding
        places -= int(config.get("pad_token_id") or 0) + 1
    virtual = sum(int(getattr(each, "num_virtual_tokens", None) or 0) for each in (getattr(model, "peft_config", None) or {}).values())
    return max(2, min(asked, places - virtual))


def batches(tokens: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Places of the rows that go through the model together: those of like length."""
    order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Token ids and mask of rows, padded on the right."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def embed(
    model: Any,
    tokens: Sequence[Sequence[int]],
    pool: str,
    pad: int,
    *,
    batch_size: int = 16,
    done: Callable[[int], None] | None = None,
) -> Array:
    """What the frozen model makes of texts: one row of 32-bit numbers each.

    Args:
        pool: `last` takes the last token, `mean` the mean over all.
    """
    import torch

    config = model.config.get_text_config()
    found = np.zeros((len(tokens), int(config.hidden_size)), dtype=np.float32)
    trunk = (model.get_base_model() if hasattr(model, "peft_config") else model).base_model
    options = {} if is_encoder(model.config.to_dict()) else {"use_cache": False}
    count = 0
    model.eval()
    with torch.inference_mode():
        for chosen in batches(tokens, batch_size):
            ids, mask = padded([tokens[number] for number in chosen], pad)
            ids, mask = ids.to(model.device), mask.to(model.device)
            hidden = trunk(input_ids=ids, attention_mask=mask, **options).last_hidden_state.float()
            if pool == "last":
                values = hidden[torch.arange(len(chosen), device=hidden.device), mask.sum(-1) - 1]
            else:
                values = (hidden * mask[..., None]).sum(1) / mask.sum(-1, keepdim=True)
            found[chosen] = values.cpu().numpy()
            count += len(chosen)
            if done:
                done(count)
    return found
