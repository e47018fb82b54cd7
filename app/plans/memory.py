"""How much memory a training run takes, reckoned from shapes. An estimate: it needs no torch and measures nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.tuners.base import Shapes, total

TYPICAL_LENGTH = 2048
"""Tokens a row is taken to have at most, where its length is not known."""
CHUNK = 32_768
"""Scores of the output layer are reckoned in pieces of this many."""


def memory(
    shapes: Shapes, config: Mapping[str, Any], *, trainable: int, weight_bytes: float, family: str, tokens: int, checkpointing: bool = False
) -> dict[str, int]:
    """Bytes of weights, gradients, optimiser and activations of one training step.

    Args:
        shapes: shapes of the model's weights.
        config: the model's config.
        trainable: weights that are trained, in 32 bits.
        weight_bytes: bytes of a frozen weight (of every weight, in full tuning).
        tokens: tokens that go through the model at once, padding included.
        checkpointing: whether activations are reckoned twice rather than kept.
    """
    count = total(shapes)
    weights = round(count * (4 if family == "full" else weight_bytes)) + (trainable * 4 if family != "full" else 0)
    width = 4 if family == "full" else max(2, round(weight_bytes))
    activations = _activations(
        config,
        tokens=tokens,
        width=width,
        adapter=family != "full",
        checkpointing=checkpointing,
    )
    parts = {"weights": weights, "gradients": trainable * 4, "optimizer": trainable * 8, "activations": activations}
    return {**parts, "total": sum(parts.values())}


def _activations(config: Mapping[str, Any], *, tokens: int, width: int, adapter: bool, checkpointing: bool) -> int:
    hidden = int(config.get("hidden_size") or config.get("n_embd") or 1024)
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 12)
    inner = int(config.get("intermediate_size") or 4 * hidden)
    # Kept for the backward pass: the inputs of both norms, of four attention products and their rotated forms (about 12 hidden), gate, up
    # and their product.
    of_layer = (12 * hidden + 4 * inner) * width
    if adapter:  # beside each linear layer its input in 32 bits, before and after dropout
        of_layer += (6 * hidden + inner) * 4 * 2
    kept = layers * hidden * width + of_layer if checkpointing else layers * of_layer
    vocabulary = int(config.get("vocab_size") or 32_000)
    scores = min(tokens, CHUNK) * vocabulary * 4 // 8
    return tokens * kept + scores
