"""The packing child by itself: a full disk, a checkpoint that goes away, more than one shard; it leaves its file or nothing."""

from __future__ import annotations

import errno
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.checkpoints.manifest import write_manifest
from app.exports.schemas import STEPS
from tests.models import tiny_llama, tiny_llama_folder

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the child sets for itself is taken back."""
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")


def spec_for(tmp_path: Path, base: Path, way: str = "copy", **more: Any) -> dict[str, Any]:
    work = tmp_path / "storage" / "work" / "job"
    work.mkdir(parents=True)
    target = tmp_path / "storage" / "exports" / "exp_1.zip"
    names = {"base_name": "tiny", "base_revision": None, "folder": "tiny-merged", "card": "# tiny\n", "dtype": None, "adapter": None}
    return {"way": way, "steps": STEPS[way], "base": str(base), "work": str(work), "target": str(target), **names, **more}


def checkpoint(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(tiny_llama_folder(), tmp_path / "base"))
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    return folder


def left(spec: dict[str, Any]) -> list[Path]:
    return [file for place in (Path(spec["work"]), Path(spec["target"]).parent) for file in place.rglob("*") if file.is_file()]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import export
    from worker.reporting import Failed, Report

    spec = spec_for(tmp_path, checkpoint(tmp_path))
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))  # type: ignore[attr-defined]
    with pytest.raises(Failed, match="The disk is full") as caught:
        export.main(spec, Report())
    assert caught.value.code == "disk_full" and left(spec) == []
    monkeypatch.undo()

    def pieces(_: Path) -> Any:
        yield b"a first piece"
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_pieces", pieces)
    with pytest.raises(OSError, match="No space left"):  # the child's entry makes it a sentence
        export.main(spec, Report())
    assert left(spec) == []


def test_a_checkpoint_that_is_deleted_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from worker import export
    from worker.reporting import Failed, Report

    base = checkpoint(tmp_path)
    spec = spec_for(tmp_path, base)
    plain = export._pieces

    def pieces(file: Path) -> Any:
        shutil.rmtree(base, ignore_errors=True)
        yield from plain(file)

    monkeypatch.setattr(export, "_pieces", pieces)
    with pytest.raises(Failed, match="was deleted while it was being exported"):
        export.main(spec, Report())
    assert left(spec) == []


def test_large_weights_are_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    from worker import export
    from worker.reporting import Report

    monkeypatch.setattr(export, "SHARD_SIZE", "100KB")
    base = tiny_llama(tmp_path / "base", layers=2, tied=False)
    write_manifest(base, run_id=None, step=None, attempt=None, config_hash="")
    spec = spec_for(tmp_path, base, "cast", dtype="float16")
    result = export.main(spec, Report())
    with zipfile.ZipFile(spec["target"]) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "out")
    assert "tiny-merged/model.safetensors.index.json" in names and sum(name.endswith(".safetensors") for name in names) > 1
    model, found = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "tiny-merged", output_loading_info=True)
    assert str(model.dtype) == "torch.float16" and not found["missing_keys"]
    assert next(text for _, text in result["log"]) == "Checking the files"


def test_the_same_checkpoint_makes_the_same_file(tmp_path: Path) -> None:
    from worker import export
    from worker.reporting import Report

    spec = spec_for(tmp_path, checkpoint(tmp_path))
    assert export.main(spec, Report())["sha256"] == export.main(spec, Report())["sha256"]
