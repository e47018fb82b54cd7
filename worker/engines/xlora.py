"""A mixture of LoRAs: saves the whole router with copies of the LoRAs, reads them back, and trains without trl's fused output layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, XLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from app.checkpoints.bits import Bits
from worker.engines import Attachment

ROUTER_FILE = "router.safetensors"
ADAPTERS = "adapters"
_ROUTER = "internal_xlora_classifier"
_OF_AN_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


class Mixture(Attachment):
    """The LoRAs that the settings name, numbered as PEFT wants them."""

    def rounded(self) -> Bits:
        """As the weights were that the LoRAs were trained on."""
        return Bits.of(self.others[self.params.adapters[0]]["adapter"])

    def config(self, model: Any) -> Any:
        """The configuration of a new mixture.

        Raises:
            ValueError: one of the adapters is no LoRA, or was trained on another model, or on one that was held in other bits.
        """
        places = []
        for one in self.params.adapters:
            other = self.others[one]
            kind = PeftConfig.from_pretrained(other["adapter"]).peft_type
            if kind != "LORA":
                raise ValueError(f"“{other['name']}” is an adapter of the kind {kind.lower()}, and only LoRAs can be mixed; take another")
            if Path(other["path"]).resolve() != Path(model.config.name_or_path).resolve():
                raise ValueError(f"“{other['name']}” was trained on another model than the one this run starts from; take another")
            if Bits.of(other["adapter"]) != self.rounded():
                raise ValueError(f"“{other['name']}” was trained on weights held in other bits than those of the first; take another")
            places.append(str(other["adapter"]))
        model.config.use_cache = False  # every token is mixed anew
        return XLoraConfig(
            task_type="CAUSAL_LM",
            hidden_size=model.config.get_text_config().hidden_size,
            adapters={str(number): place for number, place in enumerate(places)},
            xlora_depth=self.params.depth,
            xlora_size=self.params.width,
            softmax_temperature=self.params.temperature,
        )

    def trainer(self, kind: type[Any]) -> type[Any]:
        """One that reckons the loss from the logits, and goes on from the whole router."""

        class Mixing(kind):
            def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
                outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs.get("attention_mask"), use_cache=False)
                labels = inputs["labels"][:, 1:]
                found = outputs.logits[:, :-1].float()
                total = torch.nn.functional.cross_entropy(found.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
                loss = total / (num_items_in_batch if num_items_in_batch is not None else (labels != -100).sum())
                return (loss, outputs) if return_outputs else loss

            def _load_from_checkpoint(self, folder: str, *args: Any, **kwargs: Any) -> None:
                _fill(self.model, Path(folder))

        Mixing.__name__ = Mixing.__qualname__ = kind.__name__
        return Mixing

    def saved(self, model: Any, folder: Path) -> None:
        """The router, and the LoRAs beside it: the checkpoint needs nothing but the model below."""
        router = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items() if _ROUTER in name}
        save_file(router, folder / ROUTER_FILE, metadata={"format": "pt"})
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        for number, source in enumerate(_places(model)):
            target = folder / ADAPTERS / str(number)
            target.mkdir(parents=True, exist_ok=True)
            for name in _OF_AN_ADAPTER:
                shutil.copyfile(source / name, target / name)
            config["adapters"][str(number)] = f"{ADAPTERS}/{number}"
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    @staticmethod
    def load(model: Any, adapter: str) -> Any:
        """A model with a mixture that was saved, its router ready to be trained on."""
        folder = Path(adapter)
        config: Any = PeftConfig.from_pretrained(adapter)
        config.adapters = {number: str(folder / ADAPTERS / number) for number in config.adapters}
        config.inference_mode = False
        model.config.use_cache = False
        mixed = get_peft_model(model, config)
        _fill(mixed, folder)
        return mixed


def _places(model: Any) -> list[Path]:
    config = next(iter(model.peft_config.values()))
    return [Path(config.adapters[str(number)]) for number in range(len(config.adapters))]


def _fill(model: Any, folder: Path) -> None:
    found = model.load_state_dict(load_file(folder / ROUTER_FILE), strict=False)
    if found.unexpected_keys:
        raise ValueError(f"the router of the checkpoint does not fit ({found.unexpected_keys[0]})")
