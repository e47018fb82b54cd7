"""Scores of answers: those the trained model gave, batched or one by one, from an adapter, a whole model and a merged export."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from app.checkpoints.manifest import write_manifest
from app.exports.schemas import STEPS
from tests.methods import child, toys
from tests.models import tiny_llama, tiny_llama_folder
from worker import rewards
from worker.reporting import Failed, Report

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore:.*will be removed in v6:FutureWarning")]


def trained(folder: Path, method: str, tuner: str, monkeypatch: pytest.MonkeyPatch, steps: int = 40) -> tuple[dict[str, Any], Any]:
    """A checkpoint as a worker finds it, and the model that was trained, still in memory."""
    from worker import callbacks

    seen: dict[str, Any] = {}

    class Watching(callbacks.Reporter):
        def on_save(self, *args: Any, **options: Any) -> None:
            super().on_save(*args, **options)
            seen["model"] = self.trainer.model

    monkeypatch.setattr(callbacks, "Reporter", Watching)
    make = toys.pairs if method == "reward" else toys.ratings
    _, report = child.run(toys.spec(folder, method, tuner, make, max_steps=steps, learning_rate=3e-3 if tuner == "lora" else 1e-3))
    saved = report.of("checkpoint")[-1]["folder"]
    base = str(tiny_llama_folder())
    return {"path": base if tuner == "lora" else saved, "adapter": saved if tuner == "lora" else None, "name": "judge"}, seen["model"]


def in_memory(model: Any, checkpoint: dict[str, Any], rows: list[dict[str, Any]]) -> list[float]:
    """The numbers of the head, one conversation at a time, without padding."""
    import torch

    from worker.loading import load_tokenizer

    tokenizer = load_tokenizer(checkpoint["adapter"] or checkpoint["path"])
    found = []
    with torch.no_grad():
        for row in rows:
            messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
            ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
            found.append(float(model.eval()(input_ids=torch.tensor([ids])).logits))
    return found


@pytest.mark.parametrize("tuner", ["lora", "full"])
@pytest.mark.parametrize("method", ["reward", "score"])
def test_a_reloaded_checkpoint_gives_the_scores_of_the_trained_model(
    tmp_path: Path, method: str, tuner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, model = trained(tmp_path, method, tuner, monkeypatch)
    rows = [{"prompt": row["prompt"], "completion": row["completion"] * (1 + number % 3)} for number, row in enumerate(toys.ratings(23, 5))]
    scorer = rewards.load(checkpoint)
    expected = [value * scorer.spread + scorer.mean for value in in_memory(model, checkpoint, rows)]
    seen: list[int] = []
    found = rewards.score(scorer, rows, batch_size=5, done=seen.append)
    assert found == pytest.approx(expected, abs=1e-5) and seen == [5, 10, 15, 20, 23]
    assert rewards.score(scorer, rows, batch_size=1) == pytest.approx(found, abs=1e-5)
    conversations = [[{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}] for row in rows]
    assert rewards.score(checkpoint, conversations) == pytest.approx(found, abs=1e-5)
    assert (scorer.mean, scorer.spread) == (0, 1) if method == "reward" else scorer.mean > 2
    assert rewards.score(scorer, []) == []


def test_it_ranks_pairs_it_has_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, _ = trained(tmp_path, "reward", "lora", monkeypatch, steps=60)
    pairs = toys.pairs(100, 9)
    better = rewards.score(checkpoint, [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs])
    worse = rewards.score(checkpoint, [{"prompt": row["prompt"], "completion": row["rejected"]} for row in pairs])
    assert sum(one > other for one, other in zip(better, worse, strict=True)) > 90


@pytest.mark.parametrize("template", [True, False], ids=["template", "plain"])
def test_answers_are_read_as_the_reward_trainer_reads_them(tmp_path: Path, template: bool) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    from worker.rows import to_trl

    folder = tiny_llama(tmp_path / "model", layers=1)
    if not template:
        (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [to_trl(row, "preference", template) for row in toys.pairs(6)]
    config = RewardConfig(output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, bf16=False, gradient_checkpointing=False)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    prepared = RewardTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train_dataset
    for row, ours in zip(prepared, rows, strict=True):
        assert row["chosen_ids"] == rewards.token_ids(tokenizer, ours["prompt"], ours["chosen"])
        assert row["rejected_ids"] == rewards.token_ids(tokenizer, ours["prompt"], ours["rejected"])


@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_an_export_keeps_the_head_and_its_scale(tmp_path: Path, tuner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForSequenceClassification

    from worker import export

    for name in ("HF_HOME", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"):
        monkeypatch.setenv(name, "1")  # what the child sets for itself is taken back
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    checkpoint, _ = trained(tmp_path, "score", tuner, monkeypatch)
    rows = toys.ratings(9, 5)
    expected = rewards.score(checkpoint, rows)
    base = Path(checkpoint["path"])
    if tuner == "lora":
        base = tiny_llama(tmp_path / "base")
        write_manifest(base, run_id=None, step=None, attempt=None, config_hash="")
    work = tmp_path / "job"
    work.mkdir()
    way = "merged" if tuner == "lora" else "copy"
    spec = {"way": way, "steps": STEPS[way], "base": str(base), "adapter": checkpoint["adapter"], "work": str(work), "dtype": None}
    spec |= {"target": str(tmp_path / "x.zip"), "folder": "marks", "card": "# marks\n", "base_name": "tiny", "base_revision": None}
    export.main(spec, Report())
    with zipfile.ZipFile(spec["target"]) as archive:
        archive.extractall(tmp_path / "out")
    folder = tmp_path / "out" / "marks"
    model, found = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and model.config.num_labels == 1 and model.config.pad_token_id is not None
    assert rewards.score({"path": str(folder), "adapter": None}, rows) == pytest.approx(expected, abs=1e-4)


def test_what_cannot_be_scored_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Failed, match="tiny writes answers and gives no scores"):
        rewards.load({"path": str(tiny_llama_folder()), "adapter": None, "name": "tiny"})
    checkpoint, _ = trained(tmp_path, "reward", "lora", monkeypatch, steps=1)
    with pytest.raises(Failed, match="Conversation 2 does not end with an answer"):
        asked = [{"role": "user", "content": "?"}]
        rewards.score(checkpoint, [[*asked, {"role": "assistant", "content": "!"}], asked])
    (Path(checkpoint["adapter"]) / "adapter_model.safetensors").unlink()
    with pytest.raises(Failed, match="cannot be loaded"):
        rewards.load(checkpoint)
