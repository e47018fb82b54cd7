"""A run that was interrupted anywhere ends with the same bits as one that was not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
from safetensors.numpy import load_file

from tests.methods import child

pytestmark = pytest.mark.train


def weights(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for file in sorted(folder.glob("*.safetensors")) for name, array in load_file(file).items()}


# Each objective once, with either tuner; a head beside the adapter (reward) and in whole weights (score).
@pytest.mark.parametrize(
    ("tuner", "method"), [("lora", "sft"), ("full", "sft"), ("lora", "dpo"), ("full", "kto"), ("lora", "reward"), ("full", "score")]
)
def test_resuming_anywhere_gives_the_same_bits(tmp_path: Path, method: str, tuner: str) -> None:
    # 24 rows in batches of 4 are 6 steps an epoch: steps 4 (first epoch), 6 (between two), 10 (second epoch) and 14 (third) are all
    # different cases.
    extra = {"dropout": 0.2} if tuner == "lora" else {}
    job = child.spec(tmp_path, method, tuner, params={"max_steps": 16, "save_steps": 2, "gradient_accumulation": 1}, tuner_params=extra)
    _, whole = child.run(job)
    expected = weights(Path(job["work"]) / "checkpoint-16")
    assert expected
    for step in (4, 6, 10, 14) if (method, tuner) == ("sft", "lora") else (10,):
        result, rest = child.run(child.resumed(job, step, tmp_path))
        assert result == {"outcome": "finished", "step": 16}
        assert weights(tmp_path / f"resumed-{step}" / "checkpoint-16") == expected, f"resumed at step {step}"
        assert rest.curve("loss") == {at: loss for at, loss in whole.curve("loss").items() if at > step}


def test_a_pause_writes_a_checkpoint_at_the_next_step_and_the_rest_is_the_same(tmp_path: Path) -> None:
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 9})
    _, whole = child.run(job)
    expected = weights(Path(job["work"]) / "checkpoint-9")

    paused_job = child.spec(tmp_path / "paused", "sft", "lora", params={"max_steps": 9})
    report = child.Kept()
    report.on = lambda message: report.pause_asked.set() if message["kind"] == "step" and message["step"] == 2 else None
    from worker import train

    assert train.main(paused_job, report) == {"outcome": "paused", "step": 2} or report.of("checkpoint")[-1]["step"] in (2, 3)
    step = report.of("checkpoint")[-1]["step"]
    assert sorted(report.curve("loss")) == list(range(1, step + 1))
    next_job = child.resumed(paused_job, step, tmp_path / "paused")
    last = report.of("metrics")[-1]["values"]
    next_job["offsets"] = {"elapsed_seconds": 100.0, "tokens": last["tokens"]}
    result, rest = child.run(next_job)
    assert result == {"outcome": "finished", "step": 9}
    assert weights(Path(next_job["work"]) / "checkpoint-9") == expected
    assert {**report.curve("loss"), **rest.curve("loss")} == whole.curve("loss")
    assert {**report.curve("tokens"), **rest.curve("tokens")} == whole.curve("tokens")
    assert min(rest.curve("elapsed_seconds").values()) > 100


def test_a_run_whose_last_step_is_saved_does_not_train_again(tmp_path: Path) -> None:
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 4})
    child.run(job)
    result, report = child.run(child.resumed(job, 4, tmp_path))
    assert result == {"outcome": "finished", "step": 4}
    assert not report.of("step") and not report.of("checkpoint")


def test_halving_the_batch_after_running_out_of_memory_goes_on_with_the_same_rows(tmp_path: Path) -> None:
    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 8, "save_steps": 3}, tuner_params={"dropout": 0.0})
    _, whole = child.run(job)
    _, rest = child.run({**child.resumed(job, 3, tmp_path), "adjustments": {"batch_divisor": 2}})
    resolved = rest.of("resolved")[0]["config"]
    assert (resolved["batch_size"], resolved["gradient_accumulation"]) == (2, 2)
    assert rest.curve("loss") == pytest.approx({step: loss for step, loss in whole.curve("loss").items() if step > 3}, abs=1e-5)


def test_evaluating_and_answering_change_nothing(tmp_path: Path) -> None:
    params = {"max_steps": 8}
    _, plain = child.run(child.spec(tmp_path / "a", "sft", "lora", params=params))
    often = {**params, "eval_steps": 2, "answer_check": "last_integer"}
    _, looked_at = child.run(child.spec(tmp_path / "b", "sft", "lora", params=often, held_out=6, sample_prompts=2))
    assert looked_at.curve("loss") == plain.curve("loss")
    assert sorted(looked_at.curve("eval_loss")) == [2, 4, 6, 8]
    assert sorted(looked_at.curve("exact_match")) == [0, 8]
    assert [(message["step"], message["number"]) for message in looked_at.of("sample")] == [
        (step, number) for step in (0, 2, 4, 6, 8) for number in (0, 1)
    ]


def test_a_checkpoint_made_with_other_settings_is_refused(tmp_path: Path) -> None:
    from worker.reporting import Failed

    job = child.spec(tmp_path, "sft", "lora", params={"max_steps": 2})
    child.run(job)
    other = child.resumed(job, 2, tmp_path)
    other["params"] = {**other["params"], "max_steps": 4, "learning_rate": 0.005}
    with pytest.raises(Failed, match="other settings"):
        child.run(other)
