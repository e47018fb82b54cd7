"""A classifier: it learns classes of texts it has not seen, its figures are right, and every head loads again as it was."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app.errors import Invalid
from app.methods import service
from app.methods.classify import known, labels_of
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.methods import child, toys

CLASSES = ("bad", "good", "number")


def texts(count: int, seed: int) -> list[dict[str, Any]]:
    """Three words without a meaning, and among them one that says the class."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        place = draw.randrange(3)
        words = [draw.choice("abcdefgh") * draw.randint(1, 6) for _ in range(2)]
        words.insert(draw.randrange(3), ("rude", "kind", "42!")[place])
        rows.append({"text": " ".join(words), "label": CLASSES[place]})
    return rows


def few(count: int, seed: int) -> list[dict[str, Any]]:
    """As above, for what needs nothing to be learned."""
    return texts(count // 8, seed)


def tiny_bert(folder: Path) -> Path:
    """A random BERT (hidden 64) with a byte-level tokenizer that puts [CLS] and [SEP] around a text."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=0,
        )
        BertModel(config).save_pretrained(folder)
    return folder


def train(folder: Path, tuner: str, start: dict[str, Any] | None = None, make: Any = few, **params: Any) -> tuple[dict[str, Any], Any]:
    """The trained checkpoint as a worker finds it, and what was reported."""
    job = toys.spec(folder, "classify", tuner, make, **params)
    job["model"] = start or job["model"]
    _, report = child.run(job)
    told = report.of("checkpoint")[-1]
    whole = told["tuner_kind"] == "full"
    return {"path": told["folder"] if whole else job["model"]["path"], "adapter": None if whole else told["folder"], "name": "it"}, report


def loss_of(checkpoint: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    from worker import classifying

    mine = classifying.load(checkpoint)
    found = classifying.predict(mine, [row["text"] for row in rows], batch_size=7)
    assert all(sum(each) == pytest.approx(1) for each in found)
    return -sum(math.log(each[mine.labels.index(row["label"])]) for each, row in zip(found, rows, strict=True)) / len(rows)


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize(("tuner", "head", "rate"), [("full", "linear", 2e-3), ("lora", "mlp", 5e-3)])
def test_it_learns_the_classes_of_texts_it_has_not_seen_and_loads_as_it_was(tmp_path: Path, tuner: str, head: str, rate: float) -> None:
    pytest.importorskip("torch")
    checkpoint, report = train(tmp_path, tuner, make=texts, max_steps=60, learning_rate=rate, head=head, width=32)
    assert report.of("resolved")[0]["config"]["trainer"] == "ClassifyTrainer"
    accuracy = report.curve("eval_accuracy")[60]
    assert accuracy > 0.9 and report.curve("eval_macro_f1")[60] > 0.9 and report.curve("loss")[1] > 0.8
    folder = Path(report.of("checkpoint")[-1]["folder"])
    assert report.of("checkpoint")[-1]["task"] == "classifier"
    facts = json.loads((folder / "head.json").read_text())
    assert (facts["task"], facts["labels"], facts["max_length"]) == ("classifier", list(CLASSES), 512)
    assert facts["head"]["width"] == (32 if head == "mlp" else 0)
    # All that was reported of the evaluation is what the checkpoint gives when it is loaded again.
    held_out = texts(100, 2)
    assert loss_of(checkpoint, held_out) == pytest.approx(report.curve("eval_loss")[60], abs=1e-5)
    table = json.loads((folder / "confusion.json").read_text())
    assert table["labels"] == list(CLASSES) and table["step"] == 60
    counts = np.array(table["rows"])
    assert counts.sum(axis=1).tolist() == [sum(row["label"] == label for row in held_out) for label in CLASSES]
    assert counts.trace() / 100 == pytest.approx(accuracy)
    for number, label in enumerate(CLASSES):
        assert report.curve(f"class_accuracy/{label}")[60] == pytest.approx(counts[number, number] / counts[number].sum())


@pytest.mark.every
@pytest.mark.train
def test_a_program_that_knows_no_mlp_head_refuses_it_and_reads_the_names_of_a_linear_one(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification

    plain, _ = train(tmp_path / "linear", "head_only", max_steps=1)
    config = AutoModelForSequenceClassification.from_pretrained(plain["path"]).config
    assert config.id2label == dict(enumerate(CLASSES)) and config.label2id["number"] == 2
    mlp, _ = train(tmp_path / "mlp", "head_only", max_steps=1, head="mlp", width=32)
    with pytest.raises(RuntimeError, match="size"):
        AutoModelForSequenceClassification.from_pretrained(mlp["path"])


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("tuner", ["lora", "full"])
def test_resuming_gives_the_same_bits_with_dropout_in_the_head(tmp_path: Path, tuner: str) -> None:
    pytest.importorskip("torch")
    from tests.methods.test_resume import weights

    job = child.spec(tmp_path, "classify", tuner, params={"max_steps": 10, "save_steps": 2, "head": "mlp", "width": 16, "dropout": 0.3})
    _, whole = child.run(job)
    _, rest = child.run(child.resumed(job, 4, tmp_path))
    assert weights(tmp_path / "resumed-4" / "checkpoint-10") == weights(Path(job["work"]) / "checkpoint-10") != {}
    assert rest.curve("loss") == {step: loss for step, loss in whole.curve("loss").items() if step > 4}


@pytest.mark.train
def test_behind_virtual_tokens_padding_changes_nothing(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker import classifying

    checkpoint, report = train(tmp_path, "prompt", max_steps=6, learning_rate=0.1)
    mine, asked = classifying.load(checkpoint), [row["text"] for row in texts(20, 4)]
    alone = np.array(classifying.predict(mine, asked, batch_size=1))
    assert np.abs(np.array(classifying.predict(mine, asked, batch_size=20)) - alone).max() < 1e-5
    assert np.ptp(alone[:, 0]) > 1e-3, "texts can be told apart"
    assert loss_of(checkpoint, few(100, 2)) == pytest.approx(report.curve("eval_loss")[6], abs=1e-5)


@pytest.mark.train
def test_the_loss_and_the_figures_are_those_reckoned_by_hand() -> None:
    pytest.importorskip("torch")
    import torch
    from sklearn.metrics import f1_score

    from worker.engines.classify import ClassifyTrainer, confusion, curve, judged, weights

    assert weights([0, 0, 0, 1], 2) == pytest.approx([4 / 6, 2.0])
    trainer = object.__new__(ClassifyTrainer)
    trainer.options, trainer._found, trainer.class_weights = {}, [], torch.tensor([4 / 6, 2.0])
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])

    class Model:
        training = True

        def __call__(self, **_: Any) -> Any:
            return SimpleNamespace(logits=logits)

    inputs = {"input_ids": None, "attention_mask": None, "target": torch.tensor([0, 1])}
    first, second = math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))
    assert float(trainer.compute_loss(Model(), inputs)) == pytest.approx((4 / 6 * first + 2 * second) / 2)
    judging = Model()
    judging.training = False
    assert float(trainer.compute_loss(judging, inputs)) == pytest.approx((first + second) / 2), "rows are judged as they are"

    found, target = np.array([0, 0, 1, 1, 1, 0]), np.array([0, 1, 1, 1, 0, 0])
    table = confusion(found, target, 4)
    assert table[:2, :2].tolist() == [[2, 1], [1, 2]] and table.sum() == 6
    told = judged(table, ["a", "b", "c", "d e\nf"])
    assert told["eval_macro_f1"] == pytest.approx(f1_score(target, found, average="macro")) == pytest.approx(2 / 3)
    assert told["eval_accuracy"] == pytest.approx(4 / 6)
    assert {name for name in told if name.startswith("class")} == {"class_accuracy/a", "class_accuracy/b"}, "others do not occur"
    assert curve("d e\nf\x00") == "d e f" and len(curve("x" * 200)) == 60
    assert not [name for name in judged(np.eye(21), list(map(str, range(21)))) if name.startswith("class")]


@pytest.mark.every
@pytest.mark.train
def test_balanced_batches_add_up(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    params: dict[str, Any] = {"max_steps": 3, "learning_rate": 1e-3, "balance": True}
    _, whole = train(tmp_path / "a", "full", **params)
    _, parts = train(tmp_path / "b", "full", **params, batch_size=4, gradient_accumulation=4)
    assert parts.curve("loss") == pytest.approx(whole.curve("loss"), abs=1e-4)


@pytest.mark.train
def test_labels_that_cannot_be_learned_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    with pytest.raises(Failed, match=r"all rows have the same label \(kind\)"):
        train(tmp_path / "one", "lora", make=lambda count, seed: [{**row, "label": "kind"} for row in texts(count, seed)], max_steps=1)

    def strange(count: int, seed: int) -> list[dict[str, Any]]:
        return [{**row, "label": "new" if seed == 2 else 7} if number == 0 else row for number, row in enumerate(texts(count, seed))]

    with pytest.raises(Failed, match="evaluation rows have the label “new”, which no training row has"):
        train(tmp_path / "strange", "lora", make=strange, max_steps=1)
    with pytest.raises(Failed, match="width is 3, the number of classes"):
        train(tmp_path / "width", "lora", head="mlp", width=3, max_steps=1)


@pytest.mark.every
@pytest.mark.train
def test_where_it_may_start_and_what_may_start_from_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker import classifying, rewards
    from worker.reporting import Failed

    first, report = train(tmp_path / "first", "lora", max_steps=12, learning_rate=1e-2)
    same, again = train(tmp_path / "same", "lora", start=first, max_steps=1, learning_rate=1e-9)
    assert again.curve("eval_loss")[1] == pytest.approx(report.curve("eval_loss")[12], abs=1e-5), "it goes on with its head"

    def renamed(count: int, seed: int) -> list[dict[str, Any]]:
        return [{**row, "label": f"{row['label']}!"} for row in few(count, seed)]

    other, anew = train(tmp_path / "other", "lora", start=same, make=renamed, max_steps=1, learning_rate=1e-9)
    assert abs(anew.curve("eval_loss")[1] - again.curve("eval_loss")[1]) > 0.01, "other classes, another head"
    assert loss_of(other, renamed(100, 2)) == pytest.approx(anew.curve("eval_loss")[1], abs=1e-5)
    whole, _ = train(tmp_path / "whole", "full", start=other, max_steps=1, learning_rate=1e-9)
    assert classifying.load(whole).labels == CLASSES
    with pytest.raises(Failed, match="gives classes and no text"):
        child.run({**child.spec(tmp_path / "sft", "sft", "lora"), "model": first})
    with pytest.raises(Failed, match="it gives classes and no scores"):
        rewards.load(first)
    reward = toys.spec(tmp_path / "reward", "reward", "lora", toys.pairs, max_steps=1)
    _, told = child.run({**reward, "model": first})
    judge = {"path": first["path"], "adapter": told.of("checkpoint")[-1]["folder"], "name": "judge"}
    with pytest.raises(Failed, match="judge gives numbers and no classes"):
        classifying.load(judge)
    with pytest.raises(Failed, match="tiny writes text and no classes"):
        classifying.load({**reward["model"], "adapter": None})
    assert loss_of(train(tmp_path / "last", "lora", start=judge, max_steps=1)[0], few(80, 3)) > 0


@pytest.mark.every
@pytest.mark.train
def test_an_encoder_is_imported_and_trained(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker import classifying, import_checkpoint, import_folder
    from worker.reporting import Failed

    folder = tiny_bert(tmp_path / "bert")
    import_folder.check_folder(folder)
    told = import_checkpoint.check_model(folder)
    assert told["config"]["task"] == "encoder" and not [name for name in told["shapes"] if "classifier" in name]
    start = {"path": str(folder), "adapter": None, "name": "bert"}
    for tuner in ("lora", "prefix", "prompt"):
        checkpoint, report = train(tmp_path / tuner, tuner, start=start, max_steps=4, learning_rate=5e-3, max_length=64)
        assert loss_of(checkpoint, few(100, 2)) == pytest.approx(report.curve("eval_loss")[4], abs=1e-5)
    assert classifying.load(checkpoint).max_length == 44, "64 places, of which 20 are virtual tokens"
    tokenizer = classifying.load(checkpoint).tokenizer
    assert classifying.token_ids(tokenizer, "x" * 99, 10) == [2, *[classifying.token_ids(tokenizer, "x", 10)[1]] * 8, 3]
    checkpoint, report = train(tmp_path / "full", "full", start=start, make=texts, max_steps=60, learning_rate=2e-3, head="mlp", width=16)
    assert report.curve("eval_accuracy")[60] > 0.55 and report.curve("loss")[60] < report.curve("loss")[1]
    assert loss_of(checkpoint, texts(100, 2)) == pytest.approx(report.curve("eval_loss")[60], abs=1e-5)
    for method in ("reward", "sft"):
        with pytest.raises(Failed, match="only classify and features can start from it"):
            child.run({**child.spec(tmp_path / method, method, "lora"), "model": start})


def test_labels_are_sorted_and_checked() -> None:
    assert labels_of(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert labels_of(["b", "10", "a"]) == ("10", "a", "b")
    with pytest.raises(ValueError, match=r"same label \(a\)"):
        labels_of(["a", "a"])
    with pytest.raises(ValueError, match="1,001 different labels"):
        labels_of(map(str, range(1001)))
    known(None, ["a"])
    known({"label": ["a"]}, ["a", "b"])
    with pytest.raises(ValueError, match="label “c” and 1 more, which no training row has"):
        known({"label": ["a", "d", "c"]}, ["a", "b"])


def test_what_makes_no_sense_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match=r"classify needs labelled rows \(text, label\)"):
        service.validate("classify", "lora", {}, {}, "text")
    with pytest.raises(Invalid, match="writes no answers that could be checked"):
        service.validate("classify", "lora", {"answer_check": "last_integer"}, {}, "labelled", has_eval=True)
    for params, field in (({"head": "cnn"}, "head"), ({"width": 1}, "width"), ({"dropout": 1}, "dropout")):
        with pytest.raises(Invalid) as refused:
            service.validate("classify", "lora", params, {}, "labelled")
        assert refused.value.field == f"params.{field}"
    with pytest.raises(Invalid, match="classify cannot be combined with the tuner experts: A mixture of experts"):
        service.validate("classify", "experts", {}, {}, "labelled")
    assert service.validate("classify", "full", {}, {}, "labelled")[0]["learning_rate"] == 2e-5


def test_an_encoder_and_a_classifier_start_only_what_they_can(api: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        encoder = add_checkpoint(session, stack.workspace_id, name="bert", config={"task": "encoder", "model_type": "bert"})
        sorter = add_checkpoint(session, stack.workspace_id, name="sorter", kind="full", config={"task": "classifier"})
        labelled = add_dataset(session, stack.workspace_id, shape="labelled")
        answers = add_dataset(session, stack.workspace_id)
        ids = {"encoder": encoder.id, "sorter": sorter.id, "labelled": labelled.id, "answers": answers.id}
    for name, why in (("encoder", "“bert” is an encoder: it reads text and writes no text"), ("sorter", "“sorter” is a classifier")):
        run = {"method": "sft", "tuner": "lora", "checkpoint": ids[name], "dataset": ids["answers"]}
        refused = api.post("/api/v1/runs", json=run)
        assert refused.status_code == 422 and why in refused.json()["error"]["message"], refused.text
    for method, shape in (("reward", "preference"), ("score", "rated")):
        with stack.database.write() as session:
            data = add_dataset(session, stack.workspace_id, name=method, shape=shape)
            run = {"method": method, "tuner": "lora", "checkpoint": ids["encoder"], "dataset": data.id}
        refused = api.post("/api/v1/runs", json=run)
        assert refused.status_code == 422 and "only classify and features can start from it" in refused.json()["error"]["message"]
    for name in ("encoder", "sorter"):
        for method, tuner in (("classify", "lora"), ("features", "head_only")):
            run = {"method": method, "tuner": tuner, "checkpoint": ids[name], "dataset": ids["labelled"]}
            assert api.post("/api/v1/runs", json=run).status_code == 201
    told = {each["name"]: each["task"] for each in api.get("/api/v1/checkpoints").json()["data"]}
    assert (told["bert"], told["sorter"]) == ("encoder", "classifier")
