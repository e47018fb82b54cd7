"""Estimators of scikit-learn on frozen features: the trainer of the objective `features`, and what it leaves behind. Trains no weights."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import Trainer, TrainingArguments

from app.checkpoints.heads import FEATURES, is_encoder
from worker import heads
from worker.classifying import Array, embed, readable, token_ids
from worker.engines.classify import confusion, judged, told, write_confusion

log = logging.getLogger(__name__)

WEIGHTS = "head.safetensors"
BLOCK = 1024
"""Rows whose features are kept in one file."""
KEPT = 4
"""Kinds of features (of a model, a length and a pooling) that are kept for the same rows; older ones go."""


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator with what has to be done to features before."""

    estimator: Any
    pool: str
    mean: Array | None
    scale: Array | None
    """Mean and spread of each feature over the training rows; None where features are taken as they are."""

    def probabilities(self, features: Array) -> Array:
        """Probability of each class, for each row. A support vector machine knows none: those are made from its distances."""
        ready = self._ready(features)
        if hasattr(self.estimator, "predict_proba"):
            found: Array = self.estimator.predict_proba(ready)
            return found
        far = self.estimator.decision_function(ready)
        far = np.stack([-far / 2, far / 2], axis=1) if far.ndim == 1 else far
        powers = np.exp(far - far.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    def classes(self, features: Array) -> Array:
        """The class of each row, as a number."""
        found: Array = self.estimator.predict(self._ready(features))
        return found

    def _ready(self, features: Array) -> Array:
        wide = features.astype(np.float64)
        return wide if self.mean is None or self.scale is None else (wide - self.mean) / self.scale

    def write(self, folder: Path) -> None:
        """Keep it as plain numbers; no program is stored, so that opening it runs none."""
        kept = {"classes": np.asarray(self.estimator.classes_, dtype=np.int64)}
        if self.mean is not None and self.scale is not None:
            kept |= {"mean": self.mean, "scale": self.scale}
        layers = (self.estimator.coefs_, self.estimator.intercepts_) if _is_mlp(self.estimator) else _single(self.estimator)
        for number, (coefficients, intercepts) in enumerate(zip(*layers, strict=True)):
            kept |= {f"coef.{number}": coefficients, f"intercept.{number}": intercepts}
        save_file({name: np.ascontiguousarray(values) for name, values in kept.items()}, folder / WEIGHTS)

    @classmethod
    def read(cls, folder: Path, facts: Mapping[str, Any]) -> Fitted:
        """The estimator again, from its numbers and what `head.json` says of it."""
        kept = load_file(folder / WEIGHTS)
        layers = [(kept[f"coef.{number}"], kept[f"intercept.{number}"]) for number in range(sum(name.startswith("coef.") for name in kept))]
        estimator = _rebuilt(str(facts["estimator"]), layers, kept["classes"])
        return cls(estimator, str(facts["pool"]), kept.get("mean"), kept.get("scale"))


def _is_mlp(estimator: Any) -> bool:
    return hasattr(estimator, "coefs_")


def _single(estimator: Any) -> tuple[list[Array], list[Array]]:
    return [estimator.coef_], [estimator.intercept_]


def _rebuilt(name: str, layers: Sequence[tuple[Array, Array]], classes: Array) -> Any:
    """An estimator of scikit-learn as it was after fitting, as far as predicting goes."""
    from sklearn.preprocessing import LabelBinarizer

    inner = len(layers[0][1]) if name == "mlp" else 1
    made = new(name, c=1.0, width=inner, iterations=1, seed=0, balance=False)
    made.classes_ = classes
    if name != "mlp":
        made.coef_, made.intercept_ = layers[0]
        made.n_features_in_ = made.coef_.shape[1]
        return made
    made.coefs_, made.intercepts_ = [each[0] for each in layers], [each[1] for each in layers]
    made.n_features_in_, made.n_outputs_, made.n_layers_ = len(layers[0][0]), len(layers[-1][1]), len(layers) + 1
    made.out_activation_ = "logistic" if made.n_outputs_ == 1 else "softmax"
    made._label_binarizer = LabelBinarizer().fit(classes)
    return made


def new(name: str, *, c: float, width: int, iterations: int, seed: int, balance: bool) -> Any:
    """An estimator that is not fitted yet."""
    weights = "balanced" if balance else None
    if name == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=c, max_iter=iterations, class_weight=weights, random_state=seed)
    if name == "svm":
        from sklearn.svm import LinearSVC

        return LinearSVC(C=c, max_iter=iterations, class_weight=weights, random_state=seed)
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((width,), alpha=1 / c, max_iter=iterations, random_state=seed)  # its penalty is that of 1 / C, over rows


