"""What a plan says about a run before it is started, as REST shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Memory(BaseModel):
    """Bytes a run is reckoned to take."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    weights: int
    gradients: int
    optimizer: int
    activations: int
    others: int
    """Weights of other models that the settings name and that are held beside it: a teacher, a reward model, a judge."""
    total: int
    device_total: int | None
    """What the device has; null while no worker is there."""
    fits: bool | None


class Plan(BaseModel):
    """What a run would do and take. Numbers that are not known yet are null, and `notes` says why."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    trainable_parameters: int | None
    total_parameters: int | None
    steps: int
    epochs: float | None
    """Passes over the rows that these steps are."""
    tokens: int | None
    """Tokens that will go through the model in training, without padding."""
    memory: Memory | None
    seconds: float | None
    """Training time; evaluating and saving come on top."""
    seconds_basis: Literal["measured", "rough"] | None
    """`measured`: from the speed of earlier runs; `rough`: from a rule of thumb."""
    device: str | None
    """Name of the device it would run on."""
    rows: int
    dropped_rows: int | None
    """Rows left out, because their prompt alone fills the maximum length."""
    cut_rows: int | None
    """Other rows that are shortened to the maximum length."""
    counting: bool
    """Whether the tokens of the dataset are still being counted; the plan is complete when they are."""
    learning_rate: float
    gradient_checkpointing: bool | None
    """Whether activations would be reckoned twice to save memory."""
    suggestions: list[str]
    """What would be better otherwise, in words."""
    notes: list[str]
    """What is not known, and why, in words."""
