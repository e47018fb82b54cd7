"""What an objective declares: the rows it takes, its settings, the trainer that learns. Trains nothing; a worker does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from app.tuners.base import Tuner

ANSWERS = "You have good answers"
RATINGS = "You have ratings of answers"
REWARDS = "You have prompts, and a way to score answers"
LABELS = "You have texts with labels"
TEACHER = "You have a better model"
TEXT = "You have plain text"
GROUPS = (ANSWERS, RATINGS, REWARDS, LABELS, TEACHER, TEXT)
"""What people have, in the order methods are offered in."""
LENGTH, BATCH, OPTIMISER, CHECKS, SAVING, DEVICE = "Length", "Batch", "Optimiser", "Checks while training", "Checkpoints", "Device"


def _in(group: str, *, advanced: bool = False) -> dict[str, Any]:
    return {"group": group, "advanced": True} if advanced else {"group": group}


class TrainingParams(BaseModel):
    """Settings every objective has; the docstring under each field is its help text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    max_steps: int | None = Field(None, ge=1, le=10_000_000, title="Steps", json_schema_extra=_in(LENGTH))
    """Optimiser steps to make. Empty: as many as the epochs take."""
    epochs: float = Field(1.0, gt=0, le=1000, title="Epochs", json_schema_extra=_in(LENGTH))
    """Passes over the training rows, unless the steps are given. 1 to 3 is usual; with few rows more help, until the evaluation loss
    rises again."""
    batch_size: int = Field(8, ge=1, le=4096, title="Batch size", json_schema_extra=_in(BATCH))
    """Rows (pairs, where rows are compared) that go through the model at once. More is steadier and needs more memory."""
    gradient_accumulation: int = Field(1, ge=1, le=4096, title="Gradient accumulation", json_schema_extra=_in(BATCH))
    """Batches added up before each optimiser step: the effective batch is this times the batch size, at the memory of one."""
    max_length: int = Field(1024, ge=8, le=1_048_576, title="Maximum length", json_schema_extra=_in(BATCH))
    """Tokens of prompt and answer together; longer rows are cut there, and rows with nothing left to learn are left out."""
    learning_rate: float | None = Field(None, gt=0, le=1, title="Learning rate", json_schema_extra=_in(OPTIMISER))
    """How far each step moves the weights. Empty: what suits the method and the tuner. Too high and the loss jumps about, too low and
    nothing is learned."""
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = Field(
        "cosine", title="Schedule", json_schema_extra=_in(OPTIMISER, advanced=True)
    )
    """How the learning rate goes on after the warm-up; cosine falls slowly, then fast, then slowly to zero."""
    warmup: float = Field(0.03, ge=0, le=100_000, title="Warm-up", json_schema_extra=_in(OPTIMISER, advanced=True))
    """Steps over which the learning rate rises from zero. Below 1 it is a share of all steps (0.03 as in Alpaca and QLoRA), else a number
    of steps."""
    weight_decay: float = Field(0.0, ge=0, le=1, title="Weight decay", json_schema_extra=_in(OPTIMISER, advanced=True))
    """How strongly AdamW pulls the trained weights towards zero."""
    max_grad_norm: float = Field(1.0, ge=0, le=1000, title="Gradient clipping", json_schema_extra=_in(OPTIMISER, advanced=True))
    """Longest gradient; longer ones are shortened to it. 0 switches this off."""
    eval_steps: int = Field(50, ge=1, le=10_000_000, title="Evaluate every", json_schema_extra=_in(CHECKS))
    """Steps between evaluations: the loss on the evaluation rows, if there are any, and answers to a few fixed prompts."""
    answer_check: Literal["none", "last_integer"] = Field("none", title="Answer check", json_schema_extra=_in(CHECKS))
    """Compare answers to the evaluation rows before and after training. `last_integer`: right when the last whole number of the greedy
    answer is that of the row."""
    answer_check_rows: int = Field(200, ge=1, le=10_000, title="Rows to check", json_schema_extra=_in(CHECKS, advanced=True))
    """How many evaluation rows the answer check asks, from the first on."""
    sample_tokens: int = Field(64, ge=1, le=4096, title="Length of samples", json_schema_extra=_in(CHECKS, advanced=True))
    """Tokens a sample answer and a checked answer may have at most."""
    logging_steps: int = Field(1, ge=1, le=100_000, title="Log every", json_schema_extra=_in(CHECKS, advanced=True))
    """Steps between points of the curves; each point is the mean of the steps since the last one."""
    save_steps: int = Field(50, ge=1, le=10_000_000, title="Save every", json_schema_extra=_in(SAVING))
    """Steps between checkpoints. A run that is killed goes on from the last one, so at most this many steps are done again."""
    keep_checkpoints: int = Field(3, ge=0, le=10_000, title="Checkpoints to keep", json_schema_extra=_in(SAVING))
    """The newest stay, and among them the one with the lowest evaluation loss. 0 keeps all."""
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", title="Precision", json_schema_extra=_in(DEVICE, advanced=True))
    """`auto` holds frozen weights in bfloat16 where the device reckons in it; trained weights always have 32 bits. `fp32` is exact and
    slower."""
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", title="Gradient checkpointing", json_schema_extra=_in(DEVICE, advanced=True)
    )
    """Reckon activations twice rather than keep them: about a fifth slower, far less memory. `auto` does so when memory would not
    suffice."""


