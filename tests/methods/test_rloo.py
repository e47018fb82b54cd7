"""RLOO: it learns from rewards, resumes, takes the KL off what answers earn, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import Invalid
from app.methods import service
from tests.methods import child, rewarded


@pytest.mark.every
@pytest.mark.train
def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(rewarded.toy(tmp_path, "rloo", max_steps=45, beta=0.01))
    assert report.curve("reward")[1] < 0.05 and report.curve("eval_reward")[45] > 0.7
    assert report.curve("kl")[1] == pytest.approx(0, abs=1e-6) and report.curve("kl")[45] > 0.5, "the reference stays behind"
    assert report.curve("eval_loss")[45] == pytest.approx(-report.curve("eval_reward")[45])


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize(("tuner", "iterations", "step"), [("lora", 1, 3), ("full", 2, 3)])
def test_resuming_gives_the_same_bits(tmp_path: Path, tuner: str, iterations: int, step: int) -> None:
    pytest.importorskip("torch")
    from tests.methods.test_resume import weights

    job = rewarded.varied(tmp_path, "rloo", tuner, count=5, num_generations=4, num_iterations=iterations)
    _, whole = child.run(job)
    _, rest = child.run(child.resumed(job, step, tmp_path))
    assert weights(tmp_path / f"resumed-{step}" / "checkpoint-6") == weights(Path(job["work"]) / "checkpoint-6")
    assert rest.curve("loss") == {at: loss for at, loss in whole.curve("loss").items() if at > step}


@pytest.mark.every
@pytest.mark.train
def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    curves = []
    for batch, parts in ((8, 1), (4, 2)):
        job = rewarded.varied(tmp_path / str(batch), "rloo", "full", batch_size=batch, gradient_accumulation=parts, max_steps=2)
        curves.append(child.run(job)[1])
    assert curves[0].curve("reward") == pytest.approx(curves[1].curve("reward"), abs=1e-6)
    assert curves[0].curve("grad_norm")[1] == pytest.approx(curves[1].curve("grad_norm")[1], rel=1e-3)


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(Invalid, match="cannot be divided into groups of 4") as refused:
        service.validate("rloo", "lora", {"batch_size": 3, "gradient_accumulation": 1}, {}, "prompt")
    assert refused.value.field == "params.num_generations"
    with pytest.raises(Invalid, match="leaves no room"):
        service.validate("rloo", "lora", {"max_completion_length": 2000}, {}, "chat")
    assert service.validate("rloo", "lora", {}, {}, "chat")[0]["learning_rate"] == 1e-4
