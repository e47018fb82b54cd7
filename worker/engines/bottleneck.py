"""Bottleneck adapters (Houlsby, Pfeiffer) as a tuner of PEFT, which has none: registered when this module is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.peft_types import PeftType, register_peft_method
from torch import nn

from worker.engines import Attachment

NAME = "BOTTLENECK"


def _add_type() -> Any:
    """Add our type to PEFT's enumeration, which cannot be subclassed."""
    if NAME not in PeftType.__members__:
        member = str.__new__(PeftType, NAME)
        member._name_ = member._value_ = NAME
        type.__setattr__(PeftType, NAME, member)
        PeftType._member_names_.append(NAME)
        PeftType._member_map_[NAME] = member
        PeftType._value2member_map_[NAME] = member
    return PeftType[NAME]


_TYPE = _add_type()


@dataclass
class BottleneckConfig(PeftConfig):
    """What an adapter of this kind is made of, as `adapter_config.json` keeps it."""

    bottleneck_size: int = field(default=64, metadata={"help": "Width of the bottleneck"})
    non_linearity: str = field(default="gelu", metadata={"help": "Function of torch.nn.functional between down and up"})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Linear layers whose output gets an adapter"})
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = _TYPE
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # PEFT looks names up in it, and saves it as a list


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A linear layer with a bottleneck behind it: output + up(f(down(output)))."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.bottleneck_down, self.bottleneck_up = nn.ModuleDict(), nn.ModuleDict()
        self.functions: dict[str, Any] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._active_adapter = adapter_name
        layer = self.get_base_layer()
        self.width = int(getattr(layer, "out_features", 0) or getattr(layer, "nf", 0))  # nf: transformers' Conv1D
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add the bottleneck of one more adapter; it begins as zero, so that nothing changes."""
        down, up = nn.Linear(self.width, config.bottleneck_size), nn.Linear(config.bottleneck_size, self.width)
        if config.init_weights:
            nn.init.normal_(down.weight, std=0.01)
            nn.init.zeros_(down.bias)
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self.functions[adapter_name] = getattr(nn.functional, config.non_linearity)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The layer's output, through the active adapters one after the other."""
        output: torch.Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return output
        for name in self.active_adapters:
            if name in self.bottleneck_down:
                down, up = self.bottleneck_down[name], self.bottleneck_up[name]
                output = output + up(self.functions[name](down(output.to(down.weight.dtype)))).to(output.dtype)
        return output

    def merge(self, *args: Any, **kwargs: Any) -> None:
        """Impossible: there is a function between its matrices."""
        raise ValueError("bottleneck adapters are not linear and cannot be merged into the weights")

    def unmerge(self) -> None:
        """Nothing is ever merged."""


class BottleneckModel(BaseTuner):
    """A model with bottlenecks behind its target layers."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012  # as PEFT declares it

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str, **_: Any
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)


register_peft_method(name="bottleneck", config_cls=BottleneckConfig, model_cls=BottleneckModel)


class Bottleneck(Attachment):
    """Makes the configuration; all else is PEFT's."""

    def config(self, targets: list[str]) -> BottleneckConfig:
        """The configuration of a new adapter behind the layers of these names."""
        return BottleneckConfig(
            bottleneck_size=self.params.size, non_linearity=self.params.activation, target_modules=targets, task_type="CAUSAL_LM"
        )
