"""Features: a classifier fitted on what a frozen model makes of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from app.methods.base import BATCH, LABELS, LENGTH, Head, Objective, TrainingJob, TrainingParams
from app.methods.classify import CLASSES, HEAD, known, labels_of

UNUSED = (
    "max_steps",
    "epochs",
    "gradient_accumulation",
    "learning_rate",
    "scheduler",
    "warmup",
    "weight_decay",
    "max_grad_norm",
    "eval_steps",
    "answer_check",
    "answer_check_rows",
    "sample_tokens",
    "logging_steps",
    "save_steps",
    "precision",
    "gradient_checkpointing",
)
"""Settings of other methods that mean nothing here: nothing is trained step by step."""
_NO_RATE = 1e-3
"""Stands where a run has its learning rate."""


class FeaturesParams(TrainingParams):
    """Settings of a classifier on frozen features."""

    max_steps: int | None = Field(1, ge=1, le=1, title="Steps", json_schema_extra={"group": LENGTH})
    """It is fitted at once, which counts as one step."""
    estimator: Literal["logistic", "svm", "mlp"] = Field("logistic", title="Estimator", json_schema_extra={"group": HEAD})
    """What is fitted: `logistic` (logistic regression) gives the best probabilities, `svm` (a linear support vector machine) separates with
    the widest margin, `mlp` (one hidden layer) finds what no straight line parts and wants more rows. All are scikit-learn's."""
    c: float = Field(1.0, ge=1e-6, le=1e6, title="C", json_schema_extra={"group": HEAD})
    """How freely it may follow the training rows: less holds its weights closer to zero. 1 is scikit-learn's default; with few rows try
    0.1 or 0.01. An `mlp` is held back by the same measure."""
    width: int = Field(64, ge=1, le=4096, title="Width", json_schema_extra={"group": HEAD, "advanced": True})
    """Numbers in the hidden layer of an `mlp`."""
    iterations: int = Field(5000, ge=1, le=100_000, title="Iterations", json_schema_extra={"group": HEAD, "advanced": True})
    """Passes the estimator makes at most until it settles. The log says when they did not suffice."""
    scaling: bool = Field(True, title="Scaling", json_schema_extra={"group": HEAD, "advanced": True})
    """Bring every feature to mean 0 and spread 1 over the training rows first. Features of language models differ in size by the hundred,
    and estimators take them as they are."""
    pool: Literal["auto", "last", "mean"] = Field("auto", title="Features of a text", json_schema_extra={"group": HEAD})
    """`last` takes what the model makes of the last token, `mean` the mean over all tokens. `auto` takes the last token of a model that
    writes, which alone has read the whole text, and the mean of an encoder."""
    balance: bool = Field(False, title="Balance the classes", json_schema_extra={"group": CLASSES})
    """Let every class count the same, however many rows it has."""
    batch_size: int = Field(16, ge=1, le=4096, title="Batch size", json_schema_extra={"group": BATCH})
    """Texts that go through the model at once. It changes nothing but time and memory."""
    max_length: int = Field(512, ge=8, le=1_048_576, title="Maximum length", json_schema_extra={"group": BATCH})
    """Tokens of a text; longer ones are cut there, and so is what the model cannot read at once (512 tokens for BERT)."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        for name in UNUSED:
            schema.get("properties", {}).pop(name, None)
        return schema


class Features(Objective):
    """Reads every text once with the frozen model and fits an estimator of scikit-learn on what comes out (the feature-based way of Devlin
    et al. 2018, arXiv 1810.04805, section 5.3).

    Take it first when texts have to be sorted into classes: it needs no GPU and a few dozen rows, cannot forget anything, and what it
    reaches says whether training the model (`classify`) is worth while. What the model makes of the rows is kept with the dataset, so
    that a second run with another estimator takes seconds. The checkpoint holds the estimator alone, as numbers; it needs the model
    below it.
    """

    name = "features"
    title = "Features and a fitted classifier"
    summary = "The model stays frozen; a small classifier is fitted on what it makes of the texts. Minutes, without a GPU."
    avoid = "Not when a trained classifier is needed: this one only sees what the model sees already."
    group = LABELS
    consumes = ("labelled",)
    produces = "classifier"
    params = FeaturesParams
    head = True
    engine = "worker.engines.features:FeaturesTrainer"
    answer = "label"
    _frozen = "Its model stays frozen and an estimator is fitted beside it. To train the model, take classify."

    def refusal(self, tuner: Any) -> str | None:
        """Only the frozen model goes with it."""
        return None if "head_only" in tuner.traits else self._frozen

    def learning_rate(self, family: str) -> float:
        """Of no use: nothing is trained step by step."""
        return _NO_RATE

    def rate_with(self, tuner: Any) -> float:
        """The same, whatever the tuner."""
        return _NO_RATE

    def problems(self, params: FeaturesParams) -> Iterator[tuple[str, str]]:
        """Settings that only training step by step has."""
        for name in sorted(params.model_fields_set & set(UNUSED)):
            value = getattr(params, name)
            if value != FeaturesParams.model_fields[name].default and (name, value) != ("learning_rate", _NO_RATE):
                yield f"params.{name}", "An estimator is fitted at once, without this. Leave it out."

    def head_for(self, params: FeaturesParams, rows: Any) -> Head:
        """One that is never asked: the estimator takes its place."""
        return Head(labels_of(rows["label"]))

    def build_trainer(self, params: FeaturesParams, job: TrainingJob) -> Any:
        """Our own: what a trainer does around its steps, with a single one in which the estimator is fitted."""
        from transformers import TrainingArguments

        labels = labels_of(job.train["label"])
        known(job.evaluation, labels)
        trainer = job.trainer(job.engine)(
            model=job.model,
            args=TrainingArguments(**job.arguments),
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            params=params,
            labels=labels,
            below=job.start.get("adapter"),
            keep=job.keep,
        )
        job.facts.update(trainer.facts)
        return trainer
