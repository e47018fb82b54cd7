"""Importing a Hugging Face folder: what is taken, and every kind of folder that is refused, with words that name the file."""

from __future__ import annotations

import errno
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from app.checkpoints.manifest import verify_manifest, weights_sha256
from tests.models import tiny_llama, tiny_llama_folder
from tests.worker.importing import as_child, nothing_left, spec_for
from worker.reporting import Failed, Report

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train


@pytest.fixture(autouse=True)
def doors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Give back the variables that an import sets for its process."""
    for name in (
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_XET",
        "HF_HUB_DOWNLOAD_TIMEOUT",
    ):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder to spoil."""
    return Path(copytree(tiny_llama_folder(), tmp_path / "model"))


def run(spec: dict[str, Any]) -> dict[str, Any]:
    from worker.import_checkpoint import main

    return main(spec, Report())


def refusal(spec: dict[str, Any]) -> Failed:
    """The failure of an import, which has to leave nothing behind."""
    with pytest.raises(Failed) as caught:
        run(spec)
    assert nothing_left(spec)
    return caught.value


def edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_a_folder_becomes_a_verified_checkpoint(tmp_path: Path, model: Path) -> None:
    (model / "README.md").write_text("not needed")
    spec = spec_for(tmp_path, "folder", model)
    result = run(spec)
    manifest = verify_manifest(Path(spec["target"]))
    assert set(manifest["files"]) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert result["sha256"] == weights_sha256(manifest)
    assert result["size_bytes"] == sum(file.stat().st_size for file in Path(spec["target"]).iterdir() if file.name != "MANIFEST.json")
    assert result["shapes"]["model.layers.0.self_attn.q_proj.weight"] == [64, 64]
    assert result["config"]["architectures"] == ["LlamaForCausalLM"]
    assert result["revision"] is None


