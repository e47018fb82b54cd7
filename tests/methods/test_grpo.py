"""GRPO: it learns from rewards, resumes anywhere, tells its figures by the names of the charts, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.methods import service
from app.rewards.base import Answered
from tests.methods import child, rewarded
from tests.methods.rewarded import shown as shown

train = pytest.mark.train


@pytest.mark.every
@train
def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _, report = child.run(rewarded.toy(tmp_path, "grpo", max_steps=40))
    rewards = report.curve("reward")
    assert rewards[1] < 0.05 and report.curve("eval_reward")[40] > 0.7, "on prompts it has not seen"
    assert report.curve("entropy")[40] < 0.7 * report.curve("entropy")[1]
    assert report.of("checkpoint")[-1]["task"] == "policy"


@train
@pytest.mark.parametrize(
    ("tuner", "settings", "steps"),
    [("lora", {"beta": 0.1}, (2, 3)), ("full", {"num_iterations": 2, "beta": 0.1}, (3, 4))],
    ids=["across epochs", "between two uses of the same answers"],
)
def test_resuming_gives_the_same_bits(tmp_path: Path, tuner: str, settings: dict[str, Any], steps: tuple[int, ...]) -> None:
    pytest.importorskip("torch")
    from tests.methods.test_resume import weights
    from worker.engines.asking import Order

    job = rewarded.varied(tmp_path, "grpo", tuner, count=5, num_generations=4, **settings)
    epochs: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Order, "set_epoch", lambda self, epoch: epochs.append(epoch) or setattr(self, "epoch", epoch))
        _, whole = child.run(job)
    assert set(epochs) == set(range(max(epochs) + 1)) and max(epochs) > 0, "each epoch has an order of its own"
    expected = weights(Path(job["work"]) / "checkpoint-6")
    for step in steps:
        result, rest = child.run(child.resumed(job, step, tmp_path))
        assert result == {"outcome": "finished", "step": 6}
        assert weights(tmp_path / f"resumed-{step}" / "checkpoint-6") == expected, f"resumed at step {step}"
        for name in ("loss", "reward", "kl"):
            assert rest.curve(name) == {at: value for at, value in whole.curve(name).items() if at > step}


@train
def test_its_figures_are_right(tmp_path: Path, shown: list[list[Answered]]) -> None:
    pytest.importorskip("torch")
    job = rewarded.varied(tmp_path, "grpo", "lora", num_generations=4, max_steps=2, eval_steps=2, eval_rows=3, beta=0.1)
    rows = child.write_rows(Path(job["train"]["path"]), "prompt_completion", 20, 5)
    _, report = child.run({**job, "eval": {**job["train"], "path": str(rows), "split": "eval"}})
    length, similarity = report.curve("rewards/length"), report.curve("rewards/similarity")
    assert report.curve("reward") == pytest.approx({step: length[step] + 0.5 * similarity[step] for step in (1, 2)}, abs=1e-6)

    asked = shown[0]  # 8 answers to two prompts, four each
    assert len(asked) == 8 and len({each.prompt[0]["content"] for each in asked}) == 2  # type: ignore[index]
    for each in asked:
        first = int(str(each.prompt[0]["content"]).split()[0])  # type: ignore[index]
        assert each.expected == str(2 * first + 1), "the answer of the row goes along"
        assert 1 <= each.tokens <= 6
    by_hand = [max(0.0, 1 - abs(len(each.text) - 4) / 4) for each in asked]
    assert length[1] == pytest.approx(sum(by_hand) / 8, abs=1e-6)
    assert report.curve("completion_length")[1] == pytest.approx(sum(each.tokens for each in asked) / 8)
    assert report.curve("kl")[1] == pytest.approx(0, abs=1e-6)
    told = {name for message in report.of("metrics") for name in message["values"]}
    assert {"reward_std", "frac_reward_zero_std", "clipped_ratio", "entropy"} <= told
    assert not {name for name in told if "completions" in name or name.endswith(("/mean", "/std", "step_time"))}

    evaluated = [batch for batch in shown if len(batch) in (1, 2, 3)][-2:]  # both rules were shown the same three answers
    assert sum(map(len, evaluated)) == 6 or len(evaluated[0]) == 3
    assert report.curve("eval_loss") == pytest.approx({2: -report.curve("eval_reward")[2]})
    assert report.curve("eval_reward")[2] == pytest.approx(
        report.curve("eval_rewards/length")[2] + 0.5 * report.curve("eval_rewards/similarity")[2], abs=1e-6
    )


@train
def test_the_reference_is_the_model_the_run_started_from(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    first = child.spec(tmp_path / "first", "sft", "lora", params={"learning_rate": 1e-2})
    _, report = child.run(first)
    adapter = report.of("checkpoint")[-1]["folder"]
    for tuner in ("full", "lora"):  # merged into the weights, and trained on
        job = rewarded.varied(tmp_path / tuner, "grpo", tuner, num_generations=4, beta=0.1, max_steps=3)
        job["model"] = {**job["model"], "adapter": adapter}
        _, report = child.run(job)
        kl = report.curve("kl")
        assert kl[1] == pytest.approx(0, abs=1e-6) and kl[3] > 1e-9
        assert report.of("resolved")[0]["config"]["arguments"]["beta"] == 0.1
        assert not (Path(report.of("checkpoint")[-1]["folder"]) / "ref").exists()


@pytest.mark.every
@train
def test_halving_the_batch_goes_on_with_the_same_answers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    job = rewarded.varied(tmp_path, "grpo", "full", num_generations=4, num_iterations=2)
    _, whole = child.run(job)
    _, rest = child.run({**child.resumed(job, 3, tmp_path), "adjustments": {"batch_divisor": 2}})
    resolved = rest.of("resolved")[0]["config"]
    assert (resolved["batch_size"], resolved["gradient_accumulation"]) == (2, 4)
    assert rest.curve("loss")[4] == pytest.approx(whole.curve("loss")[4], abs=1e-5)


@train
def test_rows_that_cannot_be_asked_are_left_out_or_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    job = rewarded.varied(tmp_path / "a", "grpo", "lora", num_generations=4, max_steps=1, max_length=48)
    _, report = child.run(job)
    dropped = report.of("event")[0]["data"]["dropped"]
    assert 0 < dropped < 20 and "longer than the maximum length of 48" in report.of("event")[0]["message"]
    with pytest.raises(Failed, match="each step asks 4 prompts, and there are 3 rows"):
        child.run(rewarded.varied(tmp_path / "b", "grpo", "lora", count=3, num_generations=2))
    job = rewarded.varied(tmp_path / "c", "grpo", "lora", num_generations=4)
    child.write_rows(Path(job["train"]["path"]), "prompt", 20)
    with pytest.raises(Failed, match="The reward similarity compares with the answer of a row"):
        child.run({**job, "train": {**job["train"], "shape": "prompt"}})
    job["params"]["rewards"] = job["params"]["rewards"][:1]
    job["params"]["max_steps"] = 1
    assert child.run({**job, "train": {**job["train"], "shape": "prompt"}})[0]["outcome"] == "finished"


@pytest.mark.parametrize(
    ("params", "field", "words"),
    [
        ({"batch_size": 6, "gradient_accumulation": 1, "num_generations": 4}, "params.num_generations", "such as 8"),
        ({"num_generations": 1}, "params.num_generations", "at least 2"),
        ({"max_completion_length": 1024}, "params.max_completion_length", "leaves no room for a prompt"),
        ({"temperature": 0}, "params.temperature", "more than 0"),
        ({"beta": -1}, "params.beta", "at least 0"),
        ({"epsilon": 1}, "params.epsilon", "less than 1"),
        ({"loss": "gspo"}, "params.loss", "'dapo'"),
    ],
)
def test_what_does_not_go_together_is_said(params: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(Invalid) as refused:
        service.validate("grpo", "lora", params, {}, "prompt_completion")
    assert refused.value.field == field and words in refused.value.message


def test_rows_it_takes_and_its_rates() -> None:
    for shape, rewards in (("prompt", [{"kind": "length", "maximum": 9}]), ("prompt_completion", None), ("chat", None)):
        params = {"rewards": rewards} if rewards else {}
        assert service.validate("grpo", "lora", params, {}, shape)[0]["learning_rate"] == 1e-4
    with pytest.raises(Invalid, match="The reward similarity compares with the answer of a row") as refused:
        service.validate("grpo", "lora", {}, {}, "prompt")
    assert refused.value.field == "params.rewards"
    assert service.validate("grpo", "full", {}, {}, "chat")[0]["learning_rate"] == 1e-6
    with pytest.raises(Invalid, match="grpo needs prompt rows"):
        service.validate("grpo", "lora", {}, {}, "preference")
