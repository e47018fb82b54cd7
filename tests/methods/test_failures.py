"""A run that cannot be done says why, in words, with a code, and leaves nothing half-written."""

from __future__ import annotations

import builtins
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from tests.methods import child
from tests.models import tiny_llama
from worker import train
from worker.reporting import Failed

pytestmark = pytest.mark.train


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """From a step on, do something to the loss."""
    from trl import SFTTrainer

    plain = SFTTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **options: Any) -> Any:
        loss = plain(self, *args, **options)
        return change(loss) if self.state.global_step + 1 >= step else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", compute_loss)


def failure(job: dict[str, Any]) -> tuple[Failed, child.Kept]:
    report = child.Kept()
    with pytest.raises(Failed) as caught:
        train.main(json.loads(json.dumps(job)), report)
    assert caught.value.reason.endswith(".") and "Traceback" not in caught.value.reason
    return caught.value, report


def test_a_loss_that_is_no_number_ends_the_run_within_three_steps_and_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(monkeypatch, 5, lambda loss: loss * float("nan"))
    failed, report = failure(child.spec(tmp_path, "sft", "lora", params={"max_steps": 20, "save_steps": 2, "logging_steps": 3}))
    assert failed.code == "diverged" and "0.0005" in failed.reason
    assert [message["step"] for message in report.of("step")] == [1, 2, 3, 4, 5, 6, 7]
    losses = report.curve("loss")
    assert losses[4] == losses[4]
    assert all(losses[step] != losses[step] for step in (5, 6, 7))
    assert [message["step"] for message in report.of("checkpoint")] == [2, 4], "the last checkpoint is a finite one"


def test_one_bad_step_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    plain = SFTTrainer._clip_grad_norm

    def clip(self: Any, model: Any) -> Any:
        norm = plain(self, model)
        return norm * float("inf") if self.state.global_step == 3 else norm  # only what is told of the gradient, not the gradient

    monkeypatch.setattr(SFTTrainer, "_clip_grad_norm", clip)
    result, report = child.run(child.spec(tmp_path, "sft", "lora", params={"max_steps": 6, "save_steps": 2}))
    assert result["outcome"] == "finished"
    assert report.curve("grad_norm")[4] == float("inf")
    assert [message["step"] for message in report.of("checkpoint")] == [2, 6]


def test_a_model_with_broken_weights_has_diverged_at_once(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_llama(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 9})
    failed, report = failure({**job, "model": {"path": str(folder), "adapter": None, "name": "broken"}})
    assert failed.code == "diverged" and len(report.of("step")) == 3 and not report.of("checkpoint")


@pytest.mark.parametrize("on_gpu", [False, True])
def test_running_out_of_memory_has_a_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_gpu: bool) -> None:
    def take(loss: torch.Tensor) -> torch.Tensor:
        if on_gpu:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss + torch.empty(2**55).sum()

    at_step(monkeypatch, 2, take)
    failed, report = failure(child.spec(tmp_path, "sft", "lora"))
    assert failed.code == "oom"
    assert sorted(report.curve("loss")) == [1]


def no_space(*args: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_space_in_safetensors(*args: Any, **options: Any) -> None:
    from safetensors import SafetensorError

    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("torch.save", no_space),
        ("peft.peft_model.safe_save_file", no_space_in_safetensors),
        ("app.checkpoints.manifest.fsync_file", no_space),
    ],
)
def test_a_full_disk_has_a_code_and_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, fault: Callable[..., None]
) -> None:
    monkeypatch.setattr(place, fault)
    failed, report = failure(child.spec(tmp_path, "sft", "lora", params={"save_steps": 2}))
    assert failed.code == "disk_full"
    assert not report.of("checkpoint")


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"method": "dpoo"}, "config", "does not know “dpoo”"),
        ({"params": {"learning_rate": 9}}, "config", "learning_rate"),
        ({"tuner_params": {"target_modules": "no_such_layer"}}, "config", "no_such_layer"),
        ({"params": {"max_length": 16}}, "data", "Raise max_length"),
        ({"params": {"answer_check": "last_integer"}}, "config", "no evaluation rows"),
        ({"device": "cuda:0"}, "config", "GPU"),
        ({"adjustments": {"batch_divisor": 3}}, "config", "smaller batch"),
    ],
)
def test_what_cannot_be_done_is_said_in_words(tmp_path: Path, changes: dict[str, Any], code: str, words: str) -> None:
    if changes.get("device") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    method = changes.pop("method", "sft")
    failed, report = failure({**child.spec(tmp_path, method, "lora", **changes)})
    assert failed.code == code and words in failed.reason
    assert not report.of("step")


def test_a_folder_without_a_model_or_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = tiny_llama(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0notjson!")
    for model, words in ((tmp_path / "empty", "tokenizer"), (folder, "cannot be loaded")):
        failed, _ = failure({**child.spec(tmp_path, "sft", "lora"), "model": {"path": str(model), "adapter": None, "name": "x"}})
        assert failed.code == "model" and words in failed.reason


def test_rows_that_the_length_limit_leaves_out_are_counted(tmp_path: Path) -> None:
    job = child.spec(tmp_path, "sft", "lora", params={"max_length": 48, "max_steps": 2})
    _, report = child.run(job)
    told = report.of("event")[0]
    assert told["name"] == "rows_dropped" and 0 < told["data"]["dropped"] < 24
    assert f"{told['data']['dropped']} of 24 rows" in told["message"]
    assert report.of("resolved")[0]["config"]["rows_dropped"] == told["data"]["dropped"]


def test_a_worker_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **options: Any) -> Any:
        if name == "peft":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *args, **options)

    job = child.spec(tmp_path, "sft", "lora")
    monkeypatch.setattr(builtins, "__import__", absent)
    failed, _ = failure(job)
    assert failed.code == "no_torch" and "pip install 'luthier[train]'" in failed.reason
