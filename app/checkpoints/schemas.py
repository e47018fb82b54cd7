"""What may be asked of checkpoints over REST and by form, and how one is answered. Touches no database."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from app.checkpoints.heads import task_of
from app.checkpoints.tables import Checkpoint
from app.database import iso

Source = Literal["folder", "hub", "gguf"]

STEPS: dict[str, list[str]] = {
    "folder": ["Checking the files", "Copying the files", "Checking the model"],
    "hub": ["Asking the hub", "Downloading the files", "Checking the files", "Checking the model"],
    "gguf": ["Reading the GGUF", "Repairing the tokenizer", "Writing safetensors", "Checking the model"],
}
"""Named steps of an import, in order; the import of the demo model ends with one more."""
QUESTION_STEP = "Asking the model a question"


class CheckpointCreate(BaseModel):
    """Import weights as a checkpoint."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)

    source: Source
    """Where the weights are: a Hugging Face `folder` on the worker's machine, a `gguf` file there, or an id on the model `hub`."""
    ref: str = Field(min_length=1, max_length=4096)
    """Absolute path of the folder or GGUF file, or the hub id such as `HuggingFaceTB/SmolLM2-135M`."""
    revision: str | None = Field(None, max_length=200)
    """Of a hub id: the commit to take (40 hex digits). A branch or tag is resolved to its commit, which is kept."""
    name: str = Field(min_length=1, max_length=120)
    """What to call it here."""

    @field_validator("ref", "name", "revision", mode="after")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise ValueError("It must not hold control characters.")
        return value


class CheckpointEdit(BaseModel):
    """Change what people say about a checkpoint; what is left out stays."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)

    name: str | None = Field(None, min_length=1, max_length=120)
    """What to call it."""
    notes: str | None = Field(None, max_length=20_000)
    """Notes, as markdown; empty removes them."""

    @field_validator("name", mode="after")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is not None and any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise ValueError("It must not hold control characters.")
        return value

    @field_validator("notes", mode="after")
    @classmethod
    def _kept(cls, value: str | None) -> str | None:
        if value is not None and "\x00" in value:
            raise ValueError("It must not hold a NUL character.")
        return value


class FileOut(BaseModel):
    """One file of a checkpoint."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    size_bytes: int
    sha256: str
    download: str | None
    """Where it can be fetched; null for what only the trainer reads."""


class CheckpointProgress(BaseModel):
    """How far an import is."""

    done: float
    total: float | None
    text: str


class CheckpointOut(BaseModel):
    """A checkpoint, as REST shows it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    name: str
    kind: Literal["base", "adapter", "full", "reward", "classifier"]
    task: Literal["policy", "reward", "score", "classifier", "encoder"]
    """What it does: `policy` writes text, `reward` and `score` give a number for an answer, `classifier` a class for a text; `encoder` is a
    base that only reads text, from which classifiers can be trained."""
    status: Literal["importing", "ready", "failed", "quarantined"]
    reason: str | None
    """Why it failed or was put aside, with what to do."""
    progress: CheckpointProgress | None
    source: Literal["folder", "hub", "gguf", "run"]
    ref: str | None
    """What was imported: a path on the worker's machine, or a hub id."""
    revision: str | None
    """Of a hub id: the commit the files are of."""
    base_id: str | None
    """The weights an adapter sits on, or those a full fine-tune began from."""
    run_id: str | None
    step: int | None
    size_bytes: int | None
    sha256: str | None
    """Hash over the names and SHA-256 of its safetensors files."""
    parameters: int | None
    """Weights in it; those of tied embeddings count once."""
    metrics: dict[str, float | None] | None
    """Of runs: the last values at its step; null where a value is not a number."""
    notes: str
    created_at: str | None


def checkpoint_out(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of `CheckpointOut` of a checkpoint, ready for JSON."""
    metrics = checkpoint.metrics
    same = (
        "id",
        "name",
        "kind",
        "status",
        "reason",
        "progress",
        "source",
        "ref",
        "revision",
        "base_id",
        "run_id",
        "step",
        "size_bytes",
        "sha256",
        "parameters",
    )
    return {
        **{name: getattr(checkpoint, name) for name in same},
        "task": task_of(checkpoint),
        "notes": checkpoint.notes or "",
        "metrics": None if metrics is None else {name: None if isinstance(value, str) else value for name, value in metrics.items()},
        "created_at": iso(checkpoint.created_at),
    }
