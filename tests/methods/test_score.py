"""A score model: it learns ratings on their own scale, is judged by error, rank and hits, and says when there is nothing to learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import Invalid
from app.methods import service
from app.methods.score import scale
from tests.methods import child, toys


@pytest.mark.train
@pytest.mark.parametrize("tuner", ["lora", pytest.param("full", marks=pytest.mark.every)])
def test_it_learns_the_ratings_of_answers_it_has_not_seen(tmp_path: Path, tuner: str) -> None:
    pytest.importorskip("torch")
    rate = 5e-3 if tuner == "lora" else 2e-3
    job = toys.spec(tmp_path, "score", tuner, toys.ratings, max_steps=160, learning_rate=rate, eval_steps=40)
    _, report = child.run(job)
    losses = report.curve("loss")
    assert sum(losses[step] for step in range(151, 161)) / 10 < 0.3 * losses[1]
    assert report.curve("eval_spearman")[160] > 0.9
    assert report.curve("eval_accuracy")[160] > 0.6
    assert report.curve("eval_mse")[160] < 0.5 * report.curve("eval_mse")[40] or report.curve("eval_mse")[40] < 0.2
    told = report.of("checkpoint")[-1]
    facts = json.loads((Path(told["folder"]) / "head.json").read_text())
    assert told["task"] == facts["task"] == "score"
    assert 2.5 < facts["mean"] < 3.5 and 1 < facts["spread"] < 2
    assert report.of("resolved")[0]["config"]["trainer"] == "ScoreTrainer"


@pytest.mark.train
def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    params: dict[str, Any] = {"max_steps": 4, "learning_rate": 1e-3}
    _, whole = child.run(toys.spec(tmp_path / "a", "score", "full", toys.ratings, **params))
    _, parts = child.run(toys.spec(tmp_path / "b", "score", "full", toys.ratings, **params, batch_size=4, gradient_accumulation=4))
    assert parts.curve("loss") == pytest.approx(whole.curve("loss"), abs=1e-4)
    assert parts.curve("grad_norm") == pytest.approx(whole.curve("grad_norm"), rel=1e-3)


@pytest.mark.train
def test_equal_ratings_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    def alike(count: int, seed: int) -> list[dict[str, Any]]:
        return [{**row, "score": 3} for row in toys.ratings(count, seed)]

    with pytest.raises(Failed, match=r"all rows have the same score \(3\)"):
        child.run(toys.spec(tmp_path, "score", "lora", alike, max_steps=1))


@pytest.mark.train
def test_how_predictions_are_judged() -> None:
    pytest.importorskip("torch")
    from worker.engines.score import judged

    told = judged(np.array([1.0, 2.5, 2.9, 5.0]), np.array([1.0, 2.0, 4.0, 4.0]))
    assert told["mse"] == pytest.approx((0 + 0.25 + 1.21 + 1) / 4) and told["accuracy"] == 0.5
    assert told["spearman"] == pytest.approx(0.9486833, abs=1e-6)  # ties share a rank: 1, 2, 3.5, 3.5 against 1, 2, 3, 4
    assert judged(np.array([1.0, 1.0]), np.array([1.0, 2.0])).keys() == {"mse", "accuracy"}, "no rank where nothing varies"


def test_the_scale_is_that_of_the_ratings() -> None:
    assert scale([1, 2, 3, 4, 5]) == pytest.approx((3.0, 2**0.5))
    with pytest.raises(ValueError, match="nothing to learn"):
        scale([4.0, 4.0])


def test_it_takes_rated_rows_only() -> None:
    with pytest.raises(Invalid, match=r"score needs rated rows \(prompt, completion, score\)"):
        service.validate("score", "lora", {}, {}, "prompt_completion")
    assert service.validate("score", "full", {}, {}, "rated")[0]["learning_rate"] == 1e-5
