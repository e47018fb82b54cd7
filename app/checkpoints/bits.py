"""In how many bits the weights below an adapter are held, and what an adapter remembers of it. Loads no model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "quantization.json"
"""In the folder of an adapter that was trained on quantised weights: how these were held."""


@dataclass(frozen=True)
class Bits:
    """How frozen weights are held; false where they are whole."""

    quantization: str = "none"
    """none, int8 or nf4."""
    double_quantization: bool = True
    """With nf4: whether the scales of the blocks are held in 8 bits too."""

    def __bool__(self) -> bool:
        return self.quantization != "none"

    def __str__(self) -> str:
        double = " with double quantisation" if self.quantization == "nf4" and self.double_quantization else ""
        return f"held in {self.quantization}{double}" if self else "that were whole"

    @classmethod
    def of(cls, adapter: str | Path | None) -> Bits:
        """How the weights below the adapter in a folder were held while it was trained."""
        file = Path(adapter) / FILE if adapter else None
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file is not None and file.is_file() else cls()

    def keep(self, folder: Path) -> None:
        """Have the adapter in a folder remember this."""
        if self:
            (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
