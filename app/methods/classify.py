"""Classifier: learn the class of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from app.methods.base import BATCH, LABELS, Head, Objective, TrainingJob, TrainingParams

HEAD = "Head"
CLASSES = "Classes"
MOST_CLASSES = 1000
_WHOLE = re.compile(r"-?\d+")


class ClassifyParams(TrainingParams):
    """Settings of a classifier."""

    max_length: int = Field(512, ge=8, le=1_048_576, title="Maximum length", json_schema_extra={"group": BATCH})
    """Tokens of a text; longer ones are cut there, and so is what the model cannot read at once (512 tokens for BERT)."""
    head: Literal["linear", "mlp"] = Field("linear", title="Layers of the head", json_schema_extra={"group": HEAD})
    """`linear` is one layer, which every program loads. `mlp` puts a hidden layer before it, for classes that no straight line parts when
    the model below stays frozen; Luthier loads it, and transformers alone refuses it."""
    width: int = Field(256, ge=2, le=16_384, title="Width", json_schema_extra={"group": HEAD, "advanced": True})
    """Numbers in the hidden layer of an `mlp` head."""
    dropout: float = Field(0.1, ge=0, lt=1, title="Dropout", json_schema_extra={"group": HEAD, "advanced": True})
    """Share of the numbers in the hidden layer of an `mlp` head that is dropped at random in training; 0.1 as in BERT."""
    balance: bool = Field(False, title="Balance the classes", json_schema_extra={"group": CLASSES})
    """Let every class count the same in training, however many rows it has. Rare classes are then found more often, at the price of more
    false finds; the loss on the evaluation rows stays that of the rows as they are."""


class Classify(Objective):
    """Puts a head on the model that gives one number for each class, and trains it with as much of the model as the tuner says. In a model
    that writes it reads the last token of the text; in a BERT-like encoder, the first (Devlin et al. 2018, arXiv 1810.04805).

    Take it where texts have one of a few known classes and some hundred rows are there: it is smaller, quicker and more exact than asking
    a model that writes. With the tuner `head_only` it is the classic frozen trunk with a new head; with few rows and no wish to tune,
    `features` is quicker still. The checkpoint gives probabilities of classes and no text. Classes are those of the training rows.
    """

    name = "classify"
    title = "Classifier"
    summary = "Learn the class of a text from labelled rows. The result gives classes, not answers."
    avoid = "Not when the answer has to be written: the result names a class and nothing else."
    group = LABELS
    consumes = ("labelled",)
    produces = "classifier"
    params = ClassifyParams
    head = True
    engine = "worker.engines.classify:ClassifyTrainer"
    answer = "label"
    refuses: ClassVar[Mapping[str, str]] = {
        "experts": "A mixture of experts is made of models that write text.",
        "mixture": "Its adapters write text.",
    }

    def learning_rate(self, family: str) -> float:
        """3e-4 for adapters, as for a reward model; 2e-5 for whole models, as for BERT (arXiv 1810.04805)."""
        return 3e-4 if family == "adapter" else 2e-5

    def head_for(self, params: ClassifyParams, rows: Any) -> Head:
        """A number for each class of the training rows."""
        labels = labels_of(rows["label"])
        if params.head == "linear":
            return Head(labels)
        if params.width == len(labels):
            raise ValueError(
                f"width is {params.width}, the number of classes; set it to another number, so that the layers can be told apart"
            )
        return Head(labels, params.width, params.dropout)

    def build_trainer(self, params: ClassifyParams, job: TrainingJob) -> Any:
        """Our own trainer: cross-entropy over the classes."""
        from transformers import TrainingArguments

        head = self.head_for(params, job.train)
        known(job.evaluation, head.labels)
        job.facts.update(labels=list(head.labels), head={"width": head.width, "dropout": head.dropout})
        trainer = job.trainer(job.engine)(
            model=job.model,
            args=TrainingArguments(**job.arguments),
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
            max_length=params.max_length,
            labels=head.labels,
            balance=params.balance,
        )
        job.facts["max_length"] = trainer.max_length
        return trainer


def labels_of(names: Iterable[str]) -> tuple[str, ...]:
    """The classes there are, sorted: by size where all are whole numbers, else by name.

    Raises:
        ValueError: there is only one, so that there is nothing to learn, or there are far too many.
    """
    found = set(names)
    if len(found) == 1:
        raise ValueError(f"all rows have the same label ({_shown(min(found))}), so there is nothing to learn from them")
    if len(found) > MOST_CLASSES:
        raise ValueError(
            f"the rows have {len(found):,} different labels, and at most {MOST_CLASSES:,} can be learned; check the column “label”"
        )
    if all(_WHOLE.fullmatch(each) for each in found):
        return tuple(sorted(found, key=lambda each: (int(each), each)))
    return tuple(sorted(found))


def known(rows: Any, labels: Iterable[str]) -> None:
    """Refuse evaluation rows of a class that nobody can learn.

    Raises:
        ValueError: a label is in no training row; the message names it.
    """
    strange = sorted(set(rows["label"]) - set(labels)) if rows is not None else []
    if strange:
        more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
        raise ValueError(
            f"evaluation rows have the label “{_shown(strange[0])}”{more}, which no training row has; "
            "add such rows to the training rows, or leave them out"
        )


def _shown(label: str) -> str:
    return label if len(label) <= 60 else f"{label[:59]}…"
