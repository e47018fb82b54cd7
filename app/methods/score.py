"""Score model: learn the number that people gave to an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from app.methods.base import RATINGS, Objective, TrainingJob, TrainingParams


class ScoreParams(TrainingParams):
    """Settings of a score model."""


class Score(Objective):
    """Puts a head on the model that gives one number for a prompt with its answer, and trains both to come close to the number of the row
    (least squares, as HelpSteer's attribute models do, arXiv 2311.09528).

    Take it when answers were rated one by one, such as from 1 to 5, and nobody compared two. The checkpoint gives numbers on the scale of
    the rows and no answers: it cannot be talked to. It is judged by the squared error, by the rank correlation with people (Spearman) and
    by the share of rows it hits within half a point. Rows longer than the maximum length are left out.
    """

    name = "score"
    title = "Score model"
    summary = "Learn to predict ratings of single answers, such as 1 to 5. The result gives numbers, not answers."
    avoid = "Not when answers were compared side by side: take a reward model."
    group = RATINGS
    consumes = ("rated",)
    produces = "score"
    params = ScoreParams
    head = True
    engine = "worker.engines.score:ScoreTrainer"
    drops_long = True
    refuses: ClassVar[Mapping[str, str]] = {
        "experts": "A mixture of experts is made of models that write text.",
        "mixture": "Its adapters write text.",
    }

    def learning_rate(self, family: str) -> float:
        """As for a reward model: 3e-4 for adapters, 1e-5 for whole models."""
        return 3e-4 if family == "adapter" else 1e-5

    def build_trainer(self, params: ScoreParams, job: TrainingJob) -> Any:
        """Our own trainer: the squared error of the head's number against the row's, both measured from the mean of the training rows in
        units of their spread."""
        from transformers import TrainingArguments

        mean, spread = scale(job.train["score"])
        job.facts.update(mean=mean, spread=spread)
        return job.trainer(job.engine)(
            model=job.model,
            args=TrainingArguments(**job.arguments),
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
            max_length=params.max_length,
            mean=mean,
            spread=spread,
        )


def scale(scores: list[float]) -> tuple[float, float]:
    """Mean and spread (standard deviation) of the ratings to learn.

    Raises:
        ValueError: all are the same, so there is nothing to learn.
    """
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    if spread < 1e-9:
        raise ValueError(f"all rows have the same score ({mean:g}), so there is nothing to learn from them")
    return mean, spread
