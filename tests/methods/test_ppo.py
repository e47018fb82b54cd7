"""PPO, our own engine: its mathematics by hand, what it learns, how it resumes, and what it cannot do."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.methods import service
from app.rewards.base import Answered
from tests.methods import child, rewarded
from tests.methods.rewarded import shown as shown
from tests.models import tiny_llama_folder

train = pytest.mark.train


@train
def test_advantages_by_hand() -> None:
    torch = pytest.importorskip("torch")
    from worker.engines.ppo import generalised_advantages, token_rewards, whitened

    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    drift = torch.tensor([[0.5, -0.5, 1.0], [2.0, 9.0, 9.0]])
    earned = token_rewards(torch.tensor([1.0, -1.0]), drift, mask, beta=0.1)
    assert earned.flatten().tolist() == pytest.approx([-0.05, 0.05, 1 - 0.1, -1 - 0.2, 0, 0])

    values = torch.tensor([[0.2, 0.4, 0.6], [0.3, 7.0, 7.0]])
    found = generalised_advantages(earned, values, mask, gamma=0.9, lam=0.5)
    # From the end: r - V; before it r + 0.9 V' - V + 0.45 of the one after.
    third = 0.9 - 0.6
    second = 0.05 + 0.9 * 0.6 - 0.4 + 0.45 * third
    first = -0.05 + 0.9 * 0.4 - 0.2 + 0.45 * second
    assert found.flatten().tolist() == pytest.approx([first, second, third, -1.2 - 0.3, 0, 0])
    # With lambda and gamma 1, advantage plus value is what is earned from there to the end.
    plain = generalised_advantages(earned, values, mask, gamma=1, lam=1) + values * mask
    assert plain.flatten().tolist() == pytest.approx([0.9, 0.95, 0.9, -1.2, 0, 0])

    white = whitened(found, mask)
    kept = [first, second, third, -1.5]
    mean = math.fsum(kept) / 4
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in kept) / 4)
    assert white.flatten().tolist() == pytest.approx(
        [(first - mean) / spread, (second - mean) / spread, (third - mean) / spread, (-1.5 - mean) / spread, 0, 0]
    )


@train
def test_losses_by_hand() -> None:
    torch = pytest.importorskip("torch")
    from worker.engines.ppo import clipped_policy_loss, clipped_value_loss

    ratio, advantages = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]), torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0])
    assert clipped_policy_loss(ratio, advantages, 0.2).tolist() == pytest.approx([-2.4, 3.0, -1.0, 1.6, -1.1])
    values, before, returns = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    assert clipped_value_loss(values, before, returns, 0.2).tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.9**2])


def trainer(folder: Path, method: str = "ppo", **params: Any) -> Any:
    """The trainer of a run, caught before it trains."""
    from app import methods

    made: list[Any] = []
    aim = methods.registry()[method]
    real = type(aim).build_trainer

    class Caught(Exception):
        pass

    def build(self: Any, *args: Any) -> Any:
        made.append(real(self, *args))
        raise Caught

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(aim), "build_trainer", build)
        with pytest.raises(Caught):
            child.run(rewarded.varied(folder, method, "full", **params))
    return made[0]


@train
def test_what_it_reads_of_answers_is_what_the_model_says_of_each_alone(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    made = trainer(tmp_path, temperature=0.7, max_completion_length=5)
    made.accelerator.prepare(made.model)
    rows = [made.train_dataset[number] for number in range(6)]
    with torch.no_grad():
        written, texts = made.write(rows)
        read = made.read(made.model, written)
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_llama_folder()).eval()
    for number, row in enumerate(rows):
        length = int(written["answer_mask"][number].sum())
        whole = written["ids"][number][written["mask"][number].bool()]
        asked = made.processing_class.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=True)["input_ids"]
        assert whole[: len(asked)].tolist() == asked and whole[len(asked) :].tolist() == written["answer"][number][:length].tolist()
        assert made.processing_class.decode(whole[len(asked) :], skip_special_tokens=True) == texts[number]
        assert bool(written["cut"][number]) == (int(whole[-1]) != 2) and (length == 5 or int(whole[-1]) == 2)
        with torch.no_grad():
            logs = (plain(input_ids=whole[None]).logits[0, len(asked) - 1 : -1] / 0.7).log_softmax(-1)
        said = logs.gather(-1, whole[len(asked) :, None]).squeeze(-1)
        assert read.logs[number][:length].tolist() == pytest.approx(said.tolist(), abs=1e-4)
        assert read.entropy[number][:length].tolist() == pytest.approx((-(logs.exp() * logs).sum(-1)).tolist(), abs=1e-4)
        assert made.values(read).abs().max() == 0, "nothing is expected at first"


@pytest.mark.every
@train
def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(rewarded.toy(tmp_path, "ppo", max_steps=60, beta=0.01, ppo_epochs=2))
    rewards = report.curve("reward")
    assert sorted(rewards) == list(range(1, 60, 2)), "answers are written once for two steps"
    assert rewards[1] < 0.05 and rewards[59] > 0.7 and report.curve("eval_reward")[60] > 0.7
    assert report.curve("eval_loss")[60] == pytest.approx(-report.curve("eval_reward")[60])
    assert report.curve("kl")[1] == pytest.approx(0, abs=1e-6) and report.curve("kl")[59] > 0.5
    assert report.curve("entropy")[60] < 0.7 * report.curve("entropy")[1]
    told = {name for message in report.of("metrics") for name in message["values"]}
    assert {"reward_std", "completion_length", "clipped_ratio", "clip_ratio", "value_loss"} <= told


@pytest.mark.every
@train
def test_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tests.methods.test_resume import weights

    job = rewarded.varied(tmp_path, "ppo", "lora", ppo_epochs=2)
    _, whole = child.run(job)
    last = Path(job["work"]) / "checkpoint-6"
    for step in (3, 4):  # between two uses of the same answers, and between two epochs
        _, rest = child.run(child.resumed(job, step, tmp_path))
        again = tmp_path / f"resumed-{step}" / "checkpoint-6"
        assert weights(again) == weights(last), f"resumed at step {step}"
        one, other = (torch.load(folder / "value_head.pth", weights_only=True) for folder in (last, again))
        assert torch.equal(one["weight"], other["weight"]) and one["weight"].abs().max() > 0
        for name in ("loss", "reward", "kl", "value_loss"):
            assert rest.curve(name) == {at: value for at, value in whole.curve(name).items() if at > step}
    assert not any("value" in name for name in weights(last)), "the value head is no part of the model"


@pytest.mark.every
@train
def test_accumulated_batches_are_one_batch_also_after_running_out_of_memory(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    whole = rewarded.varied(tmp_path / "a", "ppo", "full", batch_size=8, gradient_accumulation=1, ppo_epochs=2)
    _, one = child.run(whole)
    _, parts = child.run(rewarded.varied(tmp_path / "b", "ppo", "full", batch_size=4, gradient_accumulation=2, ppo_epochs=2))
    for name in ("loss", "grad_norm", "value_loss"):
        assert {step: parts.curve(name)[step] for step in (1, 2)} == pytest.approx(
            {step: one.curve(name)[step] for step in (1, 2)}, rel=1e-3, abs=1e-5
        )
    _, rest = child.run({**child.resumed(whole, 3, tmp_path), "adjustments": {"batch_divisor": 2}})
    assert rest.of("resolved")[0]["config"]["gradient_accumulation"] == 2
    assert rest.curve("loss")[4] == pytest.approx(one.curve("loss")[4], abs=1e-5), "the second use of the answers of step 3"


@train
def test_its_figures_are_right(tmp_path: Path, shown: list[list[Answered]]) -> None:
    pytest.importorskip("torch")
    job = rewarded.varied(tmp_path, "ppo", "lora", max_steps=1)
    _, report = child.run(job)
    asked = shown[0]
    assert len(asked) == 8 and all(each.expected and each.expected.isdigit() for each in asked)
    length = [max(0.0, 1 - abs(len(each.text) - 4) / 4) for each in asked]
    assert report.curve("rewards/length")[1] == pytest.approx(sum(length) / 8, abs=1e-6)
    total = report.curve("rewards/length")[1] + 0.5 * report.curve("rewards/similarity")[1]
    assert report.curve("reward")[1] == pytest.approx(total, abs=1e-6)
    assert report.curve("completion_length")[1] == pytest.approx(sum(each.tokens for each in asked) / 8)
    # Before anything has moved every ratio is 1, values are 0 and advantages have mean 0: half the mean square of the returns is left.
    assert report.curve("clip_ratio")[1] == 0
    assert report.curve("loss")[1] == pytest.approx(0.1 * report.curve("value_loss")[1], abs=1e-5)


@train
def test_the_reference_is_the_model_the_run_started_from(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(child.spec(tmp_path / "first", "sft", "lora", params={"learning_rate": 1e-2}))
    adapter = report.of("checkpoint")[-1]["folder"]
    for tuner in ("full", "lora"):
        job = rewarded.varied(tmp_path / tuner, "ppo", tuner, ppo_epochs=1, max_steps=3)
        job["model"] = {**job["model"], "adapter": adapter}
        _, report = child.run(job)
        assert report.curve("kl")[1] == pytest.approx(0, abs=1e-6) and abs(report.curve("kl")[3]) > 1e-7
        assert not (Path(report.of("checkpoint")[-1]["folder"]) / "ref").exists()


def test_what_does_not_go_together_is_said() -> None:
    for tuner, words in (("prompt", "soft prompt"), ("p_tuning", "soft prompt"), ("prefix", "with a prefix")):
        with pytest.raises(Invalid, match=words) as refused:
            service.validate("ppo", tuner, {}, {}, "prompt")
        assert refused.value.field == "tuner"
    with pytest.raises(Invalid, match="Must be at most 1") as refused:
        service.validate("ppo", "lora", {"gae_lambda": 1.5}, {}, "chat")
    assert refused.value.field == "params.gae_lambda"
    with pytest.raises(Invalid, match="leaves no room"):
        service.validate("ppo", "lora", {"max_completion_length": 2000}, {}, "chat")
    assert service.validate("ppo", "lora", {}, {}, "chat")[0]["learning_rate"] == 1e-4
