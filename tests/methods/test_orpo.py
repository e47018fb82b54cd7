"""ORPO: it learns from pairs without a reference, its figures are right, and the library's trainer is mended where it has to be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.methods import service
from tests.methods import child, toys
from tests.methods.test_kto import implicit
from tests.methods.test_resume import weights
from tests.models import tiny_llama_folder

LN2 = math.log(2)


def scores(rows: list[dict[str, Any]], side: str) -> list[tuple[float, int, float, int]]:
    """Of each answer: log-probability and number of its tokens; and the same of prompt and answer together."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llama_folder())
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama_folder()).eval()
    found = []
    for row in rows:
        asked = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": row[side]}], return_dict=True)["input_ids"]
        ids = torch.tensor([whole])
        with torch.no_grad():
            told = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        answer = told[len(prompt) - 1 :]
        found.append((float(answer.sum()), len(answer), float(told.sum()), len(told)))
    return found


def held_out(job: dict[str, Any]) -> list[dict[str, Any]]:
    lines = Path(job["train"]["path"]).read_text().splitlines()
    return [line["row"] for line in map(json.loads, lines) if line["split"] == "eval"]


def graded(job: dict[str, Any]) -> dict[str, Any]:
    """The same job, its held-out pairs graded."""
    file = Path(job["train"]["path"])
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for number, line in enumerate(lines):
        line["source"] = {**line["row"], "meta": {"grade": [1.0, 2.0, None][number % 3]}}
    file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    return {**job, "eval": {**job["eval"], "graded": True}}


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_it_learns_which_answers_are_liked(tmp_path: Path, tuner: str) -> None:
    pytest.importorskip("torch")
    rate = 5e-3 if tuner == "lora" else 2e-3
    job = toys.spec(tmp_path, "orpo", tuner, toys.pairs, max_steps=30, learning_rate=rate)
    _, report = child.run(job)
    assert report.curve("eval_rewards/accuracies")[30] > 0.9 and report.curve("eval_rewards/margins")[30] > 0.01
    assert report.curve("logps/chosen")[30] > report.curve("logps/chosen")[1] + 0.5, "the chosen answers are learned, too"
    assert report.curve("log_odds_ratio")[1] == pytest.approx(-LN2, abs=0.02)  # answers of an untrained model are about alike
    assert report.curve("log_odds_ratio")[30] > -0.66
    if tuner == "lora":
        pairs = toys.pairs(40, 3)
        before, after = implicit(None, pairs), implicit(report.of("checkpoint")[-1]["folder"], pairs)
        assert sum(new > old for old, new in zip(before, after, strict=True)) > 0.9 * len(pairs)
    assert report.of("checkpoint")[-1]["task"] == "policy"


@pytest.mark.train
def test_loss_and_figures_are_those_reckoned_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from worker import held_out as graded_pairs

    monkeypatch.setattr(graded_pairs, "MEASURES", {**graded_pairs.MEASURES, "orpo": "mean log-probability"})
    params = {"max_steps": 1, "eval_steps": 1, "learning_rate": 1e-12, "beta": 0.3}
    job = graded(child.spec(tmp_path, "orpo", "lora", held_out=6, params=params))  # batches of 4 and 2
    _, report = child.run(job)
    rows = held_out(job)
    chosen, rejected = scores(rows, "chosen"), scores(rows, "rejected")
    means = [(good[0] / good[1], bad[0] / bad[1]) for good, bad in zip(chosen, rejected, strict=True)]
    odds = [good - math.log(1 - math.exp(good)) - (bad - math.log(1 - math.exp(bad))) for good, bad in means]
    ratio = [-math.log1p(math.exp(-each)) for each in odds]
    nll = [-sum(each[2] for each in part) / sum(each[3] for each in part) for part in (chosen[:4], chosen[4:])]
    expected = {
        "loss": (4 * nll[0] + 2 * nll[1]) / 6 - 0.3 * sum(ratio) / 6,
        "nll_loss": (4 * nll[0] + 2 * nll[1]) / 6,
        "rewards/chosen": 0.3 * sum(good for good, _ in means) / 6,
        "rewards/rejected": 0.3 * sum(bad for _, bad in means) / 6,
        "rewards/margins": 0.3 * sum(good - bad for good, bad in means) / 6,
        "rewards/accuracies": sum(good > bad for good, bad in means) / 6,
        "logps/chosen": sum(good for good, _ in means) / 6,
        "logps/rejected": sum(bad for _, bad in means) / 6,
        "log_odds_ratio": sum(ratio) / 6,
    }
    for name, value in expected.items():
        assert report.curve(f"eval_{name}")[1] == pytest.approx(value, abs=1e-5), name
        assert name in report.of("metrics")[-2]["values"] or report.curve(name), f"{name} is told while training, too"
    told = report.of("graded")[0]["grades"]
    assert sum(each["pairs"] for each in told) == 6
    assert sum(each["margin"] * each["pairs"] for each in told) / 6 == pytest.approx(expected["rewards/margins"], abs=1e-5)
    assert report.curve("tokens")[1] > 4 * 2 * 15


