"""Kahneman-Tversky optimisation: learn from single answers that are called good or bad."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from app.methods.base import BATCH, RATINGS, Objective, TrainingJob, TrainingParams

PREFERENCE = "Preference"
_BALANCE = 1.15
"""Weighed good rows over weighed bad ones: inside 1 to 1.33, which equation 8 of the paper asks for, with room for rows left out."""


class KtoParams(TrainingParams):
    """Settings of Kahneman-Tversky optimisation."""

    batch_size: int = Field(8, ge=1, le=4096, title="Batch size", json_schema_extra={"group": BATCH})
    """Rows that go through the model at once, at least 2: each prompt is also tried with the answer of the row before it, which shows
    how far the model as a whole has moved."""
    beta: float = Field(0.1, gt=0, le=100, title="Beta", json_schema_extra={"group": PREFERENCE})
    """How closely the model stays to what it was: 0.1 as in the paper; higher stays closer, lower follows the ratings further."""
    loss: Literal["kto", "apo_zero_unpaired"] = Field("kto", title="Loss", json_schema_extra={"group": PREFERENCE})
    """`kto` is that of the paper; `apo_zero_unpaired` (arXiv 2408.06266) suits good answers that are better than what the model writes
    now."""
    desirable_weight: float | None = Field(
        None, gt=0, le=1000, title="Weight of good answers", json_schema_extra={"group": PREFERENCE, "advanced": True}
    )
    """How much a good answer counts. Empty: so that good and bad answers count about as much in all, however many of each there are."""
    undesirable_weight: float | None = Field(
        None, gt=0, le=1000, title="Weight of bad answers", json_schema_extra={"group": PREFERENCE, "advanced": True}
    )
    """How much a bad answer counts. Empty: as above."""

    @field_validator("batch_size")
    @classmethod
    def _at_least_two(cls, value: int) -> int:
        if value < 2:
            raise ValueError("KTO sets each answer beside that of another row of its batch, so a batch needs 2 rows or more. Set 2 or more")
        return value


class Kto(Objective):
    """Raises the chance of answers called good and lowers that of answers called bad, measured against the model before training
    (Ethayarajh et al. 2024, arXiv 2402.01306).

    Take it when there are ratings of single answers, such as thumbs up and down, and no pairs. Good and bad may be unequally many; both
    must be there. A label should say whether an answer is good in itself: the worse answer of a pair may still be a good one. Rows are
    shuffled once with the seed, since the pairing of neighbours needs a fixed order, and rows with the same prompt are kept apart. By TRL's
    KTOTrainer, which switches dropout off.
    """

    name = "kto"
    title = "Kahneman-Tversky optimisation"
    summary = "Learn from single answers rated good or bad, such as thumbs up and down. No pairs are needed."
    avoid = "Not when there are pairs: comparing two answers says more than two thumbs."
    group = RATINGS
    consumes = ("unpaired",)
    params = KtoParams
    sequences = 2
    compares = True
    smallest_batch = 2

    def learning_rate(self, family: str) -> float:
        """1e-4 for adapters (as DPO needs in our trials), 1e-6 for whole models (TRL's default)."""
        return 1e-4 if family == "adapter" else 1e-6

    def build_trainer(self, params: KtoParams, job: TrainingJob) -> Any:
        """TRL's KTOTrainer on rows in one fixed, shuffled order."""
        from trl import KTOConfig, KTOTrainer

        good = sum(job.train["label"])
        desirable, undesirable = weights(good, len(job.train) - good, params.desirable_weight, params.undesirable_weight)
        arguments = KTOConfig(
            **job.arguments,
            max_length=params.max_length,
            beta=params.beta,
            loss_type=params.loss,
            desirable_weight=desirable,
            undesirable_weight=undesirable,
            train_sampling_strategy="sequential",
        )
        # By the batch that was asked for: one halved for want of memory keeps the order, so that a run can go on.
        batch, seed = params.batch_size, int(job.arguments["seed"])
        return job.trainer(KTOTrainer)(
            model=job.model,
            ref_model=job.reference,
            args=arguments,
            train_dataset=_in_order(job.train, batch, seed),
            eval_dataset=None if job.evaluation is None else _in_order(job.evaluation, batch, seed),
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )


def _in_order(rows: Any, batch: int, seed: int) -> Any:
    return rows.select(order([json.dumps(prompt, sort_keys=True) for prompt in rows["prompt"]], batch, seed))


def weights(good: int, bad: int, desirable: float | None = None, undesirable: float | None = None) -> tuple[float, float]:
    """Weights of good and bad answers; what is not given is set so that both sides count about as much.

    Raises:
        ValueError: all rows are good, or all are bad.
    """
    if not good or not bad:
        missing, all_are = ("good", "bad") if not good else ("bad", "good")
        raise ValueError(f"all rows are rated {all_are}, and KTO needs some that are rated {missing} too")
    if desirable is not None and undesirable is not None:
        return desirable, undesirable
    if desirable is not None:
        return desirable, round(desirable * good / (bad * _BALANCE), 4)
    if undesirable is not None:
        return round(undesirable * bad * _BALANCE / good, 4), undesirable
    if good <= bad:
        return (1.0 if good == bad else round(bad * _BALANCE / good, 4)), 1.0
    return 1.0, round(good / (bad * _BALANCE), 4)


def order(prompts: Sequence[str], batch: int, seed: int) -> list[int]:
    """Places of the rows in the order they are trained in: shuffled, and no two with one prompt side by side within a batch, where that
    can be had.

    The trainer sets each prompt beside the answer of the row before it in its batch, and the first beside the last one's.
    """
    # A generator of its own: the order is the same in every attempt, and the random state of the run is not touched.
    draw = random.Random(seed)
    placed = list(range(len(prompts)))
    draw.shuffle(placed)
    count = len(placed)

    def before(place: int) -> int:
        start = place - place % batch
        return place - 1 if place > start else min(start + batch, count) - 1

    def after(place: int) -> int:
        start = place - place % batch
        return place + 1 if place + 1 < min(start + batch, count) else start

    def clashes(place: int) -> bool:
        own = prompts[placed[place]]
        return any(other != place and prompts[placed[other]] == own for other in (before(place), after(place)))

    for place in range(count):
        if not clashes(place):
            continue
        for _ in range(64):
            other = draw.randrange(count)
            placed[place], placed[other] = placed[other], placed[place]
            if not clashes(place) and not clashes(other):
                break
            placed[place], placed[other] = placed[other], placed[place]
    return placed
