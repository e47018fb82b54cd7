"""What may be asked of datasets over REST and by form, and how one is answered. Touches no database and no file."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app import shapes
from app.database import iso
from app.datasets.tables import Dataset, Problem
from app.errors import Invalid

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
"""Endings of files that are taken, and how each is read."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


class Split(BaseModel):
    """A share of the prompts kept for evaluation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    eval: float = Field(gt=0, le=0.9)
    """Share of the rows for evaluation, such as 0.1. Rows with the same prompt stay together."""
    seed: int = Field(42, ge=0, lt=2**31)
    """The same seed and rows give the same split."""


class ProblemCounts(BaseModel):
    """How many problems a dataset has."""

    errors: int
    warnings: int


class DatasetOut(BaseModel):
    """A version of a dataset, as REST shows it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str
    version: int
    status: Literal["importing", "ready", "failed"]
    reason: str | None
    """Why it failed, with what to do."""
    shape: str | None
    rows: int
    """Usable rows, train and eval."""
    train_rows: int
    eval_rows: int
    problems: ProblemCounts
    left_out: int
    """Lines of the source left out of this version on request."""
    columns: list[str]
    mapping: dict[str, str] | None
    suggested_mapping: dict[str, str] | None
    """Of a dataset that failed because its columns say nothing: a mapping that probably fits."""
    split: Split | None
    source_name: str
    source_bytes: int
    sha256: str | None
    """Hash of the usable rows in order."""
    parent: str | None
    """The version it was made from."""
    lineage: dict[str, Any] | None
    progress: dict[str, Any] | None
    """`{done, total, text}` while importing; bytes."""
    checks: dict[str, Any] | None
    """Once ready: `duplicates` and `leaks` (rows for evaluation that training asks too), `characters` per row, and `changes`: rows added
    and removed against the version before."""
    created_at: str | None


class TokenTotal(BaseModel):
    """What a dataset measures under one tokenizer."""

    checkpoint: str
    status: Literal["counting", "ready", "failed"]
    tokens: int | None
    trained_tokens: int | None


class DatasetDetail(DatasetOut):
    """A version with its token counts."""

    tokens: list[TokenTotal]


class RowOut(BaseModel):
    """One usable row."""

    number: int
    line: int
    split: Literal["train", "eval"]
    row: dict[str, Any]
    source: dict[str, Any]


class HitOut(BaseModel):
    """A row that holds a text."""

    number: int
    line: int
    split: Literal["train", "eval"]
    excerpt: str


class SearchOut(BaseModel):
    """What a search came to."""

    data: list[HitOut]
    next: int | None
    """The row to go on after; null when the end was reached."""


class SharedOut(BaseModel):
    """A prompt that is in both datasets."""

    row: int
    other: int


class OverlapOut(BaseModel):
    """Rows whose prompt another dataset holds too."""

    model_config = ConfigDict(populate_by_name=True)

    against: str = Field(alias="with")
    count: int
    rows: list[SharedOut]


class ProblemOut(BaseModel):
    """Something wrong with one line."""

    number: int
    line: int
    severity: Literal["error", "warning"]
    field: str
    message: str
    excerpt: str


class TokenRow(BaseModel):
    """One row as the model sees it; tokens that are not trained on are context."""

    row: int
    tokens: list[dict[str, Any]]
    """`{text, id, trained}` each; of a preference the prompt with the chosen answer."""
    rejected: list[dict[str, Any]] | None
    """Of a preference: the prompt with the rejected answer."""
    truncated: bool
    """Whether it is longer than the `max_length` asked for, or than the 2,000 tokens shown here."""


class TokenSummary(BaseModel):
    """Lengths of a dataset under one tokenizer."""

    checkpoint: str
    status: Literal["none", "counting", "ready", "failed"]
    reason: str | None = None
    tokens: int | None = None
    trained_tokens: int | None = None
    median: int | None = None
    p95: int | None = None
    longest: int | None = None
    dropped: int | None = None
    cut: int | None = None


class RecipeOut(BaseModel):
    """A way to make data."""

    name: str
    title: str
    summary: str
    produces: str
    params: dict[str, Any]


