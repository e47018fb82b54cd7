"""Online preference optimisation, our own engine: its loss by hand, which answer is chosen, what it learns, and how it resumes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from app.errors import Invalid
from app.methods import service
from app.rewards.base import Answered
from tests.methods import child, rewarded
from tests.methods.rewarded import shown as shown
from tests.methods.test_ppo import trainer

train = pytest.mark.train


@train
def test_the_loss_by_hand() -> None:
    torch = pytest.importorskip("torch")
    from worker.engines.online_dpo import preference_loss

    margin = torch.tensor([0.0, 2.0, -1.0])
    assert preference_loss(margin, 0.5, "sigmoid").tolist() == pytest.approx(
        [math.log(2), math.log1p(math.exp(-1)), math.log1p(math.exp(0.5))]
    )
    assert preference_loss(margin, 0.5, "ipo").tolist() == pytest.approx([1.0, 1.0, 4.0])


@train
def test_the_answer_that_earns_more_is_the_chosen_one_and_a_draw_counts_nothing(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    made = trainer(tmp_path, "online_dpo", batch_size=3, gradient_accumulation=1, max_completion_length=4, beta=0.5)
    made.accelerator.prepare(made.model)
    made.model.train()
    rows = [made.train_dataset[number] for number in (0, 0, 1, 1, 2, 2)]
    with torch.no_grad():
        written, _ = made.write(rows)
        [batch] = made.batches_of(rows, written, [[0.0, 1.0, 0.5, 0.5, 3.0, -1.0], [0.0] * 6])
    chosen, rejected = batch["answer"][:, 0].tolist(), batch["answer"][:, 1].tolist()
    answers = written["answer"].tolist()
    assert (chosen[0], rejected[0]) == (answers[1], answers[0]) and (chosen[2], rejected[2]) == (answers[4], answers[5])
    assert batch["differs"].tolist() == [1, 0, 1]
    loss = made.loss_of(made.model, batch).detach()
    assert float(loss) == pytest.approx(math.log(2) * 2 / 3, abs=1e-5), "nothing has moved, and one pair of three is a draw"
    with torch.no_grad():
        for weight in made.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        flat = {name: tensor.flatten(0, 1) for name, tensor in batch.items() if tensor.dim() > 1}
        mask = flat["answer_mask"]
        new = (made.read(made.model, flat).logs * mask).sum(1) - (made.read(made.reference, flat).logs * mask).sum(1)
        expected = sum(math.log1p(math.exp(-0.5 * float(new[2 * pair] - new[2 * pair + 1]))) for pair in (0, 2)) / 3
        assert float(made.loss_of(made.model, batch)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.every
@train
def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(rewarded.toy(tmp_path, "online_dpo", max_steps=45, batch_size=16, beta=0.05))
    assert report.curve("reward")[1] < 0.05 and report.curve("eval_reward")[45] > 0.7
    assert report.curve("frac_reward_zero_std")[1] > 0.5, "at first hardly any answer earns something"
    assert report.curve("rewards/margins")[25] > 0.05
    assert report.curve("eval_loss")[45] == pytest.approx(-report.curve("eval_reward")[45])


@pytest.mark.every
@train
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_resuming_gives_the_same_bits(tmp_path: Path, tuner: str) -> None:
    pytest.importorskip("torch")
    from tests.methods.test_resume import weights

    job = rewarded.varied(tmp_path, "online_dpo", tuner)
    _, whole = child.run(job)
    _, rest = child.run(child.resumed(job, 3, tmp_path))
    assert weights(tmp_path / "resumed-3" / "checkpoint-6") == weights(Path(job["work"]) / "checkpoint-6")
    for name in ("loss", "reward", "kl"):
        assert rest.curve(name) == {at: value for at, value in whole.curve(name).items() if at > 3}


@train
def test_its_figures_are_right_and_accumulated_batches_are_one_batch(tmp_path: Path, shown: list[list[Answered]]) -> None:
    pytest.importorskip("torch")
    _, one = child.run(rewarded.varied(tmp_path / "a", "online_dpo", "full", batch_size=8, gradient_accumulation=1, max_steps=2))
    asked = shown[0]
    assert len(asked) == 16 and all(asked[number].prompt == asked[number + 1].prompt for number in range(0, 16, 2))
    length = [max(0.0, 1 - abs(len(each.text) - 4) / 4) for each in asked]
    assert one.curve("rewards/length")[1] == pytest.approx(sum(length) / 16, abs=1e-6)
    draws = one.curve("frac_reward_zero_std")[1]
    assert one.curve("loss")[1] == pytest.approx(math.log(2) * (1 - draws), abs=1e-3)
    _, parts = child.run(rewarded.varied(tmp_path / "b", "online_dpo", "full", batch_size=2, gradient_accumulation=4, max_steps=2))
    for name in ("loss", "grad_norm"):
        assert parts.curve(name) == pytest.approx(one.curve(name), rel=1e-3, abs=1e-5)


def test_what_does_not_go_together_is_said() -> None:
    with pytest.raises(Invalid, match="Virtual tokens") as refused:
        service.validate("online_dpo", "prompt", {}, {}, "prompt")
    assert refused.value.field == "tuner"
    with pytest.raises(Invalid, match="Must be more than 0") as refused:
        service.validate("online_dpo", "lora", {"beta": 0}, {}, "prompt")
    assert refused.value.field == "params.beta"
    assert service.validate("online_dpo", "lora", {}, {}, "chat")[0]["learning_rate"] == 1e-4
