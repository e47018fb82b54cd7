"""Continued pretraining: every token of every text is learned once, packed texts do not see each other, and perplexity is what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from app.errors import Invalid
from app.methods import service
from app.methods.pretrain import pieces
from tests.methods import child, toys
from tests.methods.test_resume import weights
from tests.models import tiny_llama_folder

EOS = 2


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts of unlike length, each a word said again and again."""
    return [{"text": f"{row['chosen']}. " * (1 + number % 5)} for number, row in enumerate(toys.pairs(count, seed))]


def hand(folder: str, rows: list[dict[str, Any]], together: bool = False) -> tuple[float, int]:
    """Mean loss of a token over texts that go through the model one by one (or all in one row), and how many tokens are predicted."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_llama_folder())
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = [[*tokenizer(row["text"])["input_ids"], EOS] for row in rows]
    ids = [[token for each in ids for token in each]] if together else ids
    total, count = 0.0, 0
    with torch.no_grad():
        for each in ids:
            found = model(input_ids=torch.tensor([each])).logits[0, :-1].log_softmax(-1)
            total -= float(found.gather(-1, torch.tensor(each)[1:, None]).sum())
            count += len(each) - 1
    return total / count, count


def split(job: dict[str, Any], name: str) -> list[dict[str, Any]]:
    lines = Path(job["train"]["path"]).read_text().splitlines()
    return [line["row"] for line in map(json.loads, lines) if line["split"] == name]


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("packing", [True, False])
def test_it_learns_and_its_perplexity_is_that_of_each_text_alone(tmp_path: Path, packing: bool) -> None:
    pytest.importorskip("torch")
    job = toys.spec(tmp_path, "pretrain", "full", texts, packing=packing, max_steps=40, learning_rate=5e-3, max_length=128, eval_steps=40)
    _, report = child.run(job)
    folder = report.of("checkpoint")[-1]["folder"]
    held_out = split(job, "eval")
    found, _ = hand(folder, held_out)
    before, _ = hand(str(tiny_llama_folder()), held_out)
    assert report.curve("eval_loss")[40] == pytest.approx(found, abs=1e-4)
    assert report.curve("eval_perplexity")[40] == pytest.approx(math.exp(found), rel=1e-3)
    assert report.curve("perplexity")[7] == pytest.approx(math.exp(report.curve("loss")[7]))
    assert math.exp(found) < 0.1 * math.exp(before), "nothing was learned"
    mixed, _ = hand(folder, held_out[:8], together=True)
    assert abs(mixed - hand(folder, held_out[:8])[0]) > 1e-2, "this test could not tell whether texts see each other"
    assert report.of("checkpoint")[-1]["task"] == "policy" and not report.of("sample")


@pytest.mark.train
@pytest.mark.parametrize("packing", [True, False])
def test_long_texts_are_split_and_no_token_is_left_away(tmp_path: Path, packing: bool) -> None:
    pytest.importorskip("torch")

    def long(count: int, seed: int) -> list[dict[str, Any]]:
        return [{"text": "0123456789" * (1 + number % 4)} for number in range(count // 16)]

    params: dict[str, Any] = {"packing": packing, "max_length": 16, "max_steps": None, "epochs": 1, "batch_size": 4}
    job = toys.spec(tmp_path, "pretrain", "lora", long, **params)
    _, report = child.run(job)
    lengths = [len(row["text"]) + 1 for row in split(job, "train")]
    repeated = sum(math.ceil((length - 1) / 15) - 1 for length in lengths)  # each further piece begins with the token before it
    assert max(report.curve("tokens").values()) == sum(lengths) + repeated
    assert report.curve("eval_loss")  # whole texts of up to 41 tokens, in pieces, too


@pytest.mark.train
def test_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    params = {"max_steps": 10, "save_steps": 2, "max_length": 48}
    job = child.spec(tmp_path, "pretrain", "lora", params=params, tuner_params={"dropout": 0.2})
    _, whole = child.run(job)
    expected = weights(Path(job["work"]) / "checkpoint-10")
    _, rest = child.run(child.resumed(job, 6, tmp_path))
    assert expected and weights(tmp_path / "resumed-6" / "checkpoint-10") == expected
    assert rest.curve("loss") == {at: loss for at, loss in whole.curve("loss").items() if at > 6}


@pytest.mark.parametrize("longest", [2, 8, 16])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16, 17, 31, 100])
def test_every_token_but_the_first_is_predicted_once(length: int, longest: int) -> None:
    tokens = list(range(length))
    found = list(pieces(tokens, longest))
    assert [token for piece in found for token in piece[1:]] == tokens[1:] and found[0][0] == 0
    assert all(len(piece) <= longest for piece in found) and (length == 1 or all(len(piece) > 1 for piece in found))


@pytest.mark.parametrize("tuner", ["prompt", "p_tuning"])
def test_virtual_tokens_do_not_go_with_packing(tuner: str) -> None:
    with pytest.raises(Invalid, match=r"packed rows share one beginning\. Switch packing off") as refused:
        service.validate("pretrain", tuner, {}, {}, "text")
    assert refused.value.field == "params.packing"
    assert service.validate("pretrain", tuner, {"packing": False}, {}, "text")


def test_what_makes_no_sense_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match=r"pretrain needs text rows \(text\)"):
        service.validate("pretrain", "lora", {}, {}, "chat")
    with pytest.raises(Invalid, match="Plain text has no prompts") as refused:
        service.validate("pretrain", "lora", {"answer_check": "last_integer"}, {}, "text", has_eval=True)
    assert refused.value.field == "params.answer_check"
    with pytest.raises(Invalid, match="at least 8") as refused:
        service.validate("pretrain", "lora", {"max_length": 4}, {}, "text")
    assert refused.value.field == "params.max_length"
    assert service.validate("pretrain", "full", {}, {}, "text")[0]["learning_rate"] == 2e-5