def numbers(params: Any, features: int, classes: int) -> int:
    """How many numbers an estimator is made of; for two classes one side is enough."""
    outputs = 1 if classes == 2 else classes
    if params.estimator != "mlp":
        return (features + 1) * outputs
    return (features + 1) * int(params.width) + (int(params.width) + 1) * outputs


class FeaturesTrainer(Trainer):
    """Embeds the rows, fits the estimator and saves it: one step, with all that happens around the steps of other trainers."""

    tokens_seen = 0

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        train_dataset: Any,
        eval_dataset: Any,
        processing_class: Any,
        params: Any,
        labels: Sequence[str],
        below: str | None,
        keep: str | None,
    ) -> None:
        try:
            import sklearn  # noqa: F401
        except ImportError:
            raise ValueError("this worker has no scikit-learn; run `pip install 'luthier[train]'` there") from None
        model.requires_grad_(False)
        count = numbers(params, int(model.config.get_text_config().hidden_size), len(labels))
        setattr(model, str(heads.name_of(model)), torch.nn.ParameterList([torch.zeros(count)]))  # counted as what is trained
        super().__init__(model=model, args=args, train_dataset=train_dataset, eval_dataset=eval_dataset, processing_class=processing_class)
        self.params, self.labels, self.below = params, tuple(labels), below
        self.pool = params.pool if params.pool != "auto" else "mean" if is_encoder(model.config.to_dict()) else "last"
        self.max_length = readable(model, params.max_length)
        self.fitted: Fitted | None = None
        self._store = Store(Path(keep) if keep else None, model, self.pool, self.max_length)
        self._confusion: dict[str, Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What has to be known to use the estimator."""
        known = {"kind": FEATURES, "estimator": self.params.estimator, "pool": self.pool, "scaling": self.params.scaling}
        return {**known, "labels": list(self.labels), "max_length": self.max_length}

    def get_train_dataloader(self) -> Any:
        """There is none: all rows are taken at once."""
        return None

    def set_initial_training_values(self, *_: Any) -> tuple[int, ...]:
        """One step."""
        return (1,)

    def train(self, resume_from_checkpoint: str | bool | None = None, **_: Any) -> None:
        """Embed and fit, with the calls that a trainer makes around a step."""
        tell: Any = self.callback_handler
        args, state = self.args, self.state
        state.max_steps = 1
        self.control: Any = tell.on_train_begin(args, state, self.control)
        self.control = tell.on_step_begin(args, state, self.control)
        figures = self._fit()
        state.global_step, state.epoch = 1, 1.0
        self.control = tell.on_step_end(args, state, self.control)
        if self.control.should_log:
            self.log(figures)
        if self.control.should_evaluate:
            self.evaluate()
        if self.control.should_save:
            self._save_checkpoint(self.model, None)
            self.control = tell.on_save(args, state, self.control)
        self.control = tell.on_train_end(args, state, self.control)

    def _fit(self) -> dict[str, float]:
        from sklearn.exceptions import ConvergenceWarning

        asked = self.params
        features, targets = self._embedded(self.train_dataset), self._targets(self.train_dataset)
        mean = scale = None
        if asked.scaling:
            wide = features.astype(np.float64)
            mean, scale = wide.mean(axis=0), wide.std(axis=0)
            scale[scale < 1e-12] = 1.0  # a feature that never varies
        estimator = new(
            asked.estimator, c=asked.c, width=asked.width, iterations=asked.iterations, seed=self.args.seed, balance=asked.balance
        )
        self.fitted = Fitted(estimator, self.pool, mean, scale)
        options = {}
        if asked.balance and asked.estimator == "mlp":  # the others weigh classes themselves
            counts = np.bincount(targets)
            options["sample_weight"] = (len(targets) / (len(counts) * counts))[targets]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            estimator.fit(self.fitted._ready(features), targets, **options)
        if any(issubclass(each.category, ConvergenceWarning) for each in caught):
            log.warning("The estimator has not settled within %d iterations. Raise iterations, or lower c.", asked.iterations)
        return {"loss": self._loss(features, targets), "accuracy": float(np.mean(self.fitted.classes(features) == targets))}

    def _loss(self, features: Array, targets: Array) -> float:
        assert self.fitted is not None
        found = self.fitted.probabilities(features)[np.arange(len(targets)), targets]
        return float(-np.log(np.clip(found, 1e-15, None)).mean())

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Loss, accuracy and F1 on the evaluation rows."""
        assert self.fitted is not None
        features, targets = self._embedded(self.eval_dataset), self._targets(self.eval_dataset)
        table = confusion(self.fitted.classes(features), targets, len(self.labels))
        self._confusion = told(table, self.labels, int(self.state.global_step))
        figures = {"eval_loss": self._loss(features, targets), **judged(table, self.labels)}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _targets(self, rows: Any) -> Array:
        numbers = {label: number for number, label in enumerate(self.labels)}
        return np.array([numbers[label] for label in rows["label"]])

    def _embedded(self, rows: Any) -> Array:
        """The features of rows, a block at a time, so that what was reckoned before a kill is not lost."""
        tokens = [token_ids(self.processing_class, text, self.max_length) for text in rows["text"]]
        self.tokens_seen += sum(map(len, tokens))
        pad, size = self.processing_class.pad_token_id, self.args.per_device_eval_batch_size
        parts = []
        for start in range(0, len(tokens), BLOCK):
            block = tokens[start : start + BLOCK]
            kept = self._store.get(block)
            if kept is None:
                kept = embed(self.model, block, self.pool, pad, batch_size=size)
                self._store.put(block, kept)
            parts.append(kept)
            log.info("Read %d of %d texts", start + len(block), len(tokens))
        return np.concatenate(parts)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The estimator, and the adapter that the model had below it, whose weights are in no other folder that the studio would name."""
        assert self.fitted is not None
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        folder.mkdir(parents=True, exist_ok=True)
        self.fitted.write(folder)
        write_confusion(folder, self._confusion)
        if self.below and (Path(self.below) / "adapter_config.json").is_file():
            for file in [Path(self.below) / "adapter_config.json", *Path(self.below).glob("adapter_model*")]:
                shutil.copyfile(file, folder / file.name)


class Store:
    """Keeps features beside the training rows, and goes with them. Files are named by the hash of all that they depend on: the model's
    weights, the pooling and the tokens."""

    def __init__(self, folder: Path | None, model: Any, pool: str, max_length: int) -> None:
        self._model, self._pool = model, f"{pool} {max_length}"
        self._root, self._folder = folder, None if folder is None else folder / "unknown"
        self._known = False

    def get(self, block: Sequence[Sequence[int]]) -> Array | None:
        """The features of these texts, if they were kept."""
        file = self._file(block)
        try:
            return load_file(file)["features"] if file is not None and file.is_file() else None
        except (OSError, KeyError, SafetensorError):
            return None  # reckoned again

    def put(self, block: Sequence[Sequence[int]], features: Array) -> None:
        """Keep features; a disk that does not take them costs time later and nothing else."""
        file = self._file(block)
        if file is None:
            return
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"features": features}, temporary)
            os.replace(temporary, file)
            self._forget_old()
        except (OSError, SafetensorError) as error:
            log.warning("The features cannot be kept for the next run: %s", error)
            temporary.unlink(missing_ok=True)

    def _file(self, block: Sequence[Sequence[int]]) -> Path | None:
        if self._root is None:
            return None
        if not self._known:
            self._folder, self._known = self._root / _hash_of(self._model, self._pool), True
        digest = hashlib.sha256()
        for row in block:
            digest.update(np.asarray([len(row), *row], dtype="<i8").tobytes())
        assert self._folder is not None
        return self._folder / f"{digest.hexdigest()}.safetensors"

    def _forget_old(self) -> None:
        assert self._root is not None
        kinds = sorted((each for each in self._root.iterdir() if each.is_dir()), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in kinds[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _hash_of(model: Any, pool: str) -> str:
    """Hash of the weights below the head, bit by bit, and of how texts are read: no name or date could be trusted as much."""
    digest = hashlib.sha256(pool.encode())
    for name, weight in sorted(model.base_model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
