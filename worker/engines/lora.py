"""What LoRA needs beside PEFT: beginnings taken out of the model's weights (PiSSA, OLoRA), and ranks drawn at random (DyLoRA)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from worker.engines import Attachment

BEGINNING_FILE = "beginning.safetensors"
"""In a checkpoint: the adapter as it began, and as it is trained; `adapter_model.safetensors` holds the difference of the two."""
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


class LoraAttachment(Attachment):
    """Nothing at all, unless the settings ask for it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._cut: _AnyRank | None = None
        self._began: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def trainer(self, kind: type[Any]) -> type[Any]:
        """One that goes on from the adapter as it was trained, where the file of the adapter holds a difference."""
        if self.params.init not in ("pissa", "olora"):
            return kind

        class FromWeights(kind):
            def _load_from_checkpoint(self, folder: str, *args: Any, **kwargs: Any) -> None:
                file = Path(folder) / BEGINNING_FILE
                if not file.is_file():  # the run began with an adapter, which is trained as it is
                    super()._load_from_checkpoint(folder, *args, **kwargs)
                    return
                kept = load_file(file)
                for name, layer in _layers(self.model):
                    (adapter,) = layer.active_adapters
                    layer.lora_A[adapter].weight.data.copy_(kept[f"trained.{name}.A"])
                    layer.lora_B[adapter].weight.data.copy_(kept[f"trained.{name}.B"])

        FromWeights.__name__ = FromWeights.__qualname__ = kind.__name__
        return FromWeights

    def prepared(self, model: Any, new: bool, resume: Path | None) -> None:
        """Take the beginning out of the weights, and see to it that any rank can be trained."""
        if new and self.params.init in ("pissa", "olora"):
            kept = load_file(resume / BEGINNING_FILE) if resume else None
            for name, layer in _layers(model):
                self._began[name] = _begin(layer, self.params.init, kept and (kept[f"began.{name}.A"], kept[f"began.{name}.B"]))
        if self.params.any_rank:
            ups = [up for _, layer in _layers(model) for up in layer.lora_B.values()]
            self._cut = _AnyRank(ups[0].weight.shape[1], self.seed)
            for up in ups:
                up.register_forward_pre_hook(self._cut.hook)

    def callbacks(self) -> list[Any]:
        """The one that draws the rank of each step."""
        return [self._cut] if self._cut else []

    def saved(self, model: Any, folder: Path) -> None:
        """Make what was saved an ordinary adapter on the untouched model: what it is now less what it began as, at twice the rank."""
        if not self._began:
            return
        weights = load_file(folder / WEIGHTS_FILE)
        kept: dict[str, torch.Tensor] = {}
        for name, (a, b) in self._began.items():
            places = [place for place in weights if place.endswith(f"{name}.lora_A.weight")]
            for place in places:
                other = place.replace(".lora_A.", ".lora_B.")
                kept[f"trained.{name}.A"], kept[f"trained.{name}.B"] = weights[place], weights[other]
                weights[place] = torch.cat([weights[place], a.cpu()], dim=0).contiguous()
                weights[other] = torch.cat([weights[other], -b.cpu()], dim=1).contiguous()
            kept[f"began.{name}.A"], kept[f"began.{name}.B"] = a.cpu().contiguous(), b.cpu().contiguous()
        save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        save_file(kept, folder / BEGINNING_FILE, metadata={"format": "pt"})
        file = folder / CONFIG_FILE
        config = json.loads(file.read_text(encoding="utf-8"))
        # The factor alpha / r (or alpha / √r) stays what it was.
        config.update(r=2 * config["r"], lora_alpha=config["lora_alpha"] * (2**0.5 if config.get("use_rslora") else 2))
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _layers(model: Any) -> Iterator[tuple[str, LoraLayer]]:
    """Each layer with a LoRA, by its name below the PEFT model."""
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            yield name.removeprefix("base_model.model."), layer


def _begin(layer: Any, how: str, kept: tuple[torch.Tensor, torch.Tensor] | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Begin an adapter with a part of its layer's weights, which are taken out of the layer; returns that part.

    PiSSA takes the largest singular values, half of each root on either side; OLoRA the first columns of a QR decomposition.
    """
    (adapter,) = layer.active_adapters
    down, up, factor = layer.lora_A[adapter], layer.lora_B[adapter], layer.scaling[adapter]
    base = layer.get_base_layer().weight
    weight, rank = base.data.float(), down.weight.shape[0]  # `data`: outside of gradients
    if kept is not None:
        a, b = (each.to(weight.device) for each in kept)
    elif how == "pissa":
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
        root = (s[:rank] / factor).sqrt()
        a, b = root[:, None] * vt[:rank], u[:, :rank] * root
    else:
        q, r = torch.linalg.qr(weight)
        a, b = r[:rank] / factor, q[:, :rank]
    a, b = a.contiguous(), b.contiguous()
    if a.shape[0] < rank:
        raise ValueError(f"the rank of {rank} is larger than a layer of {tuple(weight.shape)}; take {a.shape[0]} or less")
    down.weight.data.copy_(a)
    up.weight.data.copy_(b)
    base.data.copy_(weight - factor * (b @ a))
    return a, b


class _AnyRank(TrainerCallback):
    """Draws a rank for each step and has the adapters use no more of theirs; outside of training they use all."""

    def __init__(self, rank: int, seed: int) -> None:
        self.rank, self.seed, self.now = rank, seed, rank

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """By seed and step alone, so that a resumed run draws the same."""
        self.now = random.Random(f"{self.seed} {state.global_step}").randint(1, self.rank)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluations, samples and checkpoints have the whole rank."""
        self.now = self.rank

    def hook(self, layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before `lora_B`: the numbers beyond the rank of the step are zero."""
        if self.now >= self.rank:
            return inputs
        mask = torch.arange(self.rank, device=inputs[0].device) < self.now
        return (inputs[0] * mask, *inputs[1:])


def cut_to_rank(folder: Path, rank: int) -> None:
    """Cut a saved LoRA to a smaller rank: the first rows of A and columns of B, multiplied by the same factor as before.

    Raises:
        ValueError: the adapter has no such rank.
    """
    file = folder / CONFIG_FILE
    config = json.loads(file.read_text(encoding="utf-8"))
    whole = int(config["r"])
    if not 1 <= rank <= whole:
        raise ValueError(f"The rank must be between 1 and {whole}, which the adapter was trained with.")
    weights = load_file(folder / WEIGHTS_FILE)
    for name, weight in weights.items():
        if ".lora_A." in name:
            weights[name] = weight[:rank].contiguous()
        elif ".lora_B." in name:
            weights[name] = weight[:, :rank].contiguous()
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    share = rank / whole
    config.update(r=rank, lora_alpha=config["lora_alpha"] * (share**0.5 if config.get("use_rslora") else share))
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
