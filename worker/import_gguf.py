"""Turn a GGUF file into an ordinary bf16 safetensors folder, with the repairs the GGUF route needs. Decides nothing about rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker.reporting import Failed

# Pre-tokenizers that split digits one by one; reading the tokenizer out of a GGUF loses that step (names are llama.cpp's).
SINGLE_DIGITS = frozenset({"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"})
# Listed by transformers beside the architectures, but no decoders that can be tuned here.
NOT_CAUSAL = frozenset({"general", "tokenizer", "t5", "umt5"})
ALIASES = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe", "gpt-oss": "gpt_oss", "minimax-m2": "minimax_m2"}


@contextmanager
def parsed_once() -> Iterator[None]:
    """Have all readings of a GGUF file in the block share one parse of it.

    Parsing takes seconds where the vocabulary is large, and transformers does it anew for the configuration, the weights and the
    tokenizer. The reader is only read from, so one does for all.
    """
    import gguf

    plain = gguf.GGUFReader
    known: dict[str, Any] = {}

    def shared(path: Any, mode: str = "r") -> Any:
        key = f"{mode} {Path(path).resolve()}"
        if key not in known:
            known[key] = plain(path, mode)
        return known[key]

    gguf.GGUFReader = shared
    try:
        yield
    finally:
        gguf.GGUFReader = plain


def supported_architectures() -> list[str]:
    """Architectures of causal language models that transformers reads out of a GGUF."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    return sorted(set(GGUF_SUPPORTED_ARCHITECTURES) - NOT_CAUSAL)


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field is not None else None


def read_header(file: Path) -> tuple[str, str]:
    """Architecture and pre-tokenizer a GGUF file names.

    Raises:
        Failed: it is no GGUF file, is cut short, or holds an architecture that cannot be read.
    """
    from gguf import GGUFReader

    with open(file, "rb") as stream:
        if stream.read(4) != b"GGUF":
            raise Failed(f"{file.name} is not a GGUF file: it does not begin with “GGUF”. Name a .gguf file.", "model")
    try:
        reader = GGUFReader(str(file))
        architecture, pre_tokenizer = str(_field(reader, "general.architecture")), str(_field(reader, "tokenizer.ggml.pre"))
        blocks = int(_field(reader, f"{architecture}.block_count") or 0)
        tensors = {tensor.name for tensor in reader.tensors}
    except Exception as error:  # boundary: the reader raises whatever the bytes lead it to
        raise Failed(
            f"{file.name} cannot be read as GGUF; it may be cut short ({type(error).__name__}). Copy or download it again.", "model"
        ) from error
    known = supported_architectures()
    if ALIASES.get(architecture, architecture) not in known:
        raise Failed(
            f"{file.name} holds a model of the architecture “{architecture}”, which cannot be read from GGUF. "
            f"Architectures that can: {', '.join(known)}. Import the model's safetensors folder instead.",
            "architecture",
        )
    # transformers would fill in random weights of whatever size the header asks for.
    present = {".".join(name.split(".")[:2]) for name in tensors}
    absent = [name for name in ("token_embd.weight", *(f"blk.{number}" for number in range(blocks))) if name not in present]
    if absent or not blocks:
        raise Failed(
            f"{file.name} does not hold the whole model: {len(absent)} parts are missing, such as “{(absent or ['blk.0'])[0]}”.", "model"
        )
    return architecture, pre_tokenizer


def read_model(file: Path) -> Any:
    """The model in a GGUF file with its weights dequantised to bf16, ready to be saved.

    Raises:
        Failed: weights that the model needs are not in the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model, found = AutoModelForCausalLM.from_pretrained(
        str(file.parent),
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise Failed(f"{file.name} does not hold the whole model: {len(missing)} tensors are missing, such as “{missing[0]}”.", "model")
    # Left in place, the saved folder would claim to be GGUF-quantised and not load.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def read_tokenizer(file: Path, pre_tokenizer: str, context_length: int) -> Any:
    """The tokenizer in a GGUF file, with its digit splitter put back and its length limit set."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, local_files_only=True, trust_remote_code=False)
    if pre_tokenizer in SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    tokenizer.model_max_length = context_length
    return tokenizer
