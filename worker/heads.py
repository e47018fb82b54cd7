"""Heads of models that give numbers or classes: which one a folder holds, which class of model has it, how it is held. Reads no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.checkpoints.heads import FEATURES, HEAD_FILE
from app.methods.base import Head
from worker.reporting import Failed

NAMES = ("score", "classifier", "pre_classifier")
"""What transformers calls its heads: the first in decoders, the others in encoders."""
SETTING = "luthier_head"
"""Key in config.json that says how a head of two layers is made."""


def at(path: str, adapter: str | None) -> Head | None:
    """The head of a checkpoint, from its files of text; None where it writes text."""
    return (_beside(adapter) if adapter else None) or _of_whole(path)


def in_adapter(adapter: str) -> Head | None:
    """The head that is kept among the weights of an adapter, if one is."""
    if read(Path(adapter) / "adapter_config.json").get("task_type") != "SEQ_CLS":
        return None
    return None if read(Path(adapter) / HEAD_FILE).get("kind") == FEATURES else _beside(adapter) or Head()


def has_adapter(adapter: str | None) -> bool:
    """Whether a folder that sits on a model holds an adapter of PEFT; what was fitted on frozen features need not."""
    return adapter is not None and (_is_peft(adapter) or not (Path(adapter) / HEAD_FILE).is_file())


def facts(head: Head) -> dict[str, Any]:
    """What `head.json` says of a head that gives classes."""
    return {"labels": list(head.labels), "head": {"width": head.width, "dropout": head.dropout}}


def _is_peft(folder: str) -> bool:
    return (Path(folder) / "adapter_config.json").is_file()


def _beside(folder: str) -> Head | None:
    told = read(Path(folder) / HEAD_FILE)
    if told:
        made = told.get("head") or {}
        return Head(tuple(told.get("labels") or ()), int(made.get("width") or 0), float(made.get("dropout") or 0.0))
    return Head() if read(Path(folder) / "adapter_config.json").get("task_type") == "SEQ_CLS" else None


def _of_whole(path: str) -> Head | None:
    config = read(Path(path) / "config.json")
    if not any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ()):
        return None
    names: Mapping[str, str] = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}  # transformers leaves out its default
    made = config.get(SETTING) or {}
    labels = tuple(names[key] for key in sorted(names, key=int)) if len(names) > 1 else ()
    return Head(labels, int(made.get("width") or 0), float(made.get("dropout") or 0.0))


def read(file: Path) -> dict[str, Any]:
    """A file of settings; nothing where there is none that can be read: the libraries say what is wrong with it."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def configure(config: Any, head: Head) -> None:
    """Write a head into the configuration of a model."""
    labels = head.labels or ("LABEL_0",)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    if head.labels:
        config.problem_type = "single_label_classification"
    if head.width:
        setattr(config, SETTING, {"width": head.width, "dropout": head.dropout})
    elif hasattr(config, SETTING):
        delattr(config, SETTING)


def model_class(config: Any) -> Any:
    """The class of transformers for a configuration with a head.

    A head of two layers is built by a subclass when the model is: a layer that is put on afterwards would be saved, and on loading a
    plain one would be drawn in its place without a word.

    Raises:
        Failed: transformers knows no head for this model, or one that is no single layer already.
    """
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise Failed(f"transformers knows no head for a model of the type {config.model_type}. Take another model.", "model")
    plain: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    if not getattr(config, SETTING, None):
        return plain

    from worker.engines.mlp_head import MlpHead

    def __init__(self: Any, config: Any) -> None:
        plain.__init__(self, config)
        name = name_of(self) or NAMES[0]
        single = getattr(self, name, None)
        if not isinstance(single, torch.nn.Linear):
            raise Failed(f"The head of {plain.__name__} has more than one layer already. Set head to linear.", "config")
        setattr(self, name, MlpHead(single.in_features, config.num_labels, **getattr(config, SETTING)))

    return type(plain.__name__, (plain,), {"__init__": __init__, "__module__": plain.__module__})


def name_of(model: Any) -> str | None:
    """What the head of a model is called."""
    return next((name for name in NAMES if getattr(model, name, None) is not None), None)


def of(model: Any) -> list[Any]:
    """The layers of a model that belong to its head."""
    return [getattr(model, name) for name in NAMES if getattr(model, name, None) is not None]


def belongs(weight: str) -> bool:
    """Whether a weight, by its name, belongs to a head."""
    return any(part in NAMES for part in weight.split("."))


def with_head(config: Any) -> Any:
    """The configuration of an adapter that trains the head too, and keeps it with its own weights."""
    config.task_type = "SEQ_CLS"
    config.modules_to_save = sorted({*(config.modules_to_save or ()), *NAMES})
    return config


def redraw(model: Any) -> None:
    """Draw the weights of the head anew, as transformers does."""
    import torch

    for layer in (each for part in of(model) for each in part.modules() if isinstance(each, torch.nn.Linear)):
        torch.nn.init.normal_(layer.weight, std=getattr(model.config.get_text_config(), "initializer_range", 0.02))
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)


def prepare(model: Any) -> None:
    """Hold the head in 32 bits, whatever the weights below it have: it is trained, and small updates vanish in bfloat16. And have that of a
    decoder read the last token of a row."""
    for part in of(model):
        part.float()
        part.register_forward_pre_hook(_in_its_type)
    if name_of(model) == NAMES[0]:
        _read_last(model)


def _in_its_type(part: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(next(part.parameters()).dtype), *inputs[1:])


def _read_last(model: Any) -> None:
    """Behind virtual tokens, transformers sees no ids to know padding by and takes the last place of a batch; the mask says which it is."""
    seen: dict[str, Any] = {}

    def note(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        by_ids = bool(arguments) or named.get("input_ids") is not None
        seen["mask"] = None if by_ids else named.get("attention_mask")

    def only_last(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, mask = inputs[0], seen.get("mask")
        if mask is None:
            return None
        import torch

        places = torch.arange(hidden.shape[1], device=hidden.device)
        last = ((mask[:, -hidden.shape[1] :] > 0) * places).argmax(-1)
        chosen = hidden[torch.arange(len(hidden), device=hidden.device), last]
        return (chosen[:, None].expand(-1, hidden.shape[1], -1), *inputs[1:])

    model.register_forward_pre_hook(note, with_kwargs=True)
    getattr(model, NAMES[0]).register_forward_pre_hook(only_last)