@pytest.mark.train
@pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")
@pytest.mark.parametrize("spoken", [True, False])
def test_rows_become_the_tokens_that_dpo_makes_of_them(tmp_path: Path, spoken: bool) -> None:
    pytest.importorskip("torch")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    from worker.engines.pairs import sides
    from worker.rows import to_trl

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder())
    found = Dataset.from_list([to_trl(row, "preference", spoken) for row in toys.pairs(5)])
    arguments = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none")
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama_folder())
    made = DPOTrainer(model=model, args=arguments, train_dataset=found, processing_class=tokenizer).train_dataset
    assert len(made) == 5
    for row, theirs in zip(found, made, strict=True):
        prompt, (chosen, rejected) = sides(tokenizer, row["prompt"], row["chosen"], row["rejected"])
        assert (prompt, chosen, rejected) == (theirs["prompt_ids"], theirs["chosen_ids"], theirs["rejected_ids"])
        assert chosen.count(tokenizer.eos_token_id) == 1, "one end, and not a second one after the template's line break"


@pytest.mark.train
@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_rows_whose_prompt_fills_the_length_are_left_out_and_counted(tmp_path: Path, method: str) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    job = child.spec(tmp_path, method, "lora", held_out=4, params={"max_length": 44, "max_steps": 3, "eval_steps": 3})
    _, report = child.run(job)
    told = report.of("event")[0]
    assert told["name"] == "rows_dropped" and 0 < told["data"]["dropped"] < 24
    assert "because their prompt alone fills the maximum length of 44 tokens" in told["message"]
    assert all(math.isfinite(loss) for loss in [*report.curve("loss").values(), *report.curve("eval_loss").values()])
    with pytest.raises(Failed, match=r"maximum length of 16 tokens\. Raise max_length"):
        child.run({**job, "params": {**job["params"], "max_length": 16}})


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_dropout_is_off(tmp_path: Path, method: str) -> None:
    pytest.importorskip("torch")
    curves = []
    for dropout in (0.0, 0.5):
        job = child.spec(tmp_path / str(dropout), method, "lora", params={"max_steps": 3}, tuner_params={"dropout": dropout})
        curves.append(child.run(job)[1].curve("loss"))
    assert curves[0] == curves[1] and len(curves[0]) == 3


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("method", ["orpo", "simpo"])
def test_frozen_weights_in_bfloat16_leave_the_loss_exact(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from worker import loading

    monkeypatch.setattr(loading, "_cpu_has_bf16", lambda: True)
    curves = []
    for precision in ("fp32", "auto"):
        _, report = child.run(child.spec(tmp_path / precision, method, "lora", params={"max_steps": 3, "precision": precision}))
        curves.append(report.curve("loss"))
    assert report.of("resolved")[0]["config"]["weights"] == "bfloat16"
    assert curves[1] == pytest.approx(curves[0], abs=2e-3) and curves[1] != curves[0]


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize(("method", "tuner"), [("orpo", "lora"), ("simpo", "full")])
def test_resuming_gives_the_same_bits(tmp_path: Path, method: str, tuner: str) -> None:
    pytest.importorskip("torch")
    job = child.spec(tmp_path, method, tuner, held_out=4, params={"max_steps": 10, "save_steps": 2, "eval_steps": 3})
    _, whole = child.run(job)
    expected = weights(Path(job["work"]) / "checkpoint-10")
    _, rest = child.run(child.resumed(job, 8, tmp_path))
    assert expected and weights(tmp_path / "resumed-8" / "checkpoint-10") == expected
    assert rest.curve("loss") == {at: loss for at, loss in whole.curve("loss").items() if at > 8}


@pytest.mark.parametrize("method", ["orpo", "simpo"])
@pytest.mark.parametrize("tuner", ["prompt", "p_tuning"])
def test_soft_prompts_are_refused(method: str, tuner: str) -> None:
    with pytest.raises(Invalid, match="loses count of its virtual tokens") as refused:
        service.validate(method, tuner, {}, {}, "preference")
    assert refused.value.field == "tuner"
    assert service.validate(method, "prefix", {}, {}, "preference")


def test_what_makes_no_sense_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match="orpo needs preference rows"):
        service.validate("orpo", "lora", {}, {}, "chat")
    with pytest.raises(Invalid, match="at least 0") as refused:
        service.validate("orpo", "lora", {"beta": -1}, {}, "preference")
    assert refused.value.field == "params.beta"
    assert service.validate("orpo", "lora", {}, {}, "preference")[0]["learning_rate"] == 3e-4
    assert service.validate("orpo", "full", {}, {}, "preference")[0]["learning_rate"] == 8e-6
