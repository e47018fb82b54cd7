"""Load what a trainer needs: tokenizer, weights in the right precision, rows as trl takes them. Trains nothing, samples nothing."""

from __future__ import annotations

import logging
import math
import pkgutil
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app import tuners
from app.checkpoints.bits import Bits
from app.checkpoints.heads import is_encoder
from app.methods.base import Head
from worker import heads, libraries, rows
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
    if tokenizer.eos_token is None and tokenizer.cls_token is None:  # an encoder writes nothing that would have to end
        raise Failed(
            "The model's tokenizer has no end-of-sequence token, so answers could not end. Add one to its tokenizer_config.json.", "model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _quantised(bits: Bits, dtype: Any) -> dict[str, Any]:
    """What `from_pretrained` has to be told to hold frozen weights in fewer bits."""
    if not bits:
        return {}
    libraries.bitsandbytes()
    from transformers import BitsAndBytesConfig

    whole = ["lm_head", *heads.NAMES]
    if bits.quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=whole)}
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=bits.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=whole,
    )
    return {"quantization_config": config}


def load_model(
    path: str,
    adapter: str | None,
    dtype: str,
    *,
    head: Head | Literal[False] | None = None,
    bits: Bits = Bits(),
    rounded: Bits | None = None,
) -> Any:
    """The weights in a checkpoint's folder, with the adapter to go on from, if any.

    Args:
        head: the head it shall have (a new one where the checkpoint has none, or another), or False for none; None as the checkpoint is.
        bits: how the weights are held that stay as they are.
        rounded: as what they are rounded where they are held whole; None: as those that the adapter was trained on, since its numbers
            mend that rounding, too (docs/decisions/0015).

    Raises:
        Failed: the folder holds no model that can be read, or one that gives numbers where text is wanted.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kept = heads.at(path, adapter)
    if kept is not None and head is False:
        given = "classes" if kept.labels else "numbers"
        raise Failed(f"The model to start from gives {given} and no text. Take the checkpoint it was trained from, or another.", "model")
    wanted = kept if head is None else head or None
    if (wanted is None or not wanted.labels) and is_encoder(heads.read(Path(path) / "config.json")):
        raise Failed(
            "The model to start from is an encoder: only classify and features can start from it. Take one that writes text.", "model"
        )
    try:
        rounded = Bits.of(adapter) if rounded is None else rounded
        options = _quantised(bits or rounded, getattr(torch, dtype))
        kind: Any = AutoModelForCausalLM
        is_other = False
        if wanted is not None:
            below = heads.at(path, None)
            is_other = below is not None and below != wanted
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            heads.configure(config, wanted)
            kind = heads.model_class(config)
            options |= {"config": config, "ignore_mismatched_sizes": is_other}
        with _silent(wanted is not None):
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
        missing = [name for name in found["missing_keys"] if not heads.belongs(name)]
        if wanted is not None and missing:
            raise Failed(f"The model's files lack {len(missing)} weights, such as {missing[0]}. Import it again, or take another.", "model")
        if rounded and not bits:
            model = model.dequantize()
            model.is_loaded_in_4bit = model.is_loaded_in_8bit = False  # which the library forgets
        model.config.name_or_path = path
        if wanted is not None:
            if heads.name_of(model) is None:
                raise Failed(f"A {type(model).__name__} has no head that is known here. Take another model.", "model")
            if is_other:
                heads.redraw(model)
            heads.prepare(model)
        if adapter and heads.has_adapter(adapter):
            if wanted is not None and heads.in_adapter(adapter) != wanted:
                model = _onto_head(model, adapter)
            else:
                model = _with_adapter(model, adapter)
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
    """Whether a checkpoint gives numbers or classes and no text."""
    return heads.at(path, adapter) is not None


def _onto_head(model: Any, adapter: str) -> Any:
    """An adapter of a model without a head, or with another, put on one with a new head, which is trained from now on together with it."""
    from peft import PeftConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = heads.with_head(PeftConfig.from_pretrained(adapter))
    config.inference_mode = False
    place = "base_model." if config.is_prompt_learning else "base_model.model."
    new = {f"{place}{name}": weight.detach().clone() for name, weight in model.state_dict().items() if heads.belongs(name)}
    model = get_peft_model(model, config)
    kept = {name: weight for name, weight in load_peft_weights(adapter, device="cpu").items() if not heads.belongs(name)}
    set_peft_model_state_dict(model, {**kept, **new})
    return model


def _with_adapter(model: Any, adapter: str) -> Any:
    """The model with an adapter that can be trained on."""
    engine = _engine_of(adapter)
    if hasattr(engine, "load"):
        return engine.load(model, adapter)
    from peft import PeftConfig, PeftModel

    soft = bool(PeftConfig.from_pretrained(adapter).is_prompt_learning)
    found: Any = PeftModel.from_pretrained(model, adapter, is_trainable=not soft)
    if soft:  # PEFT does not load them for training; the virtual tokens themselves are trained on
        found.prompt_encoder.requires_grad_(True)
        for name, weight in found.named_parameters():
            if ".modules_to_save." in name:
                weight.requires_grad_(True)
    return found


def _engine_of(adapter: str) -> Any:
    """What a tuner has of its own for adapters of this kind, if anything; PEFT knows those kinds of ours that are imported."""
    kind = heads.read(Path(adapter) / "adapter_config.json").get("peft_type")
    named = [tuner.engine for tuner in tuners.registry().values() if tuner.engine and tuner.peft_type == kind]
    return pkgutil.resolve_name(named[0]) if named else None


def parameters(model: Any) -> int:
    """Number of weights of a model, also where several share a byte."""
    return sum(math.prod(getattr(getattr(weight, "quant_state", None), "shape", weight.shape)) for weight in model.parameters())


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
