"""A disk that is really full: a small tmpfs, where one can be mounted. The import says so and leaves nothing."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.models import tiny_llama_folder
from tests.worker.importing import as_child, nothing_left, spec_for

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB; the tiny model has 400 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_room_is_looked_at_before(small_disk: Path, tmp_path: Path) -> None:
    spec = spec_for(small_disk, "folder", tiny_llama_folder())
    code, messages, _ = as_child(spec, tmp_path)
    assert code == 42 and messages[-1]["code"] == "disk_full" and "Free some space" in messages[-1]["reason"] and nothing_left(spec)


def test_a_disk_that_fills_up_meanwhile(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room that was there at first is gone when the weights are written, in both ways of writing them."""
    from worker import import_checkpoint, import_folder, import_gguf
    from worker.reporting import Failed, Report

    for name in (
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_XET",
        "HF_HUB_DOWNLOAD_TIMEOUT",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(import_folder, "check_room", lambda *_: None)
    spec = spec_for(small_disk, "folder", tiny_llama_folder())
    with pytest.raises(OSError, match="No space left"):  # the child's entry makes it a sentence
        import_checkpoint.main(spec, Report())
    assert nothing_left(spec)

    def model(_: Path) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(tiny_llama_folder())

    def tokenizer(*_: Any) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(tiny_llama_folder())

    monkeypatch.setattr(import_gguf, "read_header", lambda _: ("llama", "smollm"))
    monkeypatch.setattr(import_gguf, "read_model", model)
    monkeypatch.setattr(import_gguf, "read_tokenizer", tokenizer)
    file = small_disk / "model.gguf"
    file.write_bytes(b"GGUF")
    spec = spec_for(small_disk, "gguf", file)
    with pytest.raises(Failed, match="The disk is full"):
        import_checkpoint.main(spec, Report())
    assert nothing_left(spec)
    assert shutil.disk_usage(small_disk).used < 20_000
