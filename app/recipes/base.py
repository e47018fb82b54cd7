"""What a recipe is: a way to make a dataset. One recipe is one file in this package; it imports no GPU library at module level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from app.references import DatasetId, PolicyId

JOURNAL = "answered.jsonl"
"""In the folder of a dataset that is being made: what models have answered so far."""

Row = dict[str, Any]
Messages = list[dict[str, str]]


class RecipeParams(BaseModel):
    """Base of a recipe's settings; the docstring under each field is its help text."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Recipe:
    """A way to make data; a subclass with a `name` in a file of this package is found by itself."""

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]
    produces: ClassVar[str]
    """Row shape (`app.shapes`)."""
    params: ClassVar[type[RecipeParams]]

    def parts(self, params: Any) -> dict[str, str]:
        """Datasets that are made: part -> what its name ends with. The first is the one to train on."""
        return {"train": ""}

    def generate(self, params: Any, part: str = "train") -> Iterator[Row]:
        """Rows of one part, the same for the same parameters."""
        raise NotImplementedError


# --- recipes whose rows are written by a model ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a writer said."""

    text: str
    finish: str = "stop"
    """stop, length (cut at the limit), refused (the endpoint says so), or error: then the text says what was wrong."""


@dataclass(frozen=True)
class Choice:
    """What a writer answers when it may only name one of some letters."""

    logs: list[float] | None
    """Logarithm of the probability of each letter; None where an endpoint tells none."""
    picked: int | None
    """Number of the letter it names; None where it names none of them."""


class Maker(Protocol):
    """What a recipe asks for. A call that was answered before a worker died is not asked again, so the order of calls must be fixed.

    `by` names who is asked: the id of a checkpoint, or None for the admin's endpoint.
    """

    together: int
    """So many questions are best asked in one call."""

    def rows(self, dataset: str) -> Iterator[tuple[Row, str]]:
        """Rows of a dataset that a setting names, in canonical fields, each with its shape (`app.shapes`)."""

    def write(
        self, asked: Sequence[Messages], *, by: str | None, temperature: float, max_tokens: int, seed: int, n: int = 1
    ) -> list[list[Answer]]:
        """`n` answers to each of several conversations; they depend on the seed and the conversation alone."""

    def score(self, conversations: Sequence[Messages], *, by: str) -> list[float | None]:
        """The number that a reward or score checkpoint gives each conversation; None for one it cannot read."""

    def choose(self, asked: Sequence[Messages], letters: Sequence[str], *, by: str | None) -> list[Choice]:
        """Which of some letters is answered."""

    def begin(self, total: int, unit: str) -> None:
        """Say how much there is to do, in what, such as `prompts`."""

    def step(self, count: int = 1) -> None:
        """Say that so much more is done."""

    def count(self, what: str, times: int = 1) -> None:
        """Count something for the report, which says it in words (`counted`)."""

    def note(self, name: str, value: float | str, words: str) -> None:
        """Add a figure to the report, and a sentence that says it."""


class WrittenParams(RecipeParams):
    """Settings of every recipe whose rows are written by a model."""

    writer: PolicyId | None = Field(None, title="Writer")
    """Checkpoint that writes. Empty: the endpoint that an admin has set with LUTHIER_WRITER_URL. Small models hardly follow
    instructions: take one that was tuned to."""
    temperature: float = Field(0.7, ge=0, le=2)
    """How freely it is sampled; 0 takes the likeliest token each time."""
    max_tokens: int = Field(512, ge=1, le=32_768)
    """Most tokens of an answer. Answers that reach it are cut, and cut answers teach a model not to end."""
    leave_out: list[Literal["refusals", "cut"]] = ["refusals", "cut"]
    """What is left out, and counted: answers that begin with a refusal in English (such as “I cannot help with”), and those cut at the
    limit. Empty answers always are."""
    seed: int = Field(42, ge=0, lt=2**31)
    """Fixes which prompts are taken, their order, and how a checkpoint samples."""

    def writers(self, shapes: Sequence[str]) -> list[str]:
        """Fields that name who is asked, with datasets of these shapes; where one is empty, the endpoint is."""
        return ["writer"]


class PromptsParams(WrittenParams):
    """Settings of a recipe that answers the prompts of a dataset."""

    prompts: DatasetId = Field(min_length=1, title="Prompts")
    """Dataset whose prompts are asked; answers it has are not used."""
    limit: int = Field(1000, ge=1, le=100_000)
    """At most so many prompts, drawn by the seed. Those that differ from an earlier one only in case and spaces are left out."""


class WrittenRecipe(Recipe):
    """A recipe whose rows are written by a model; a subclass with a `name` is found by itself."""

    def make(self, params: Any, maker: Maker) -> Iterator[tuple[str, Row]]:
        """Rows with the part each belongs to; the same for the same parameters and the same answers."""
        raise NotImplementedError


COUNTED: dict[str, tuple[str, str]] = {
    "prompts": ("1 prompt asked", "{n} prompts asked"),
    "duplicate prompts": ("1 prompt left out that repeats another one", "{n} prompts left out that repeat others"),
    "duplicate answers": ("1 answer left out that repeats another one", "{n} answers left out that repeat others"),
    "refusals": ("1 refusal left out", "{n} refusals left out"),
    "refusals kept": ("1 refusal kept", "{n} refusals kept"),
    "empty": ("1 empty answer left out", "{n} empty answers left out"),
    "cut": ("1 answer left out that was cut at the limit", "{n} answers left out that were cut at the limit"),
    "cut kept": ("1 answer kept that was cut at the limit", "{n} answers kept that were cut at the limit"),
    "errors": ("1 question that could not be asked", "{n} questions that could not be asked"),
    "retries": ("1 request repeated, since the endpoint was busy", "{n} requests repeated, since the endpoint was busy"),
}
"""What all recipes count, said of one and of several; what one recipe counts is said as “Ties: 3”."""


def counted(what: str, times: int) -> str:
    """A count in words."""
    if what not in COUNTED:
        return f"{what[:1].upper()}{what[1:]}: {times:,}"
    one, several = COUNTED[what]
    return one if times == 1 else several.format(n=f"{times:,}")
