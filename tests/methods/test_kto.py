"""KTO: it learns from thumbs, keeps rows with one prompt apart, weighs both sides alike, and says what it cannot do."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.methods import service
from app.methods.kto import order, weights
from tests.methods import child, toys
from tests.models import tiny_llama_folder


def implicit(folder: str | None, rows: list[dict[str, Any]]) -> list[float]:
    """Log-probability of chosen minus that of rejected, answer by answer, under a checkpoint or the model before training."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_folder())
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_llama_folder())
    model = (PeftModel.from_pretrained(model, folder) if folder else model).eval()

    def log_probability(prompt: str, answer: str) -> float:
        asked = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        ids = torch.tensor([asked + tokenizer(answer)["input_ids"]])
        with torch.no_grad():
            found = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        return float(found.gather(-1, ids[0, 1:, None])[len(asked) - 1 :].sum())

    return [log_probability(row["prompt"], row["chosen"]) - log_probability(row["prompt"], row["rejected"]) for row in rows]


@pytest.mark.train
@pytest.mark.parametrize("loss", ["kto", pytest.param("apo_zero_unpaired", marks=pytest.mark.every)])
def test_it_learns_which_answers_are_liked(tmp_path: Path, loss: str) -> None:
    pytest.importorskip("torch")
    job = toys.spec(tmp_path, "kto", "lora", toys.thumbs, max_steps=80, learning_rate=5e-3, loss=loss)
    _, report = child.run(job)
    losses = report.curve("loss")
    assert sum(losses[step] for step in range(76, 81)) / 5 < 0.8 * losses[1]
    assert report.curve("eval_rewards/margins")[80] > 0.3
    pairs = toys.pairs(60, 3)
    before, after = implicit(None, pairs), implicit(report.of("checkpoint")[-1]["folder"], pairs)
    assert sum(new > old for old, new in zip(before, after, strict=True)) > 0.9 * len(pairs)
    assert report.of("checkpoint")[-1]["task"] == "policy"


@pytest.mark.train
def test_weights_are_set_from_the_counts_and_trl_agrees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("torch")
    job = toys.spec(tmp_path, "kto", "lora", lambda count, seed: toys.thumbs(count, seed, good=0.2), max_steps=1)
    _, report = child.run(job)
    told = report.of("resolved")[0]["config"]["arguments"]
    assert told["desirable_weight"] == pytest.approx(1.15 * 196 / 60, abs=0.01) and "undesirable_weight" not in told
    assert "ideal range" not in caplog.text


@pytest.mark.train
def test_one_class_only_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    with pytest.raises(Failed, match="all rows are rated good, and KTO needs some that are rated bad too") as caught:
        child.run(toys.spec(tmp_path, "kto", "lora", lambda count, seed: toys.thumbs(count, seed, good=1), max_steps=1))
    assert caught.value.code == "config"


@pytest.mark.train
def test_a_batch_halved_for_want_of_memory_stays_large_enough(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    job = child.spec(tmp_path, "kto", "lora", params={"max_steps": 1})
    _, report = child.run({**job, "adjustments": {"batch_divisor": 2}})
    assert report.of("resolved")[0]["config"]["batch_size"] == 2
    with pytest.raises(Failed, match="cannot be divided by 4"):
        child.run({**job, "adjustments": {"batch_divisor": 4}})


@pytest.mark.parametrize("batch", [2, 3, 8, 16])
@pytest.mark.parametrize("same", [2, 5])
def test_rows_with_one_prompt_are_never_set_beside_each_other(batch: int, same: int) -> None:
    prompts = [f"p{number // same}" for number in range(241)]  # in blocks, as an unpaired export would have them
    found = order(prompts, batch, seed=7)
    assert sorted(found) == list(range(241)) and found == order(prompts, batch, seed=7) != order(prompts, batch, seed=8)
    for start in range(0, 241, batch):
        rows = [prompts[place] for place in found[start : start + batch]]
        assert all(rows[place] != rows[place - 1] for place in range(len(rows))) or len(rows) == 1


def test_paired_data_in_blocks_is_mixed() -> None:
    prompts = [f"p{number % 500}" for number in range(1000)]  # all chosen, then all rejected
    labels = [place < 500 for place in order(prompts, 8, seed=1)]
    runs = Counter(sum(labels[start : start + 8]) for start in range(0, 1000, 8))
    assert runs[0] + runs[8] <= 5


def test_an_order_that_cannot_be_had_ends_all_the_same() -> None:
    assert sorted(order(["only"] * 9, 4, seed=1)) == list(range(9))
    assert order([], 4, seed=1) == [] and order(["one"], 4, seed=1) == [0]


def test_weights_lie_in_the_window_of_the_paper() -> None:
    draw = random.Random(3)
    for _ in range(300):
        good, bad = draw.randrange(1, 5000), draw.randrange(1, 5000)
        for asked in ((None, None), (2.0, None), (None, 0.5)):
            desirable, undesirable = weights(good, bad, *asked)
            assert 0.999 <= desirable * good / (undesirable * bad) <= 1.33 or min(desirable, undesirable) < 0.01
            assert asked[0] in (None, desirable) and asked[1] in (None, undesirable)
    assert weights(5, 5) == (1.0, 1.0) and weights(1, 9, 4.0, 2.0) == (4.0, 2.0)


def test_a_batch_of_one_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match="a batch needs 2 rows or more") as refused:
        service.validate("kto", "lora", {"batch_size": 1}, {}, "unpaired")
    assert refused.value.field == "params.batch_size"
    with pytest.raises(Invalid, match="kto needs unpaired rows"):
        service.validate("kto", "lora", {}, {}, "preference")
    assert service.validate("kto", "lora", {}, {}, "unpaired")[0]["learning_rate"] == 1e-4
