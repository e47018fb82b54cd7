"""Puts a tuner on a loaded model: merges or goes on with an adapter it carries, freezes what stays. Builds no trainer."""

from __future__ import annotations

import copy
import json
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import tuners
from app.methods.base import Objective
from app.tuners.base import Tuner
from worker import heads
from worker.engines import Attachment
from worker.reporting import Failed


@dataclass(frozen=True)
class Tuned:
    """A model ready for a trainer."""

    model: Any
    peft_config: Any
    """The adapter the trainer has to put on it, or None."""
    reference: Any
    """The model before training, for methods that compare with it, where no folder holds it; else None."""


def attachment(tuner: Tuner, params: Any, seed: int, others: dict[str, dict[str, Any]]) -> Attachment:
    """What the tuner has of its own beside the trainer."""
    kind = pkgutil.resolve_name(tuner.engine) if tuner.engine else Attachment
    made: Attachment = kind(params, seed, others)
    return made


def put_on(model: Any, objective: Objective, tuner: Tuner, params: Any, attached: Attachment) -> Tuned:
    """Freeze, merge, reshape or wrap a model, as its tuner says.

    Raises:
        Failed: the model carries an adapter that this tuner cannot go on from.
    """
    carried = carries(model)
    merged = False
    if carried and not (tuner.family == "adapter" and carried == tuner.peft_type):
        model, merged = _merged(model, carried, tuner), True
    if carried and not merged:
        return Tuned(model, None, None)
    model, peft_config = tuner.build(model, params, attached)
    if objective.head:
        if peft_config is not None:
            heads.with_head(peft_config)
        else:
            for part in heads.of(model):
                part.requires_grad_(True)
    reference = None
    if objective.compares and tuner.family == "full" and (merged or tuner.reshapes):
        reference = copy.deepcopy(model).eval().requires_grad_(False)
    return Tuned(model, peft_config, reference)


def carries(model: Any) -> str | None:
    """PEFT's name for the kind of adapter a model carries; None for a plain one."""
    configs = getattr(model, "peft_config", None)
    if not configs or not hasattr(model, "active_adapter"):
        return None
    kind = next(iter(configs.values())).peft_type
    return str(getattr(kind, "value", kind))


def widen(model: Any) -> None:
    """Hold what is trained in 32 bits: a library may have put the adapter of a quantised model into 16, where small updates vanish."""
    for weight in model.parameters():
        if weight.requires_grad and weight.is_floating_point():
            weight.data = weight.data.float()


def attached(model: Any, peft_config: Any, args: Any, tokenizer: Any, *, dropout: bool = True) -> Any:
    """A model as a trainer of our own takes it: with its adapter, fit for gradient checkpointing, knowing the padding.

    Args:
        dropout: False switches it off, where a token must have the same probability each time it is looked at.
    """
    if peft_config is not None:
        from peft import get_peft_model

        model = get_peft_model(model, peft_config)
    if args.gradient_checkpointing and hasattr(model, "peft_config"):
        model.enable_input_require_grads()
    if not dropout:
        from torch.nn import Dropout

        for module in model.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model


def reshaped(model: Any, tuner: Tuner, folder: Path) -> dict[str, Any]:
    """Shapes and config of the whole weights in a checkpoint, where they are not those of the model the run started from."""
    if not tuner.reshapes:
        return {}
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    return {"reshaped": {"shapes": shapes, "config": json.loads((folder / "config.json").read_text(encoding="utf-8"))}}


def _merged(model: Any, carried: str, tuner: Tuner) -> Any:
    own = next((each for each in tuners.registry().values() if each.peft_type == carried), None)
    title = own.title if own else carried.replace("_", " ").lower()
    if tuner.family == "adapter":
        raise Failed(
            f"The model to start from carries an adapter of the kind {title}, and {tuner.title} cannot go on training that. "
            f"Take {own.name if own else 'full'}, or start from the model below it.",
            "config",
        )
    if own is not None and not own.mergeable:
        raise Failed(
            f"The model to start from carries an adapter of the kind {title}, which cannot be merged into the weights. "
            f"Take the tuner {own.name} to go on training it, or start from the model below it.",
            "config",
        )
    return model.merge_and_unload()
