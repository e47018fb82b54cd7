"""Load what a trainer needs: tokenizer, weights in the right precision, rows as trl takes them. Trains nothing, samples nothing."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker import rows
from worker.libraries import out_of_memory
from worker.reporting import Failed

log = logging.getLogger(__name__)

HEAD = "score"
"""What transformers calls the head that gives one number, in decoders."""
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


def load_model(path: str, adapter: str | None, dtype: str, *, head: bool | None = None) -> Any:
    """The weights in a checkpoint's folder, with the adapter to go on from, if any.

    Args:
        head: with a head that gives one number (a new one where the checkpoint has none), or without; None as the checkpoint is.

    Raises:
        Failed: the folder holds no model that can be read, or one that gives numbers where text is wanted.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    has_one = has_head(path, adapter)
    if has_one and head is False:
        raise Failed("The model to start from gives numbers and no text. Take the checkpoint it was trained from, or another.", "model")
    headed = has_one if head is None else head
    kind = AutoModelForSequenceClassification if headed else AutoModelForCausalLM
    options: dict[str, Any] = {"num_labels": 1} if headed else {}
    try:
        with _silent(headed):
            model: Any
            model, found = kind.from_pretrained(
                path,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **options,
            )
        missing = [name for name in found["missing_keys"] if not name.startswith(f"{HEAD}.")]
        if headed and missing:
            raise Failed(f"The model's files lack {len(missing)} weights, such as {missing[0]}. Import it again, or take another.", "model")
        model.config.name_or_path = path
        if headed:
            _widen_head(model)
        if adapter:
            from peft import PeftModel

            if headed and not _is_headed(adapter):
                model = _onto_head(model, adapter)
            else:
                model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    except Exception as error:  # boundary: whatever the libraries make of a broken folder
        if out_of_memory(error) or isinstance(error, Failed):
            raise
        raise Failed(f"The model cannot be loaded: {_first_line(error)} Import it again, or take another.", "model") from error
    return model


@contextmanager
def _silent(hushed: bool) -> Iterator[None]:
    """Without the table the library prints of weights that are drawn anew: here that is the head, and meant to be."""
    from transformers.utils import logging as library

    before = library.get_verbosity()
    try:
        if hushed:
            library.set_verbosity_error()
        yield
    finally:
        library.set_verbosity(before)


def has_head(path: str, adapter: str | None) -> bool:
    """Whether a checkpoint gives a number (reward or score) and no text."""
    return (adapter is not None and _is_headed(adapter)) or any(
        str(name).endswith("ForSequenceClassification") for name in _json(Path(path) / "config.json").get("architectures") or ()
    )


def _is_headed(adapter: str) -> bool:
    return bool(_json(Path(adapter) / "adapter_config.json").get("task_type") == "SEQ_CLS")


def _onto_head(model: Any, adapter: str) -> Any:
    """An adapter of a model that writes, put on one with a new head, which is trained from now on together with it."""
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = with_head(PeftConfig.from_pretrained(adapter))
    config.inference_mode = False
    new = getattr(model, HEAD).weight.detach().clone()
    model = get_peft_model(model, config)
    set_peft_model_state_dict(model, {**load_peft_weights(adapter, device="cpu"), f"base_model.model.{HEAD}.weight": new})
    return model


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # the libraries say what is wrong with it
    return found if isinstance(found, dict) else {}


def with_head(config: Any) -> Any:
    """The configuration of an adapter that trains the head too, and keeps it with its own weights."""
    config.task_type = "SEQ_CLS"
    config.modules_to_save = sorted({*(config.modules_to_save or ()), HEAD})
    return config


def _widen_head(model: Any) -> None:
    """Hold the head in 32 bits, whatever the weights below it have: it is trained, and small updates vanish in bfloat16."""
    head = getattr(model, HEAD, None)
    if head is None:
        raise Failed(
            f"A {type(model).__name__} has no head called “{HEAD}”, so it cannot be trained to give numbers. Take another.", "model"
        )
    head.float()
    head.register_forward_pre_hook(_in_its_type)


def _in_its_type(head: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return (inputs[0].to(head.weight.dtype), *inputs[1:])


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