def test_tied_embeddings_count_once_and_shards_are_taken(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    for tied in (True, False):
        source = tiny_llama(tmp_path / f"tied-{tied}", tied=tied, max_shard_size="100KB")
        assert (source / "model.safetensors.index.json").is_file()
        result = run({**spec_for(tmp_path / f"to-{tied}", "folder", source)})
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        assert result["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert ("lm_head.weight" in result["shapes"]) is not tied


@pytest.mark.parametrize("name", ["pytorch_model.bin", "training_args.bin", "weights.pt", "weights.pth", "optimizer.pkl", "last.ckpt"])
def test_pickles_are_refused_by_name(tmp_path: Path, model: Path, name: str) -> None:
    (model / name).write_bytes(b"whatever")
    failed = refusal(spec_for(tmp_path, "folder", model))
    assert name in failed.reason and "pickle" in failed.reason and failed.code == "pickle"


def test_pickles_under_another_name_are_refused(tmp_path: Path, model: Path) -> None:
    (model / "notes.txt").write_bytes(pickle.dumps({"a": 1}))
    assert "notes.txt" in refusal(spec_for(tmp_path, "folder", model)).reason
    (model / "notes.txt").unlink()
    with zipfile.ZipFile(model / "LICENSE", "w") as archive:
        archive.writestr("data.pkl", b"")
    assert "LICENSE" in refusal(spec_for(tmp_path, "folder", model)).reason


def test_code_of_a_model_never_runs(tmp_path: Path, model: Path) -> None:
    marker = tmp_path / "marker"
    (model / "modeling_own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    edit(
        model / "config.json",
        auto_map={"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.Own"},
        trust_remote_code=True,
    )
    spec = spec_for(tmp_path, "folder", model)
    code, messages, _ = as_child(spec, tmp_path)
    assert code == 42 and messages[-1]["kind"] == "fatal" and "modeling_own.py" in messages[-1]["reason"]
    (model / "modeling_own.py").unlink()
    (model / "own").mkdir()
    (model / "own" / "modeling_own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    assert "auto_map" in refusal(spec).reason
    assert not marker.exists() and nothing_left(spec)


@pytest.mark.parametrize(
    ("file", "values", "word"),
    [
        ("config.json", {"auto_map": {}}, "auto_map"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map"),
        ("config.json", {"text_config": {"deep": [{"auto_map": {"AutoModel": "a.B"}}]}}, "auto_map"),
        ("config.json", {"text_config": {"trust_remote_code": True}}, "trust_remote_code"),
        ("config.json", {"_attn_implementation": "somebody/kernel"}, "kernel"),
        ("config.json", {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ("config.json", {"architectures": ["OwnForCausalLM"]}, "OwnForCausalLM"),
        ("config.json", {"architectures": ["ViTForImageClassification"], "model_type": "vit"}, "ViTForImageClassification"),
        ("config.json", {"architectures": [], "model_type": "t5"}, "t5"),
        ("config.json", {"model_type": 7}, "model_type"),
        ("config.json", {"hidden_size": 128}, "another shape"),
        ("config.json", {"num_hidden_layers": 3}, "missing"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, model: Path, file: str, values: dict[str, Any], word: str) -> None:
    edit(model / file, **values)
    assert word in refusal(spec_for(tmp_path, "folder", model)).reason


def _truncate(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _index(name: str) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        (model / "model.safetensors").rename(model / "a.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (_truncate, "model.safetensors"),
        (lambda model: (model / "config.json").unlink(), "config.json"),
        (lambda model: (model / "config.json").write_text("{"), "config.json"),
        (lambda model: (model / "config.json").write_text("[" * 50_000), "config.json"),
        (lambda model: (model / "model.safetensors").unlink(), "safetensors"),
        (lambda model: (model / "model.safetensors").rename(model / "adapter_model.safetensors"), "adapter"),
        (lambda model: (model / "tokenizer.json").unlink(), "tokenizer"),
        (_index("../other/model.safetensors"), "leaves the folder"),
        (_index("/etc/passwd"), "leaves the folder"),
        (_index("b.safetensors"), "b.safetensors"),
        (_index("config.json"), "config.json"),
        (lambda model: (model / "extra.txt").symlink_to("/etc/hostname"), "extra.txt"),
        (lambda model: (model / "extra.txt").symlink_to(model / "gone"), "extra.txt"),
    ],
)
def test_folders_that_are_no_model(tmp_path: Path, model: Path, spoil: Callable[[Path], Any], word: str) -> None:
    spoil(model)
    assert word in refusal(spec_for(tmp_path, "folder", model)).reason


def test_a_link_inside_the_folder_is_followed(tmp_path: Path, model: Path) -> None:
    (model / "model.safetensors").rename(model / "blob")
    (model / "model.safetensors").symlink_to("blob")
    spec = spec_for(tmp_path, "folder", model)
    run(spec)
    assert not (Path(spec["target"]) / "model.safetensors").is_symlink()


def test_an_engineer_stays_in_the_allowed_folders(tmp_path: Path, model: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(model)
    assert "LUTHIER_MODEL_FOLDERS" in refusal(spec_for(tmp_path, "folder", allowed / "link", allowed=[str(allowed)])).reason
    copytree(model, allowed / "model")
    run(spec_for(tmp_path, "folder", allowed / "model", allowed=[str(allowed)]))


def test_places_that_are_not_there(tmp_path: Path, model: Path) -> None:
    assert "does not exist" in refusal(spec_for(tmp_path, "folder", tmp_path / "nowhere")).reason
    assert "is a file" in refusal(spec_for(tmp_path, "folder", model / "config.json")).reason
    assert "is a folder" in refusal(spec_for(tmp_path, "gguf", model)).reason


def test_a_full_disk_leaves_nothing(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if "x" in mode and str(file).endswith(".safetensors"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return open(file, mode, *args, **kwargs)

    monkeypatch.setattr("worker.import_folder.open", full, raising=False)
    spec = spec_for(tmp_path, "folder", model)
    with pytest.raises(OSError, match="No space left"):
        run(spec)
    assert nothing_left(spec)


def test_no_room_is_told_before_copying(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.import_folder.shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    failed = refusal(spec_for(tmp_path, "folder", model))
    assert failed.code == "disk_full" and "free" in failed.reason


def test_a_worker_without_torch_says_what_to_install(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    failed = refusal(spec_for(tmp_path, "folder", model))
    assert failed.code == "no_torch" and "pip install 'luthier[train]'" in failed.reason


def test_a_model_that_does_not_answer_is_not_kept(tmp_path: Path, model: Path) -> None:
    expect = {"parameters": 1, "question": "What is the capital of France?", "answer": "Paris"}
    assert "parameters" in refusal(spec_for(tmp_path, "folder", model, expect=expect)).reason
    expect["parameters"] = run(spec_for(tmp_path / "once", "folder", model))["parameters"]
    assert "Paris" in refusal(spec_for(tmp_path, "folder", model, expect=expect)).reason


def test_an_attempt_that_died_is_replaced(tmp_path: Path, model: Path) -> None:
    spec = spec_for(tmp_path, "folder", model)
    for place in (Path(spec["target"]), Path(spec["work"]) / "model"):
        place.mkdir(parents=True)
        (place / "half").write_text("left behind")
    run(spec)
    assert "half" not in verify_manifest(Path(spec["target"]))["files"]