def dataset_out(dataset: Dataset) -> dict[str, Any]:
    """The fields of `DatasetOut` of a dataset, ready for JSON."""
    lineage = {name: value for name, value in (dataset.lineage or {}).items() if name != "preview"}
    return {
        "id": dataset.id,
        "name": dataset.name,
        "version": dataset.version,
        "status": dataset.status,
        "reason": dataset.reason,
        "shape": dataset.shape,
        "rows": dataset.rows,
        "train_rows": dataset.train_rows,
        "eval_rows": dataset.eval_rows,
        "problems": {"errors": dataset.errors, "warnings": dataset.warnings},
        "left_out": dataset.left_out,
        "columns": dataset.columns,
        "mapping": dataset.mapping,
        "suggested_mapping": shapes.suggest(dataset.columns) if dataset.status == "failed" else None,
        "split": dataset.split,
        "source_name": dataset.source_name,
        "source_bytes": dataset.source_bytes,
        "sha256": dataset.sha256,
        "parent": dataset.parent_id,
        "lineage": lineage or None,
        "progress": dataset.progress,
        "checks": dataset.checks,
        "created_at": iso(dataset.created_at),
    }


def problem_out(problem: Problem) -> dict[str, Any]:
    """The fields of `ProblemOut`."""
    return {name: getattr(problem, name) for name in ProblemOut.model_fields}


def clean_name(name: str) -> str:
    """A dataset's name as it is kept.

    Raises:
        Invalid: empty, longer than 200 characters, or with characters that do not show or turn the writing direction.
    """
    name = unicodedata.normalize("NFC", name.strip())
    if not name:
        raise Invalid("Give the dataset a name.", field="name")
    if len(name) > 200:
        raise Invalid(f"A name has at most 200 characters, and this has {len(name)}.", field="name")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _BIDI for letter in name):
        raise Invalid("The name holds a control character or one that turns the writing direction. Type it anew.", field="name")
    return name


def clean_file_name(name: str) -> str:
    """The name of an uploaded file as it is shown: without folders and characters that do not show, at most 255 characters."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(
        letter for letter in last if unicodedata.category(letter) not in ("Cc", "Cs", "Zl", "Zp") and letter not in _BIDI
    ).strip()[-255:]


def format_of(file_name: str) -> str:
    """How a file is read, by its ending.

    Raises:
        Invalid: not a kind of file that is taken.
    """
    ending = "." + file_name.rsplit(".", 1)[-1].lower() if "." in file_name else ""
    kind = FORMATS.get(ending)
    if kind is None:
        packed = ending in (".zip", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tar")
        hint = "Unpack it first. " if packed else ""
        raise Invalid(
            f"“{file_name}” is not a kind of file that is taken. {hint}Upload JSONL, JSON, CSV or Parquet (.jsonl, .json, .csv, .parquet).",
            field="file",
        )
    return kind


def parse_mapping(text: str) -> dict[str, str] | None:
    """A mapping (JSON: target field → column) as sent with a form; None when empty.

    Raises:
        Invalid: not an object of texts, or a target there is not.
    """
    if not text.strip():
        return None
    try:
        mapping = json.loads(text)
    except (ValueError, RecursionError):
        raise Invalid(
            'The mapping is not valid JSON. It has the form {"prompt": "question", "completion": "answer"}.', field="mapping"
        ) from None
    if not isinstance(mapping, dict) or not all(isinstance(column, str) for column in mapping.values()):
        raise Invalid(
            'A mapping is an object of target field → column, such as {"prompt": "question", "completion": "answer"}.', field="mapping"
        )
    return check_mapping(mapping)


def check_mapping(mapping: dict[str, str]) -> dict[str, str] | None:
    """The mapping, without targets that name no column; None when nothing is left.

    Raises:
        Invalid: a target there is not, or a column named twice.
    """
    named = {target: column for target, column in mapping.items() if column}
    unknown = next((target for target in named if target not in shapes.TARGETS), None)
    if unknown is not None:
        raise Invalid(f"There is no target field “{unknown[:100]}”. There are {', '.join(shapes.TARGETS)}.", field="mapping")
    columns = list(named.values())
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise Invalid(f"The column “{twice[:100]}” is mapped to two fields. Map it to one.", field="mapping")
    if any(len(column) > 200 or "\x00" in column for column in columns):
        raise Invalid("A column name in the mapping is too long.", field="mapping")
    return named or None


def parse_split(text: str, seed: str = "") -> Split | None:
    """A split as sent with a form: empty, a share such as `0.1` (with a seed beside it), or JSON `{"eval": 0.1, "seed": 42}`.

    Raises:
        Invalid: none of these.
    """
    text = text.strip()
    if not text or text == "0":
        return None
    try:
        value = json.loads(text)
        fields = value if isinstance(value, dict) else {"eval": value, **({"seed": seed.strip()} if seed.strip() else {})}
        return TypeAdapter(Split).validate_python(fields)
    except (ValueError, RecursionError, ValidationError):
        words = (
            'A split is the share for evaluation, more than 0 and at most 0.9, with a whole number as its seed: {"eval": 0.1, "seed": 42}.'
        )
        raise Invalid(words, field="split") from None
