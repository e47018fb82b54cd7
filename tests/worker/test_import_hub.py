"""Importing from a model hub, against one that runs on this machine: pinned commits, retries, hashes, and nothing half."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest

from app.checkpoints.manifest import verify_manifest
from tests.models import tiny_llama, tiny_llama_folder
from tests.worker.hub_server import COMMIT, Hub, serving
from tests.worker.importing import as_child, nothing_left, spec_for
from worker.reporting import Failed, Report

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train


@pytest.fixture(autouse=True)
def doors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back the variables an import sets, and let this process (which may have begun offline) ask the hub on this machine."""
    import huggingface_hub.constants

    for name in (
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "HF_HUB_DISABLE_TELEMETRY",
        "HF_HUB_DISABLE_XET",
        "HF_HUB_DOWNLOAD_TIMEOUT",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with the tiny Llama as owner/model, beside files that are not needed."""
    folder = Path(copytree(tiny_llama_folder(), tmp_path / "repository"))
    (folder / "README.md").write_text("# A model")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02never fetched")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"never fetched")
    with serving(folder) as server:
        yield server


def spec_at(tmp_path: Path, hub: Hub, **more: Any) -> dict[str, Any]:
    return spec_for(tmp_path, "hub", more.pop("ref", "owner/model"), hub_url=hub.url, pause_seconds=0.01, **more)


def run(spec: dict[str, Any]) -> dict[str, Any]:
    from worker.import_checkpoint import main

    return main(spec, Report())


def refusal(spec: dict[str, Any]) -> Failed:
    with pytest.raises(Failed) as caught:
        run(spec)
    assert nothing_left(spec)
    return caught.value


def test_a_branch_is_pinned_to_its_commit_in_the_real_child(tmp_path: Path, hub: Hub) -> None:
    spec = spec_at(tmp_path, hub, revision="main")
    code, messages, log = as_child(spec, tmp_path)
    assert code == 0, log
    result = messages[-1]["result"]
    assert result["revision"] == COMMIT
    manifest = verify_manifest(Path(spec["target"]))
    assert set(manifest["files"]) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    fetched = {path for command, path in hub.asked if command == "GET"}
    assert not [path for path in fetched if path.endswith((".bin", ".onnx", ".md"))]
    assert all(COMMIT in path for path in fetched if "/resolve/" in path)
    steps = [message["text"] for message in messages if message["kind"] == "progress"]
    assert steps[0] == "Asking the hub" and steps[-1] == "Checking the model"


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_revisions(tmp_path: Path, hub: Hub, revision: str | None) -> None:
    assert run(spec_at(tmp_path, hub, revision=revision))["revision"] == COMMIT


def test_shards_of_the_index_are_fetched_and_others_not(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "sharded", max_shard_size="100KB")
    (folder / "other.safetensors").write_bytes(b"never fetched")
    with serving(folder) as hub:
        spec = spec_at(tmp_path, hub)
        run(spec)
    names = {file.name for file in Path(spec["target"]).glob("*.safetensors")}
    assert len(names) > 1 and "other.safetensors" not in names


def test_passing_faults_are_tried_again(tmp_path: Path, hub: Hub) -> None:
    hub.refusals, hub.cuts = [503, 500, 429, 502], 2
    run(spec_at(tmp_path, hub))


def test_a_hub_that_stays_away_is_given_up_after_five_tries(tmp_path: Path, hub: Hub) -> None:
    hub.refusals = [503] * 1000
    failed = refusal(spec_at(tmp_path, hub))
    assert failed.code == "network" and "5 tries" in failed.reason
    assert len([path for _, path in hub.asked if path.startswith("/api/")]) == 5


def test_a_hub_that_is_not_there(tmp_path: Path, hub: Hub) -> None:
    spec = spec_at(tmp_path, hub)
    hub.shutdown()
    hub.server_close()
    assert refusal(spec).code == "network"


def test_a_file_with_another_content_is_refused(tmp_path: Path, hub: Hub) -> None:
    hub.corrupt = {"model.safetensors"}
    failed = refusal(spec_at(tmp_path, hub))
    assert failed.code == "hash" and "model.safetensors" in failed.reason
    hub.corrupt = {"tokenizer.json"}
    assert "tokenizer.json" in refusal(spec_at(tmp_path, hub)).reason


def test_what_the_hub_refuses(tmp_path: Path, hub: Hub) -> None:
    asked = len(hub.asked)
    assert "no model “owner/other”" in refusal(spec_at(tmp_path, hub, ref="owner/other")).reason
    assert len(hub.asked) == asked + 1  # a refusal is not asked again
    assert "no such revision" in refusal(spec_at(tmp_path, hub, revision="v2")).reason
    assert "not a hub id" in refusal(spec_at(tmp_path, hub, ref="a/b/c")).reason
    hub.gated = True
    assert "agreement" in refusal(spec_at(tmp_path, hub)).reason


def test_a_model_is_refused_before_its_weights_are_fetched(tmp_path: Path, hub: Hub) -> None:
    config = hub.folder / "config.json"
    plain = config.read_text()
    config.write_text(json.dumps({**json.loads(plain), "auto_map": {"AutoModel": "own.Own"}}))
    assert "auto_map" in refusal(spec_at(tmp_path, hub)).reason
    config.write_text(json.dumps({**json.loads(plain), "architectures": ["OwnModel"]}))
    assert "OwnModel" in refusal(spec_at(tmp_path, hub)).reason
    config.write_text(plain)
    (hub.folder / "model.safetensors").unlink()
    failed = refusal(spec_at(tmp_path, hub))
    assert "pytorch_model.bin" in failed.reason and failed.code == "pickle"
    assert not [path for _, path in hub.asked if path.endswith((".safetensors", ".bin"))]


def test_no_room_is_told_before_the_weights_are_fetched(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.import_folder.shutil.disk_usage", lambda _: type("Usage", (), {"free": 100_000})())
    assert refusal(spec_at(tmp_path, hub)).code == "disk_full"
    assert not [path for _, path in hub.asked if path.endswith(".safetensors")]
