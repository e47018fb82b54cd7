"""The manifest notices every change of a checkpoint's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.checkpoints.manifest import MANIFEST, folder_size, update_entry, verify_manifest, weights_sha256, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder with a manifest."""
    (tmp_path / "inner").mkdir()
    for name, content in (("model.safetensors", "weights"), ("config.json", "{}"), ("inner/state.pt", "state")):
        (tmp_path / name).write_text(content)
    write_manifest(tmp_path, run_id="run_1", step=50, attempt=2, config_hash="abc")
    return tmp_path


def test_what_was_written_is_found_again(folder: Path) -> None:
    manifest = verify_manifest(folder)
    assert set(manifest["files"]) == {"model.safetensors", "config.json", "inner/state.pt"}
    assert (manifest["run_id"], manifest["step"], manifest["attempt"], manifest["config_hash"]) == ("run_1", 50, 2, "abc")
    assert folder_size(manifest) == len("weights{}state")
    (folder / ".DS_Store").write_text("left by a file manager")
    assert verify_manifest(folder) == manifest


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{ }"), "config.json has 3 bytes"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json has another content"),
        (lambda folder: (folder / "inner" / "more.pt").write_text(""), "inner/more.pt is not in"),
        (lambda folder: (folder / "link.pt").symlink_to("/etc/hostname"), "link.pt is a symbolic link"),
        (lambda folder: (folder / MANIFEST).unlink(), "MANIFEST.json is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "MANIFEST.json cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text('{"files": {"a": 1}}'), "MANIFEST.json cannot be read"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "MANIFEST.json cannot be read"),
    ],
)
def test_every_change_is_noticed_by_name(folder: Path, spoil: Callable[[Path], Any], words: str) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        verify_manifest(folder)


def test_the_hash_of_the_weights_is_that_of_the_weights_alone(folder: Path) -> None:
    before = weights_sha256(verify_manifest(folder))
    (folder / "config.json").write_text('{"changed": true}')
    assert weights_sha256(update_entry(folder, "config.json")) == before
    verify_manifest(folder)
    (folder / "model.safetensors").write_text("WEIGHTS")
    assert weights_sha256(update_entry(folder, "model.safetensors")) != before
    assert json.loads((folder / MANIFEST).read_text())["step"] == 50
