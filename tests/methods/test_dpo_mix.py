"""DPO with the chosen answer learned beside the comparison: the loss is the sum it should be, and without it nothing is changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.methods import service
from tests.methods import child, toys
from tests.methods.test_orpo import held_out, scores
from tests.methods.test_resume import weights


@pytest.mark.train
@pytest.mark.parametrize("loss", ["sigmoid", "hinge"])
def test_the_first_loss_is_that_of_both_parts(tmp_path: Path, loss: str) -> None:
    pytest.importorskip("torch")
    params = {"max_steps": 1, "eval_steps": 1, "learning_rate": 1e-12, "sft_weight": 0.4, "loss": loss}
    job = child.spec(tmp_path, "dpo", "lora", held_out=6, params={**params, "batch_size": 6})
    _, report = child.run(job)
    chosen = scores(held_out(job), "chosen")
    nll = -sum(each[0] for each in chosen) / sum(each[1] for each in chosen)
    compared = {"sigmoid": math.log(2), "hinge": 1.0}[loss]
    assert report.curve("eval_loss")[1] == pytest.approx(compared + 0.4 * nll, abs=1e-4)
    assert report.curve("eval_rewards/margins")[1] == pytest.approx(0, abs=1e-4)


@pytest.mark.train
def test_without_it_runs_are_what_they_were_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    import trl

    runs = []
    for number, params in enumerate(({}, {"sft_weight": 0.0}, {"sft_weight": 0.5})):
        job = child.spec(tmp_path / str(number), "dpo", "full", params={"max_steps": 3, **params})
        _, report = child.run(job)
        runs.append((report.curve("loss"), weights(Path(job["work"]) / "checkpoint-3")))
    assert runs[0] == runs[1] and runs[0][0][1] == pytest.approx(math.log(2), abs=1e-3)
    assert runs[2][0][1] > runs[0][0][1] + 1 and runs[2][1] != runs[0][1]
    given: list[dict[str, Any]] = []
    kind = trl.DPOConfig

    def noted(**arguments: Any) -> Any:
        given.append(arguments)
        return kind(**arguments)

    monkeypatch.setattr(trl, "DPOConfig", noted)
    child.run(child.spec(tmp_path / "noted", "dpo", "lora", params={"max_steps": 1}))
    assert given[0]["loss_type"] == ["sigmoid"] and given[0]["loss_weights"] is None, "what trl has by itself"


@pytest.mark.every
@pytest.mark.train
def test_the_chosen_answer_becomes_likelier(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = {}
    for weight in (0.0, 1.0):
        params = {"max_steps": 20, "learning_rate": 5e-3, "sft_weight": weight, "eval_steps": 20}
        _, report = child.run(toys.spec(tmp_path / str(weight), "dpo", "lora", toys.pairs, **params))
        found[weight] = report.curve("eval_logps/chosen")[20]
        assert report.curve("eval_rewards/accuracies")[20] > 0.8
    assert found[1.0] > found[0.0] + 3


@pytest.mark.every
@pytest.mark.train
def test_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    job = child.spec(tmp_path, "dpo", "lora", params={"max_steps": 8, "save_steps": 4, "sft_weight": 0.5})
    child.run(job)
    child.run(child.resumed(job, 4, tmp_path))
    assert weights(Path(job["work"]) / "checkpoint-8") == weights(tmp_path / "resumed-4" / "checkpoint-8") != {}


def test_a_weight_below_nothing_is_refused() -> None:
    with pytest.raises(Invalid, match="at least 0") as refused:
        service.validate("dpo", "lora", {"sft_weight": -0.1}, {}, "preference")
    assert refused.value.field == "params.sft_weight"
    assert service.validate("dpo", "lora", {}, {}, "preference")[0]["sft_weight"] == 0