@dataclass(frozen=True)
class Head:
    """What is put on a model in place of the next token: it gives one number, or one for each class."""

    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of their numbers; none where it gives a single number."""
    width: int = 0
    """Numbers between its two layers; 0 where it has one layer."""
    dropout: float = 0.0
    """Share of those numbers that is dropped at random in training."""


@dataclass
class TrainingJob:
    """What a worker hands to `build_trainer`. Arguments that all trainers share are filled in."""

    model: Any
    tokenizer: Any
    train: Any
    """Training rows, a `datasets.Dataset` with trl's columns."""
    evaluation: Any
    """Evaluation rows or None."""
    peft_config: Any
    """Adapter for the trainer to put on the model, or None."""
    arguments: dict[str, Any]
    """For the trainer's configuration class: device, steps, schedule, saving."""
    trainer: Callable[[type[Any]], type[Any]]
    """Makes a trainer class into one whose runs can be resumed bit by bit; every objective builds its trainer from it."""
    reference: Any = None
    """The model before training, where it cannot be had from the folder of the base or by switching the adapter off."""
    engine: Any = None
    """What the dotted path `engine` of the objective names, where no library has a trainer for it."""
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Folders of other checkpoints that the settings name: id -> `path`, `adapter` (as `worker.loading.load_model` takes them), `name`."""
    start: dict[str, Any] = field(default_factory=dict)
    """Where the model came from: `path` of the whole weights, `adapter` on them or None, and `name`."""
    keep: str | None = None
    """Folder for what can be reckoned again from the training rows; it goes when they are deleted."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What `build_trainer` may put here is kept with every checkpoint: how the numbers of a head are to be read."""


class Objective:
    """What a run learns. A subclass with a `name` in a file of this package is found by itself."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    """When to take it, in a line."""
    avoid: ClassVar[str] = ""
    """When not to, in a line."""
    group: ClassVar[str] = ANSWERS
    """One of `GROUPS`: what somebody has who needs it."""
    consumes: ClassVar[tuple[str, ...]]
    """Row shapes (`app.shapes`) it can train on."""
    produces: ClassVar[str] = "policy"
    """What the trained checkpoint is: policy, reward, score, classifier."""
    head: ClassVar[bool] = False
    """Whether the model gets a head (`head_for`) in place of the next token."""
    mixes: ClassVar[bool] = False
    """Whether its loss can be reckoned on a mixture of adapters."""
    engine: ClassVar[str | None] = None
    """Dotted path (`module:name`) of a trainer of our own below `worker/`; None where a library has one."""
    smallest_batch: ClassVar[int] = 1
    """Rows that must go through the model at once for the loss to mean anything."""
    drops_long: ClassVar[bool] = False
    """Whether a row longer than the maximum length is left out; else it is cut, and left out only if nothing to learn remains."""
    splits_long: ClassVar[bool] = False
    """Whether a row longer than the maximum length becomes several, so that nothing of it is left away."""
    refuses: ClassVar[Mapping[str, str]] = {}
    """What it cannot be combined with: a trait of tuners (`app.tuners.base`), the name of one or its family -> why, in a sentence."""
    params: ClassVar[type[TrainingParams]]
    sequences: ClassVar[int] = 1
    """Sequences that one row puts through the model: 2 where a pair is compared."""
    compares: ClassVar[bool] = False
    """Whether it measures the model against what it was before training."""
    answer: ClassVar[str] = "completion"
    """Column of trl's rows that holds the expected answer, shown beside samples."""

    @property
    def accepts_tuners(self) -> list[str]:
        """Names of the tuners it works with."""
        from app import tuners

        return [name for name, tuner in tuners.registry().items() if self.refusal(tuner) is None]

    def refusal(self, tuner: Tuner) -> str | None:
        """Why it cannot be combined with a tuner, in a sentence; None where it can."""
        if "head_only" in tuner.traits and not self.head:
            return "It puts no head on the model, so there would be nothing to train."
        if "mixture" in tuner.traits and not self.mixes:
            return "A mixture is trained on examples of good answers only; train it with sft first."
        named = (tuner.name, *sorted(tuner.traits), tuner.family)
        return next((self.refuses[each] for each in named if each in self.refuses), None)

    def head_for(self, params: Any, rows: Any) -> Head:
        """The head to put on the model, where it has one, for the training rows.

        Raises:
            ValueError: there is nothing to learn from these rows; the message says why.
        """
        return Head()

    def learning_rate(self, family: str) -> float:
        """A learning rate that suits a family of tuners; each tuner takes a multiple of it where none is given."""
        raise NotImplementedError

    def rate_with(self, tuner: Tuner) -> float:
        """The learning rate with a tuner, where none is given."""
        return float(f"{self.learning_rate(tuner.family) * tuner.rate:.6g}")

    def rows_a_step(self, params: Mapping[str, Any]) -> float:
        """Rows that one optimiser step takes."""
        return float(params["batch_size"] * params["gradient_accumulation"])

    def tokens_a_row(self, params: Mapping[str, Any], mean: float) -> float:
        """Tokens a row puts through the model in an epoch, where rows have `mean` tokens."""
        return mean

    def problems_with(self, params: Any, shape: str) -> Iterator[tuple[str, str]]:
        """What in its settings cannot go together with rows of a shape: field and a sentence that says what to do."""
        yield from ()

    def problems(self, params: Any) -> Iterator[tuple[str, str]]:
        """What in its settings cannot go together with anything else of the run: field and a sentence that says what to do."""
        yield from ()

    def build_trainer(self, params: Any, job: TrainingJob) -> Any:
        """The trainer, ready for `train()`.

        Raises:
            ValueError: the settings do not fit model or rows; the message says why.
        """
        raise NotImplementedError
