"""SimPO: it learns from pairs by the mean log-probability of a token, with a margin; what it shares with ORPO is tested there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from app.errors import Invalid
from app.methods import service
from tests.methods import child, toys
from tests.methods.test_kto import implicit
from tests.methods.test_orpo import held_out, scores


@pytest.mark.every
@pytest.mark.train
def test_it_learns_which_answers_are_liked(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(toys.spec(tmp_path, "simpo", "lora", toys.pairs, max_steps=40, learning_rate=5e-3))
    losses = report.curve("loss")
    assert losses[40] < 0.5 * losses[1]
    assert report.curve("eval_rewards/accuracies")[40] > 0.9 and report.curve("eval_rewards/margins")[40] > 1
    pairs = toys.pairs(40, 3)
    before, after = implicit(None, pairs), implicit(report.of("checkpoint")[-1]["folder"], pairs)
    assert sum(new > old for old, new in zip(before, after, strict=True)) > 0.9 * len(pairs)


@pytest.mark.train
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_loss_and_figures_are_those_reckoned_by_hand(tmp_path: Path, alpha: float) -> None:
    pytest.importorskip("torch")
    params = {"max_steps": 1, "eval_steps": 1, "learning_rate": 1e-12, "beta": 3.0, "gamma_ratio": 0.25, "cpo_alpha": alpha}
    job = child.spec(tmp_path, "simpo", "lora", held_out=6, params=params)
    _, report = child.run(job)
    chosen, rejected = scores(held_out(job), "chosen"), scores(held_out(job), "rejected")
    means = [(good[0] / good[1], bad[0] / bad[1]) for good, bad in zip(chosen, rejected, strict=True)]
    losses = [math.log1p(math.exp(-(3 * (good - bad) - 0.75))) for good, bad in means]
    nll = [-sum(each[0] for each in part) / sum(each[1] for each in part) for part in (chosen[:4], chosen[4:])]
    expected = {
        "loss": sum(losses) / 6 + alpha * (4 * nll[0] + 2 * nll[1]) / 6,
        "rewards/chosen": 3 * sum(good for good, _ in means) / 6,
        "rewards/margins": 3 * sum(good - bad for good, bad in means) / 6,
        "rewards/accuracies": sum(good > bad for good, bad in means) / 6,
        "logps/rejected": sum(bad for _, bad in means) / 6,
    }
    for name, value in expected.items():
        assert report.curve(f"eval_{name}")[1] == pytest.approx(value, abs=1e-5), name
    assert bool(report.curve("eval_nll_loss")) == bool(report.curve("nll_loss")) == bool(alpha)


@pytest.mark.every
@pytest.mark.train
def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, whole = child.run(toys.spec(tmp_path / "a", "simpo", "full", toys.pairs, max_steps=3))
    _, parts = child.run(toys.spec(tmp_path / "b", "simpo", "full", toys.pairs, max_steps=3, batch_size=4, gradient_accumulation=4))
    assert parts.curve("loss") == pytest.approx(whole.curve("loss"), abs=1e-4)
    assert parts.curve("grad_norm") == pytest.approx(whole.curve("grad_norm"), rel=1e-3)


def test_what_makes_no_sense_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match="simpo needs preference rows"):
        service.validate("simpo", "lora", {}, {}, "unpaired")
    for name, value in (("beta", 0), ("gamma_ratio", -1), ("cpo_alpha", -0.5)):
        with pytest.raises(Invalid) as refused:
            service.validate("simpo", "lora", {name: value}, {}, "preference")
        assert refused.value.field == f"params.{name}"
    params, _ = service.validate("simpo", "full", {}, {}, "preference")
    assert (params["learning_rate"], params["beta"], params["gamma_ratio"], params["cpo_alpha"]) == (5e-7, 2.0, 0.5, 0.0)
