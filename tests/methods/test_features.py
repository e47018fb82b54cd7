"""A classifier on frozen features: what it is fitted on, what it leaves behind, and that nothing is reckoned twice."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from app import forms
from app.errors import Invalid
from app.methods import service
from app.methods.features import UNUSED, FeaturesParams
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_dataset
from tests.methods import child, toys
from tests.methods.test_classify import CLASSES, few, texts, tiny_bert
from tests.models import tiny_llama_folder


def fit(folder: Path, make: Any = few, start: dict[str, Any] | None = None, **params: Any) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The fitted checkpoint as a worker finds it, what was reported, and the spec."""
    job = toys.spec(folder, "features", "head_only", make)
    job |= {"params": params, "model": start or job["model"]}
    _, report = child.run(job)
    return {"path": job["model"]["path"], "adapter": report.of("checkpoint")[-1]["folder"], "name": "it"}, report, job


def figures(checkpoint: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Loss and accuracy of a checkpoint that is loaded again."""
    from worker import classifying

    mine = classifying.load(checkpoint)
    found = np.array(classifying.predict(mine, [row["text"] for row in rows], batch_size=7))
    targets = [mine.labels.index(row["label"]) for row in rows]
    return float(-np.log(found[np.arange(len(rows)), targets]).mean()), float(np.mean(found.argmax(axis=1) == targets))


@pytest.mark.train
@pytest.mark.parametrize("estimator", ["logistic", "svm", "mlp"])
def test_it_sorts_texts_it_has_not_seen_in_one_step_and_leaves_only_numbers(tmp_path: Path, estimator: str) -> None:
    pytest.importorskip("torch")
    from safetensors.numpy import load_file

    checkpoint, report, _ = fit(tmp_path, texts, estimator=estimator, iterations=300)
    assert report.of("total")[0]["steps"] == 1 and [each["step"] for each in report.of("step")] == [1]
    assert report.curve("eval_accuracy")[1] > 0.9 and report.curve("accuracy")[1] > 0.95
    assert {"loss", "tokens", "elapsed_seconds"} <= {name for each in report.of("metrics") for name in each["values"]}
    (told,) = report.of("checkpoint")
    assert (told["step"], told["task"], told["tuner_kind"], told["peft_type"]) == (1, "classifier", "adapter", "FEATURES")
    folder = Path(checkpoint["adapter"])
    assert sorted(file.name for file in folder.iterdir()) == ["MANIFEST.json", "confusion.json", "head.json", "head.safetensors"]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 200_000, "no copy of the model"
    facts = json.loads((folder / "head.json").read_text())
    assert (facts["estimator"], facts["pool"], facts["labels"]) == (estimator, "last", list(CLASSES))
    kept = load_file(folder / "head.safetensors")
    fitted = sum(values.size for name, values in kept.items() if name.startswith(("coef", "intercept")))
    assert report.of("resolved")[0]["config"]["trainable_parameters"] == fitted
    loss, accuracy = figures(checkpoint, texts(100, 2))
    assert loss == pytest.approx(report.curve("eval_loss")[1], abs=1e-5) and accuracy == pytest.approx(report.curve("eval_accuracy")[1])
    table = json.loads((folder / "confusion.json").read_text())
    assert np.trace(table["rows"]) / 100 == pytest.approx(accuracy) and table["step"] == 1


@pytest.mark.every
@pytest.mark.train
@pytest.mark.parametrize("estimator", ["logistic", "svm", "mlp"])
def test_balanced_classes_count_the_same(tmp_path: Path, estimator: str) -> None:
    pytest.importorskip("torch")
    from worker import classifying

    def rare(count: int, seed: int) -> list[dict[str, Any]]:
        return [{**row, "label": "often" if number % 8 else "rarely"} for number, row in enumerate(texts(count // 4, seed))]

    shares = []
    for balance in (False, True):
        checkpoint, _, _ = fit(tmp_path / str(balance), rare, estimator=estimator, c=0.01, balance=balance, width=4, iterations=300)
        found = np.array(classifying.predict(checkpoint, [row["text"] for row in texts(50, 3)]))
        shares.append(found[:, 1].mean())
    assert shares[1] > 1.1 * shares[0], "a class that is rare is expected more often"


@pytest.mark.train
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["logistic", "svm", "mlp"])
def test_an_estimator_comes_back_as_it_was(tmp_path: Path, name: str, classes: int) -> None:
    pytest.importorskip("torch")
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from worker.engines.features import Fitted, new

    warnings.simplefilter("ignore", ConvergenceWarning)
    draw = np.random.default_rng(0)
    features = (draw.normal(size=(90, 8)) * [1, 50, 1, 1, 1, 1, 1, 1] + 3).astype(np.float32)
    targets = np.arange(90) % classes
    features[:, 0] += targets
    wide = features.astype(np.float64)
    estimator = new(name, c=0.7, width=5, iterations=200, seed=3, balance=False)
    before = Fitted(estimator, "mean", wide.mean(axis=0), wide.std(axis=0))
    estimator.fit(before._ready(features), targets)
    before.write(tmp_path)
    after = Fitted.read(tmp_path, {"estimator": name, "pool": "mean"})
    asked = (features[::-1] * 1.1).astype(np.float32)
    assert np.array_equal(after.classes(asked), before.classes(asked)) and len(set(after.classes(asked))) == classes
    assert np.array_equal(after.probabilities(asked), before.probabilities(asked))
    assert after.probabilities(asked).shape == (90, classes) and np.allclose(after.probabilities(asked).sum(axis=1), 1)
    assert np.array_equal(after.probabilities(asked).argmax(axis=1), after.classes(asked))
    plain = make_pipeline(StandardScaler(), new(name, c=0.7, width=5, iterations=200, seed=3, balance=False)).fit(wide, targets)
    assert np.array_equal(plain.predict(asked.astype(np.float64)), after.classes(asked)), "as a script with scikit-learn would have it"


@pytest.mark.train
def test_features_are_the_last_token_or_the_mean_whatever_the_batch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    import torch
    from transformers import AutoModel

    from app.methods.base import Head
    from worker import classifying, loading

    folder = str(tiny_llama_folder())
    tokenizer, plain = loading.load_tokenizer(folder), AutoModel.from_pretrained(folder).eval()
    model = loading.load_model(folder, None, "float32", head=Head(("a", "b")))
    tokens = [classifying.token_ids(tokenizer, text, 12) for text in ("a", "some words", "more than fits into it")]
    assert [len(each) for each in tokens] == [1, 10, 12]
    hidden = [plain(input_ids=torch.tensor([each])).last_hidden_state[0].detach().numpy() for each in tokens]
    for pool, expected in (("last", [each[-1] for each in hidden]), ("mean", [each.mean(axis=0) for each in hidden])):
        for size in (1, 3):
            found = classifying.embed(model, tokens, pool, tokenizer.pad_token_id, batch_size=size)
            assert np.abs(found - np.array(expected)).max() < 1e-5
    assert classifying.token_ids(tokenizer, "", 12) == [0], "a text without a token"


@pytest.mark.train
def test_what_was_reckoned_is_kept_with_the_rows_and_nothing_stale_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from worker.engines import features

    monkeypatch.setattr(features, "BLOCK", 16)
    seen: list[int] = []
    plain = features.embed

    def counted(model: Any, tokens: Any, *args: Any, **options: Any) -> Any:
        seen.append(len(tokens))
        return plain(model, tokens, *args, **options)

    def again(**params: Any) -> int:
        """How many texts go through the model."""
        seen.clear()
        child.run({**job, "params": params})
        return sum(seen)

    monkeypatch.setattr(features, "embed", counted)
    _, first, job = fit(tmp_path)
    assert sum(seen) == 44 and max(seen) == 16
    place = tmp_path / "features"
    assert again(estimator="svm", c=0.1) == 0, "another estimator on the same features"
    assert again(pool="mean") == 44 and again(max_length=16) == 44 and again() == 0
    file = next(each for each in place.rglob("*.safetensors"))
    kind = next(each for each in place.iterdir() if len(list(each.iterdir())) == 3 and each != file.parent)
    next(kind.iterdir()).write_bytes(b"torn")
    assert sum(again(**params) for params in ({}, {"pool": "mean"}, {"max_length": 16})) in (12, 16), "a torn file is reckoned again"
    lines = Path(job["train"]["path"]).read_text().splitlines()
    row = json.loads(lines[0])
    row["row"]["text"] += " more"
    Path(job["train"]["path"]).write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    assert again() == 16, "one text of a block is another"
    for length in (20, 24, 28):
        again(max_length=length)
    assert len(list(place.iterdir())) == features.KEPT and not [each for each in place.rglob("*") if each.name.startswith(".")]
    _, same, _ = fit(tmp_path / "elsewhere")
    assert same.curve("loss") == first.curve("loss") and same.curve("eval_loss") == first.curve("eval_loss")


@pytest.mark.train
def test_a_run_that_is_done_is_not_done_again_and_the_same_run_gives_the_same_numbers(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    checkpoint, _, job = fit(tmp_path / "a", estimator="mlp", iterations=20)
    result, report = child.run(child.resumed(job, 1, tmp_path))
    assert result == {"outcome": "finished", "step": 1} and not report.of("checkpoint")
    other, _, _ = fit(tmp_path / "b", estimator="mlp", iterations=20)
    weights = [(Path(each["adapter"]) / "head.safetensors").read_bytes() for each in (checkpoint, other)]
    assert weights[0] == weights[1]


@pytest.mark.every
@pytest.mark.train
def test_it_starts_from_an_adapter_and_from_an_encoder_and_others_start_from_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from worker import rewards
    from worker.reporting import Failed

    _, tuned = child.run(child.spec(tmp_path / "sft", "sft", "lora", params={"max_steps": 2, "learning_rate": 0.05}))
    start = {"path": str(tiny_llama_folder()), "adapter": tuned.of("checkpoint")[-1]["folder"], "name": "tuned"}
    checkpoint, report, _ = fit(tmp_path / "on-adapter", start=start)
    _, bare, _ = fit(tmp_path / "bare")
    told = report.of("checkpoint")[-1]
    assert (told["task"], told["peft_type"]) == ("classifier", "LORA"), "it brings the adapter it was fitted on"
    loss, accuracy = figures(checkpoint, few(100, 2))
    assert (loss, accuracy) == pytest.approx((report.curve("eval_loss")[1], report.curve("eval_accuracy")[1]), abs=1e-3)
    assert abs(loss - bare.curve("eval_loss")[1]) > 0.01
    for name, begin in (("lora", checkpoint), ("plain", {**checkpoint, "adapter": bare.of("checkpoint")[-1]["folder"]})):
        with pytest.raises(Failed, match="gives classes and no text"):
            child.run({**child.spec(tmp_path / f"sft-{name}", "sft", "lora"), "model": begin})
        with pytest.raises(Failed, match="classes and no scores"):
            rewards.load(begin)
        result, _ = child.run({**child.spec(tmp_path / f"classify-{name}", "classify", "lora", params={"max_steps": 1}), "model": begin})
        assert result["outcome"] == "finished"
    encoder = {"path": str(tiny_bert(tmp_path / "bert")), "adapter": None, "name": "bert"}
    checkpoint, report, _ = fit(tmp_path / "on-bert", start=encoder)
    assert json.loads((Path(checkpoint["adapter"]) / "head.json").read_text())["pool"] == "mean"
    assert figures(checkpoint, few(100, 2))[0] == pytest.approx(report.curve("eval_loss")[1], abs=1e-5)


@pytest.mark.train
def test_what_it_cannot_learn_from_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("torch")
    from worker.reporting import Failed

    with pytest.raises(Failed, match=r"all rows have the same label \(a\)"):
        fit(tmp_path / "one", lambda count, seed: [{**row, "label": "a"} for row in few(count, seed)])
    with pytest.raises(Failed, match="evaluation rows have the label “b!”"):
        fit(tmp_path / "new", lambda count, seed: [{**row, "label": "b!" if seed == 2 else row["label"]} for row in few(count, seed)])
    fit(tmp_path / "cut", estimator="mlp", iterations=1)
    assert "has not settled within 1 iterations" in caplog.text


def test_settings_that_mean_nothing_are_neither_shown_nor_taken() -> None:
    shown = {field.name for group in forms.groups(FeaturesParams, "params", {}, {}) for field in group.fields}
    assert {"estimator", "c", "pool", "batch_size"} <= {name.removeprefix("params.") for name in shown}
    assert not {name.removeprefix("params.") for name in shown} & set(UNUSED)
    for name, value in (("epochs", 3), ("learning_rate", 0.1), ("gradient_checkpointing", "on")):
        with pytest.raises(Invalid, match="fitted at once") as refused:
            service.validate("features", "head_only", {name: value}, {}, "labelled")
        assert refused.value.field == f"params.{name}"
    stored, _ = service.validate("features", "head_only", {"c": 0.1}, {}, "labelled")
    assert service.validate("features", "head_only", stored, {}, "labelled")[0] == stored, "what was filled in is taken again"
    for params, field in (({"estimator": "tree"}, "estimator"), ({"c": 0}, "c"), ({"pool": "max"}, "pool")):
        with pytest.raises(Invalid) as wrong:
            service.validate("features", "head_only", params, {}, "labelled")
        assert wrong.value.field == f"params.{field}"
    with pytest.raises(Invalid, match=r"stays frozen and an estimator is fitted beside it.*Take one of: head_only"):
        service.validate("features", "lora", {}, {}, "labelled")
    with pytest.raises(Invalid, match="features needs labelled rows"):
        service.validate("features", "head_only", {}, {}, "chat")


def test_a_committed_one_is_found_with_the_model_below_it(stack: Stack) -> None:
    from app import storage
    from app.checkpoints import heads
    from app.checkpoints import service as checkpoints
    from tests.factories import add_run

    with stack.database.write() as session:
        run = add_run(session, stack.workspace_id, method="features", tuner="head_only")
        made = checkpoints.commit_run_checkpoint(
            session,
            workspace_id=stack.workspace_id,
            run_id=run.id,
            name="sorter",
            step=1,
            attempt=1,
            kind="adapter",
            base_id=run.checkpoint_id,
            path="runs/x/checkpoints/1",
            manifest={"files": {}},
            metrics={},
            created_by=None,
            task="classifier",
            peft_type="FEATURES",
        )
        assert (heads.task_of(made), heads.adapter_type(made)) == ("classifier", heads.FEATURES)
        base = checkpoints.get(session, stack.workspace_id, run.checkpoint_id)
        base.path = "checkpoints/base"
        found = checkpoints.training_paths(session, made)
        assert found == {"path": str(checkpoints.folder_of(base)), "adapter": str(storage.path("runs/x/checkpoints/1")), "name": "sorter"}
        assert made not in checkpoints.list_checkpoints(session, stack.workspace_id, writing=True)


def test_its_checkpoint_sits_on_the_model_and_other_runs_may_start_from_it(api: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        base = add_checkpoint(session, stack.workspace_id)
        config = {"task": "classifier", "peft_type": "FEATURES"}
        fitted = add_checkpoint(session, stack.workspace_id, name="sorter", kind="adapter", base_id=base.id, config=config)
        ids = {"checkpoint": fitted.id, "dataset": add_dataset(session, stack.workspace_id, shape="labelled").id}
        base_id = base.id
    for method, tuner in (("classify", "lora"), ("classify", "full"), ("classify", "prefix"), ("features", "head_only")):
        planned = api.post("/api/v1/runs/plan", json={"method": method, "tuner": tuner, **ids})
        assert planned.status_code == 200 and (planned.json()["steps"] == 1) is (method == "features"), planned.text
        made = api.post("/api/v1/runs", json={"method": method, "tuner": tuner, **ids})
        assert made.status_code == 201, made.text
    assert api.delete(f"/api/v1/checkpoints/{base_id}").status_code == 409, "it needs its model"
