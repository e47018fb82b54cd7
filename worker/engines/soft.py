"""Soft prompts that a run can go on with: PEFT keeps only the virtual tokens they make, and not the network that makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from worker.engines import Attachment

ENCODER_FILE = "encoder.safetensors"
"""In a checkpoint: all that is trained, to go on with; `adapter_model.safetensors` holds the finished virtual tokens."""


class SoftPrompt(Attachment):
    """Keeps what makes the virtual tokens with each checkpoint, and reads it back."""

    def trainer(self, kind: type[Any]) -> type[Any]:
        """One that goes on from that file; PEFT refuses to load soft prompts for training."""

        class FromEncoder(kind):
            def _load_from_checkpoint(self, folder: str, *args: Any, **kwargs: Any) -> None:
                encoder = self.model.prompt_encoder[self.model.active_adapter]
                kept = load_file(Path(folder) / ENCODER_FILE)
                encoder.load_state_dict(
                    {name.removeprefix("encoder."): value for name, value in kept.items() if name.startswith("encoder.")}
                )
                heads = {name.removeprefix("head."): value for name, value in kept.items() if name.startswith("head.")}
                self.model.load_state_dict(heads, strict=False)

        FromEncoder.__name__ = FromEncoder.__qualname__ = kind.__name__
        return FromEncoder

    def saved(self, model: Any, folder: Path) -> None:
        """All that is trained: the encoder, and a head beside it."""
        encoder = model.prompt_encoder[model.active_adapter]
        kept = {f"encoder.{name}": value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
        for name, weight in model.named_parameters():
            if weight.requires_grad and not name.startswith("prompt_encoder."):
                kept[f"head.{name}"] = weight.detach().cpu().contiguous()
        save_file(kept, folder / ENCODER_FILE, metadata={"format": "pt"})
