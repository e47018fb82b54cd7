"""Makes a dense Llama or Mistral model a Mixtral one whose experts are copies of its feed-forward blocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from worker.engines import Attachment

_SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
    "sliding_window",
)


class Upcycling(Attachment):
    """From one feed-forward block a layer to several with a gate."""

    def trainer(self, kind: type[Any]) -> type[Any]:
        """One that goes on from a checkpoint as it is loaded anywhere: in files each expert has tensors of its own, in memory they share
        one, and the library's trainer would look for the latter in the files, find nothing and only warn."""

        class FromFiles(kind):
            def _load_from_checkpoint(self, folder: str, *args: Any, **kwargs: Any) -> None:
                kept = MixtralForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
                self.model.load_state_dict(kept.state_dict())

        FromFiles.__name__ = FromFiles.__qualname__ = kind.__name__
        return FromFiles

    def saved(self, model: Any, folder: Path) -> None:
        """Have the checkpoint reckon without the loss of balance, which only this training needs and answering cannot have."""
        file = folder / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["output_router_logits"] = False
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def upcycled(self, model: Any) -> Any:
        """A Mixtral model that gives the same logits: all experts are alike, and the weights of the chosen ones add up to one.

        Raises:
            ValueError: the model has biases, for which Mixtral has no place.
        """
        dense = model.state_dict()
        biased = [name for name in dense if name.endswith(".bias")]
        if biased:
            raise ValueError(f"the model has biases ({biased[0]}), and a mixture of experts has no place for them; take lora instead")
        old = model.config
        config = MixtralConfig(
            **{name: getattr(old, name) for name in _SHARED if hasattr(old, name)},
            num_local_experts=self.params.experts,
            num_experts_per_tok=self.params.active,
            output_router_logits=self.params.balance > 0,
            router_aux_loss_coef=self.params.balance,
        )
        config.name_or_path = old.name_or_path
        made: Any = MixtralForCausalLM(config).to(next(model.parameters()).dtype)
        # The gates are drawn; everything else is there already.
        weights = {name: weight for name, weight in dense.items() if ".mlp." not in name}
        for number in range(config.num_hidden_layers):
            block = f"model.layers.{number}.mlp"
            both = torch.cat([dense[f"{block}.gate_proj.weight"], dense[f"{block}.up_proj.weight"]])
            weights[f"{block}.experts.gate_up_proj"] = both.repeat(self.params.experts, 1, 1)
            weights[f"{block}.experts.down_proj"] = dense[f"{block}.down_proj.weight"].repeat(self.params.experts, 1, 1)
        found = made.load_state_dict(weights, strict=False)
        left = [name for name in found.missing_keys if not name.endswith("mlp.gate.weight")]
        if left or found.unexpected_keys:
            raise ValueError(f"its weights do not fit a mixture of experts ({(left + list(found.unexpected_keys))[0]}); take lora instead")
        made.tie_weights()
        made.generation_config = model.generation_config
        return made
