"""Checkpoints of runs: committed, kept, put aside, found again after HOME moved; and what depends on what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from app import storage
from app.checkpoints import lineage, service
from app.checkpoints.manifest import verify_manifest, write_manifest
from app.checkpoints.tables import Checkpoint
from app.datasets.tables import TokenCount
from app.errors import Conflict, NotFound
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset, add_run


def folder_with(path: str, **contents: str) -> dict[str, Any]:
    """A stored folder with a manifest; returns the manifest."""
    folder = storage.path(path)
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name.replace("__", ".")).write_text(content)
    return write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")


def base(session: Session, stack: Stack) -> Checkpoint:
    folder_with("checkpoints/base", model__safetensors="weights", config__json="{}")
    return add_checkpoint(
        session, stack.workspace_id, path="checkpoints/base", shapes={"a": [2, 3]}, config={"hidden_size": 3}, parameters=6
    )


def commit(session: Session, stack: Stack, run: Any, step: int, kind: str = "adapter", **fields: Any) -> Checkpoint:
    path = f"runs/{run.id}/checkpoints/step-{step}-attempt-{fields.get('attempt', 1)}"
    manifest = folder_with(
        path, adapter_model__safetensors=f"weights {step}", adapter_config__json=json.dumps({"base_model_name_or_path": "/old", "r": 8})
    )
    given = {"metrics": {"loss": 1.0}, "attempt": 1, "base_id": run.checkpoint_id, **fields}
    return service.commit_run_checkpoint(
        session,
        workspace_id=stack.workspace_id,
        run_id=run.id,
        name=f"step {step}",
        step=step,
        kind=kind,
        path=path,
        manifest=manifest,
        created_by=None,
        **given,
    )


def test_a_committed_checkpoint_is_found_and_verified(stack: Stack) -> None:
    with stack.database.write() as session:
        model = base(session, stack)
        run = add_run(session, stack.workspace_id, checkpoint_id=model.id)
        first, second = commit(session, stack, run, 10), commit(session, stack, run, 20, kind="full")
        assert [checkpoint.step for checkpoint in service.of_run(session, run.id)] == [20, 10]
        assert first.size_bytes and first.sha256 and first.parameters is None
        assert (second.parameters, second.shapes) == (6, {"a": [2, 3]})
        verify_manifest(service.folder_of(first))
        assert service.training_paths(session, first) == {
            "path": str(storage.path("checkpoints/base")),
            "adapter": str(storage.path(first.path or "")),
            "name": "step 10",
        }
        assert (
            service.training_paths(session, second)["path"] == str(storage.path(second.path or ""))
            and service.training_paths(session, second)["adapter"] is None
        )


def test_an_adapter_trained_on_from_an_adapter_still_finds_its_base(stack: Stack) -> None:
    with stack.database.write() as session:
        model = base(session, stack)
        run = add_run(session, stack.workspace_id, checkpoint_id=model.id)
        first = commit(session, stack, run, 10)
        again = commit(session, stack, add_run(session, stack.workspace_id, checkpoint_id=first.id), 5)
        assert service.training_paths(session, again)["path"] == str(storage.path("checkpoints/base"))
        assert [checkpoint.id for checkpoint in lineage.lineage(session, again)] == [model.id, first.id, again.id]


def test_a_step_that_was_damaged_is_committed_anew(stack: Stack) -> None:
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, checkpoint_id=base(session, stack).id)
        damaged = commit(session, stack, run, 10)
        folder = storage.path(damaged.path or "")
        (folder / "adapter_model.safetensors").write_text("nonsense")
        with pytest.raises(ValueError, match="adapter_model"):
            verify_manifest(folder)
        service.quarantine(session, damaged.id, "adapter_model.safetensors has another content")
        assert damaged.status == "quarantined" and "adapter_model" in (damaged.reason or "")
        assert not folder.exists() and storage.path(damaged.path or "").name.startswith("quarantined-")
        assert service.of_run(session, run.id) == [] and service.of_run(session, run.id, any_status=True) == [damaged]
        with pytest.raises(Conflict, match="quarantined"):
            service.folder_of(damaged)
        again = commit(session, stack, run, 10, attempt=2)
        assert again.id == damaged.id and again.status == "ready" and again.reason is None and again.attempt == 2


def test_retention_keeps_the_newest_the_best_and_what_is_used(stack: Stack) -> None:
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, checkpoint_id=base(session, stack).id)
        losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 2.5, 50: "nan"}
        found = {step: commit(session, stack, run, step, metrics={"eval_loss": loss}) for step, loss in losses.items()}
        add_run(session, stack.workspace_id, checkpoint_id=found[10].id)
        assert service.retention(session, run.id, 0) == []
        removed = service.retention(session, run.id, 2)
        assert removed == [f"runs/{run.id}/checkpoints/step-40-attempt-1", f"runs/{run.id}/checkpoints/step-30-attempt-1"]
        assert [checkpoint.step for checkpoint in service.of_run(session, run.id)] == [50, 20, 10]
        service.retention(session, run.id, 1)
        assert [checkpoint.step for checkpoint in service.of_run(session, run.id)] == [50, 10]


def test_adapters_find_their_base_after_home_moved(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, checkpoint_id=base(session, stack).id)
        adapter = commit(session, stack, run, 10)
        path, weights = adapter.path or "", adapter.sha256
        assert service.rehome(session, storage.root()) == 1
        assert service.rehome(session, storage.root()) == 0
    moved = stack.home.parent / "moved storage"
    shutil.move(storage.root(), moved)
    monkeypatch.setattr(stack.settings, "storage_url", str(moved))
    with stack.database.write() as session:
        assert service.rehome(session, storage.root()) == 1
    config = json.loads((moved / path / "adapter_config.json").read_text())
    assert config == {"base_model_name_or_path": str(moved / "checkpoints" / "base"), "r": 8}
    manifest = verify_manifest(moved / path)
    with stack.database.read() as session:
        adapter = service.of_run(session, run.id)[0]
        assert adapter.sha256 == weights and adapter.size_bytes == sum(entry["size"] for entry in manifest["files"].values())


def test_what_is_used_is_not_deleted(stack: Stack) -> None:
    with stack.database.write() as session:
        model = base(session, stack)
        run = add_run(session, stack.workspace_id, checkpoint_id=model.id, name="my run", status="paused")
        adapter = commit(session, stack, run, 10)
        folder = storage.path(adapter.path or "")
        with pytest.raises(Conflict, match=r"1 run \(such as “my run”\) and 1 checkpoint \(such as “step 10”\)"):
            service.delete(session, stack.workspace_id, model.id)
        with pytest.raises(Conflict, match="may resume from it"):
            service.delete(session, stack.workspace_id, adapter.id)
        run.status = "succeeded"
        service.delete(session, stack.workspace_id, adapter.id)
        assert folder.exists()
    assert not folder.exists()


def test_a_checkpoint_that_a_waiting_run_names_in_its_settings_is_not_deleted(stack: Stack) -> None:
    with stack.database.write() as session:
        model, teacher = base(session, stack), add_checkpoint(session, stack.workspace_id, name="teacher")
        named = {"rewards": [{"kind": "model", "checkpoint": teacher.id}]}
        run = add_run(session, stack.workspace_id, checkpoint_id=model.id, name="learns", status="queued", params=named)
        with pytest.raises(Conflict, match=r"a run that has not ended \(“learns”\), whose settings name it"):
            service.delete(session, stack.workspace_id, teacher.id)
        run.status = "succeeded"
        session.flush()
        service.delete(session, stack.workspace_id, teacher.id)


def test_nobody_reaches_the_checkpoints_of_another_workspace(stack: Stack) -> None:
    from app.accounts.tables import Workspace

    with stack.database.write() as session:
        session.add(Workspace(id="ws_other", name="other"))
        session.flush()
        theirs = add_checkpoint(session, "ws_other")
        with pytest.raises(NotFound):
            service.get(session, stack.workspace_id, theirs.id)
        with pytest.raises(NotFound):
            service.delete(session, stack.workspace_id, theirs.id)
        assert service.list_checkpoints(session, stack.workspace_id) == []


def test_the_storage_folder_holds_what_it_says(tmp_path: Path, stack: Stack) -> None:
    with pytest.raises(ValueError, match="outside"):
        storage.path("../elsewhere")


def test_token_lengths_go_with_the_tokenizer_that_counted_them(stack: Stack) -> None:
    with stack.database.write() as session:
        model, other = base(session, stack), add_checkpoint(session, stack.workspace_id)
        dataset = add_dataset(session, stack.workspace_id)
        folder = storage.path(dataset.path)
        folder.mkdir(parents=True)
        for checkpoint in (model, other):
            session.add(TokenCount(dataset_id=dataset.id, checkpoint_id=checkpoint.id, status="ready"))
            for ending in ("npy", "eval.npy", "json", "ids"):
                (folder / f"tokens-{checkpoint.id}.{ending}").write_text("x")
        session.flush()
        service.delete(session, stack.workspace_id, model.id)
    assert {file.name.split(".")[0] for file in folder.iterdir()} == {f"tokens-{other.id}"} and len(list(folder.iterdir())) == 4
