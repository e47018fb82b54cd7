"""Load what a trainer needs: tokenizer, weights in the right precision, rows as trl takes them. Trains nothing, samples nothing."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import rows
from worker.libraries import out_of_memory
from worker.reporting import Failed

log = logging.getLogger(__name__)

IN_MEMORY_BYTES = 256 * 1024**2
"""A file of rows larger than this is kept on disk while it is prepared."""


@dataclass(frozen=True)
class Precision:
    """In what the weights of a run are held and reckoned."""

    loaded: str
    """Type the model is loaded in: that of the frozen weights, or of all in full tuning. Trained weights are always float32."""
    autocast: bool
    """Whether matrix products are reckoned in bfloat16 by autocast."""
    trained: str = "float32"


def precision(asked: str, family: str, device: str) -> Precision:
    """What suits the device and the family of tuners.

    On a CPU frozen weights in bfloat16 without autocast are the fast way, where the processor reckons in bfloat16; autocast is slower
    than plain float32 there. On a GPU autocast brings the small fp32 matrices of an adapter together with the frozen weights.
    """
    able = _cpu_has_bf16() if device == "cpu" else _gpu_has_bf16()
    wanted = asked == "bf16" or (asked == "auto" and able)
    if asked == "bf16" and device != "cpu" and not able:
        raise Failed("This GPU does not reckon in bfloat16. Set precision to auto or fp32.", "config")
    if not wanted:
        return Precision("float32", False)
    if family == "adapter":
        return Precision("bfloat16", device != "cpu")
    return Precision("float32", device != "cpu" or asked == "bf16")


def _cpu_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware."""
    if platform.system() != "Linux":
        return False
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith(("flags", "Features")):
            return bool({"amx_bf16", "avx512_bf16", "bf16"} & set(line.split()))
    return False


def _gpu_has_bf16() -> bool:
    import torch

    return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())


def load_tokenizer(path: str) -> Any:
    """The tokenizer in a checkpoint's folder, with a padding token.

    Raises:
        Failed: there is none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # boundary: whatever the library makes of a broken folder
        raise Failed(f"The model's tokenizer cannot be read ({_first_line(error)}). Import the model again.", "model") from error
    if tokenizer.eos_token is None:
        raise Failed(
            "The model's tokenizer has no end-of-sequence token, so answers could not end. Add one to its tokenizer_config.json.", "model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str, adapter: str | None, dtype: str) -> Any:
    """The weights in a checkpoint's folder, with the adapter to go on from, if any.

    Raises:
        Failed: the folder holds no model that can be read.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=getattr(torch, dtype), trust_remote_code=False, local_files_only=True, use_safetensors=True
        )
        model.config.name_or_path = path
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    except Exception as error:  # boundary: whatever the libraries make of a broken folder
        if out_of_memory(error):
            raise
        raise Failed(f"The model cannot be loaded: {_first_line(error)} Import it again, or take another.", "model") from error
    return model


@dataclass(frozen=True)
class Rows:
    """The rows of one split, ready for a trainer."""

    dataset: Any
    """A `datasets.Dataset` with trl's columns."""
    longest: int
    """Characters of the longest row."""

    def longest_tokens(self, max_length: int) -> int:
        """About how many tokens the longest row has, after cutting; a tokenizer makes fewer of most texts."""
        return min(max_length, self.longest // 3 + 32)


def load_rows(part: dict[str, Any], has_template: bool, folder: Path) -> Rows:
    """The rows of a dataset's split as trl takes them.

    Args:
        folder: where a large dataset may be kept meanwhile.

    Raises:
        Failed: there are none, or the file cannot be read.
    """
    import datasets

    longest = [0]

    def _rows() -> Iterator[dict[str, Any]]:
        for record in rows.read(part["path"], part["split"]):
            row = rows.to_trl(record["row"], part["shape"], has_template)
            longest[0] = max(longest[0], sum(map(_characters, row.values())))
            yield row

    try:
        if Path(part["path"]).stat().st_size > IN_MEMORY_BYTES:
            found = datasets.Dataset.from_generator(_rows, cache_dir=str(folder / "rows"), fingerprint=part.get("sha256"))
        else:
            found = datasets.Dataset.from_list(list(_rows()))
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Failed(f"The dataset cannot be read ({_first_line(error)}). Import it again.", "data") from error
    if not len(found):
        raise Failed("The dataset has no rows to train on. Take another, or one split another way.", "data")
    return Rows(found, longest[0])


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(len(message["content"]) for message in value) if isinstance(value, list) else 0


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    line = text[0][:300].rstrip() if text else type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."
