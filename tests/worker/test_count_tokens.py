"""Token counts are those of the trainers: ids, masks, dropped rows, for texts and conversations, with and without a chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.datasets.tokens import row_of
from worker.rows import read, to_trl

pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning"),  # trl 1.16 sets it itself
]
pytest.importorskip("torch")

PAIRS = [{"prompt": f"What is {n} + {n}? " + "x" * (7 * n), "completion": f"{2 * n}, I think"} for n in range(12)]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Count to {n}."},
            {"role": "assistant", "content": "1, 2"},
            {"role": "user", "content": "And then?"},
            {"role": "assistant", "content": "3" * n},
            {"role": "user", "content": "Thanks."},
        ]
    }
    for n in range(1, 9)
]
PREFERENCES = [{"prompt": f"q{n}" + "y" * n * 9, "chosen": "good " * n, "rejected": "bad" * (9 - n)} for n in range(1, 9)]
TEXTS = [{"text": "some text " * n} for n in range(1, 9)]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"split": "train", "line": n, "row": row, "source": row}) + "\n" for n, row in enumerate(rows, 1)))
    return file


def model_folder(folder: Path, *, template: bool) -> Path:
    from tests.models import tiny_llama

    made = tiny_llama(folder / "model", layers=1)
    if not template:
        (made / "chat_template.jinja").unlink()
    return made


def count(folder: Path, rows: Path, shape: str, model: Path, number: int) -> tuple[Any, Any, dict[str, Any]]:
    """Lengths, the first rows token by token, and the result of the counting child."""
    from worker.count_tokens import main
    from worker.reporting import Report

    out = folder / "tokens-x.npy"
    result = main(
        {"rows": str(rows), "count": number, "shape": shape, "tokenizer": str(model), "out": str(out), "kept_tokens": 10**6}, Report()
    )
    assert result["shown_rows"] == number
    return np.load(out), [row_of(out, each) for each in range(1, number + 1)], result


@pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
@pytest.mark.parametrize(("shape", "rows"), [("prompt_completion", PAIRS), ("chat", CHATS), ("text", TEXTS)])
def test_sft(tmp_path: Path, shape: str, rows: list[dict[str, Any]], template: bool) -> None:
    """The same ids and the same trained tokens as SFTTrainer; dropped and cut as it drops and cuts."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model = model_folder(tmp_path, template=template)
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert bool(tokenizer.chat_template) == template
    file = write(tmp_path, rows)
    lengths, shown, result = count(tmp_path, file, shape, model, len(rows))

    def prepared(max_length: int | None) -> Any:
        data = Dataset.from_list([to_trl(record["row"], shape, template) for record in read(file)])
        config = SFTConfig(output_dir=str(tmp_path / "out"), max_length=max_length, report_to="none", use_cpu=True, bf16=False)
        return SFTTrainer(
            AutoModelForCausalLM.from_pretrained(model), args=config, train_dataset=data, processing_class=tokenizer
        ).train_dataset

    whole = prepared(None)
    for number, row in enumerate(whole):
        trained = [label != -100 for label in row["labels"]]
        assert [token["id"] for token in shown[number]["tokens"]] == row["input_ids"]
        assert [token["trained"] for token in shown[number]["tokens"]] == trained
        assert lengths[number].tolist() == [trained.index(True), len(trained)]
    assert result["trained_tokens"] == sum(label != -100 for row in whole for label in row["labels"])
    if shape == "prompt_completion":
        limit = 60
        gone = (lengths[:, 0] >= limit).sum()
        assert 0 < gone < len(rows)
        assert len(prepared(limit)) == len(rows) - gone


@pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
def test_dpo(tmp_path: Path, template: bool) -> None:
    """The same ids as DPOTrainer; dropped as it drops."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = model_folder(tmp_path, template=template)
    tokenizer = AutoTokenizer.from_pretrained(model)
    file = write(tmp_path, PREFERENCES)
    lengths, shown, _ = count(tmp_path, file, "preference", model, len(PREFERENCES))

    def prepared(max_length: int | None) -> Any:
        data = Dataset.from_list([to_trl(record["row"], "preference", template) for record in read(file)])
        config = DPOConfig(output_dir=str(tmp_path / "out"), max_length=max_length, report_to="none", use_cpu=True, bf16=False)
        return DPOTrainer(
            AutoModelForCausalLM.from_pretrained(model), args=config, train_dataset=data, processing_class=tokenizer
        ).train_dataset

    for number, row in enumerate(prepared(None)):
        assert [token["id"] for token in shown[number]["tokens"]] == row["prompt_ids"] + row["chosen_ids"]
        assert [token["id"] for token in shown[number]["rejected"]] == row["prompt_ids"] + row["rejected_ids"]
        sides = [len(row["prompt_ids"]) + len(row[name]) for name in ("chosen_ids", "rejected_ids")]
        assert lengths[number].tolist() == [len(row["prompt_ids"]), *sides]
    gone = (lengths[:, 0] >= 40).sum()
    assert 0 < gone < len(PREFERENCES)
    assert len(prepared(40)) == len(PREFERENCES) - gone


def test_a_template_that_refuses_names_the_line(tmp_path: Path) -> None:
    from worker.reporting import Failed

    model = model_folder(tmp_path, template=True)
    (model / "chat_template.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('No system role here') }}{% endif %}x"
    )
    with pytest.raises(Failed, match="row of line 1: No system role here"):
        count(tmp_path, write(tmp_path, CHATS), "chat", model, len(CHATS))


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    from worker.reporting import Failed

    (tmp_path / "empty").mkdir()
    with pytest.raises(Failed, match="tokenizer"):
        count(tmp_path, write(tmp_path, PAIRS), "prompt_completion", tmp_path / "empty", len(PAIRS))


def test_letters_that_several_tokens_share_are_put_together(tmp_path: Path) -> None:
    """Every row is kept token by token, until there are too many; what the model reads is the text, letter for letter."""
    from app.datasets.views import rendered
    from worker.count_tokens import main
    from worker.reporting import Report

    rows = [{"prompt": f"Wo ist {n}? 日本 🙂", "completion": f"Ünïcödé {n} 🙂"} for n in range(9)]
    file, out = write(tmp_path, rows), tmp_path / "tokens-x.npy"
    spec = {
        "rows": str(file),
        "count": 9,
        "shape": "prompt_completion",
        "tokenizer": str(model_folder(tmp_path, template=True)),
        "out": str(out),
    }
    assert main({**spec, "kept_tokens": 10**6}, Report())["shown_rows"] == 9
    row = row_of(out, 8)
    assert any("\ufffd" in token["text"] for token in row["tokens"])
    (asked, prompt), (trained, answer) = rendered(row["tokens"])
    assert (asked, trained) == (False, True)
    assert prompt == "<|im_start|>user\nWo ist 7? 日本 🙂<|im_end|>\n<|im_start|>assistant\n" and answer == "Ünïcödé 7 🙂<|im_end|>\n"
    few = main({**spec, "kept_tokens": 3 * len(row["tokens"])}, Report())["shown_rows"]
    assert few == 3 and row_of(out, 3)["tokens"]
    assert not [left for left in tmp_path.iterdir() if left.name.startswith(".")]
