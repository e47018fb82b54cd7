"""What objectives share that learn from rewards for the model's own answers: their settings and what rows they take. Declares none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from app import rewards
from app.methods import base
from app.methods.base import BATCH, CHECKS, Objective, TrainingJob, TrainingParams
from app.rewards import RewardSettings
from app.rewards.similarity import SimilarityParams
from app.words import known

REWARDS, ANSWERS = "Rewards", "Answers"
_EXAMPLE = '{"kind": "length", "maximum": 50}'


class RewardedParams(TrainingParams):
    """Settings of learning from rewards."""

    max_length: int = Field(1024, ge=8, le=1_048_576, title="Maximum length", json_schema_extra={"group": BATCH})
    """Tokens of prompt and answer together. Rows whose prompt leaves no room for an answer of the maximum length are left out."""
    rewards: list[RewardSettings] = Field(
        default=[SimilarityParams()],
        max_length=16,
        title="Rewards",
        json_schema_extra={"group": REWARDS},
    )
    """What makes an answer good, at least one. Each has a `kind` and settings of its own; several are added up, each times its `weight`.
    Rules: exact_match, numeric_answer, similarity (these compare with the answer of the row), length, format, regex, json_valid. Models:
    model (a finished reward or score run), rubric (a judge asked about rules of yours). Code: python, where an admin allows it."""
    max_completion_length: int = Field(256, ge=1, le=1_048_576, title="Longest answer", json_schema_extra={"group": ANSWERS})
    """Tokens an answer may have; there it is cut off. Most of the time goes into writing answers, so set it to what good ones need."""
    temperature: float = Field(1.0, gt=0, le=10, title="Temperature", json_schema_extra={"group": ANSWERS})
    """How freely answers are drawn while learning. 1 draws as the model says, which the mathematics of all these methods supposes; lower
    explores less."""
    eval_rows: int = Field(32, ge=1, le=100_000, title="Rows to evaluate", json_schema_extra={"group": CHECKS, "advanced": True})
    """How many evaluation rows are answered in each evaluation, from the first on: one answer each, drawn as in training. The evaluation
    loss is their mean reward times -1, so that the checkpoint with the lowest one is the best."""

    @field_validator("rewards", mode="before")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if isinstance(value, str):  # a field of a form, or of the command line
            try:
                value = json.loads(value)
            except ValueError as error:
                raise ValueError(f"Must be a list such as [{_EXAMPLE}], written as JSON") from error
            value = [value] if isinstance(value, dict) else value
        if not isinstance(value, list):
            return value
        if not value:
            raise ValueError(f"There is nothing to learn from without a reward. Name at least one, such as {_EXAMPLE}")
        for each in value:
            if isinstance(each, dict) and each.get("kind") not in rewards.registry():
                words = known("kind of reward", str(each.get("kind", "")), rewards.registry())
                raise ValueError(words if "kind" in each else f"Each reward needs its kind, such as {_EXAMPLE}")
        return value

    @field_validator("rewards")
    @classmethod
    def _one_counts(cls, value: list[Any]) -> list[Any]:
        if all(each.weight == 0 for each in value):
            raise ValueError("All rewards have the weight 0, so there is nothing to learn from. Raise one")
        return value


class Rewarded(Objective):
    """An objective that asks the model, scores its answers, and learns from the scores."""

    group = base.REWARDS
    consumes = ("prompt", "prompt_completion", "chat")
    answer = "completion"
    drops_long = True
    # A batch counts answers, each one sequence; that they are written first takes less memory than learning from them.
    sequences = 1
    # The reference is needed where beta is above 0. Which it is cannot be seen here, so memory is reckoned with it.
    compares = True
    refuses: ClassVar[Mapping[str, str]] = {"mixture": "A mixture of adapters learns from examples only. Take sft for it."}

    def problems(self, params: Any) -> Iterator[tuple[str, str]]:
        """An answer of full length must leave room for a prompt."""
        if params.max_completion_length >= params.max_length:
            yield (
                "params.max_completion_length",
                f"The longest answer ({params.max_completion_length} tokens) leaves no room for a prompt within the maximum length "
                f"({params.max_length}). Lower it, or raise max_length.",
            )

    def misfit(self, params: Any, has_answers: bool) -> str | None:
        """Why rewards cannot be reckoned for such rows, in a sentence; None where they can."""
        wanting = rewards.in_need_of_answers(params.rewards)
        if has_answers or not wanting:
            return None
        plural = len(wanting) > 1
        return (
            f"the reward{'s' if plural else ''} {' and '.join(wanting)} compare{'' if plural else 's'} with the answer of a row, and these "
            "rows are prompts without answers; take other rewards, such as length, format, model or rubric, or rows with answers"
        )

    def rows_a_step(self, params: Mapping[str, Any]) -> float:
        """Prompts: a batch counts answers, of which a prompt has several, and each is used more than once."""
        uses = params.get("num_generations", 1) * params.get("num_iterations", 1) * params.get("ppo_epochs", 1)
        return super().rows_a_step(params) / float(uses)

    def tokens_a_row(self, params: Mapping[str, Any], mean: float) -> float:
        """Those of the prompt with each answer to it, at full length, as often as they are used."""
        return (mean + float(params["max_completion_length"])) * self.sequences * super().rows_a_step(params) / self.rows_a_step(params)

    def problems_with(self, params: Any, shape: str) -> Iterator[tuple[str, str]]:
        """What in its settings cannot go together with rows of a shape: field and a sentence that says what to do."""
        reason = self.misfit(params, shape != "prompt")
        if reason:
            yield "params.rewards", f"{reason[0].upper()}{reason[1:]}."

    def ready(self, params: Any, job: TrainingJob) -> None:
        """Checks settings against rows.

        Raises:
            ValueError: a reward needs answers that the rows do not have.
        """
        reason = self.misfit(params, all("completion" in rows.column_names for rows in (job.train, job.evaluation) if rows is not None))
        if reason:
            raise ValueError(reason)


class Grouped(Rewarded):
    """An objective of trl that compares the answers to one prompt with each other."""

    engine = "worker.engines.grouped:grouped"

    def learning_rate(self, family: str) -> float:
        """1e-4 for adapters (what DPO with LoRA needed in our trials), 1e-6 for whole models (TRL's default)."""
        return 1e-4 if family == "adapter" else 1e-6

    def problems(self, params: Any) -> Iterator[tuple[str, str]]:
        """Groups must be whole, and answers must leave room for prompts."""
        yield from super().problems(params)
        together = params.batch_size * params.gradient_accumulation
        if together % params.num_generations:
            fits = max(1, round(together / params.num_generations)) * params.num_generations
            yield (
                "params.num_generations",
                f"Each step learns from {together} answers ({params.batch_size} × {params.gradient_accumulation}), which cannot be divided "
                f"into groups of {params.num_generations}. Set batch_size × gradient_accumulation to a multiple of it, such as {fits}.",
            )

    def trainer(self, params: Any, job: TrainingJob, config: type[Any], trainer: type[Any], **own: Any) -> Any:
        """trl's trainer with the studio's rewards; answers are written once for all batches of a step.

        Args:
            own: settings that only this objective has, as the configuration of trl names them.
        """
        self.ready(params, job)
        arguments = config(
            **job.arguments,
            num_generations=params.num_generations,
            num_generations_eval=1,
            max_completion_length=params.max_completion_length,
            temperature=params.temperature,
            beta=params.beta,
            num_iterations=params.num_iterations,
            epsilon=params.epsilon,
            mask_truncated_completions=params.mask_truncated,
            disable_dropout=True,
            **own,
        )
        assert job.engine is not None
        return job.trainer(job.engine(trainer))(
            model=job.model,
            args=arguments,
            rewards=params.rewards,
            others=job.others,
            reference=job.reference,
            max_length=params.max_length,
            eval_rows=params.eval_rows,
            train_dataset=job.train,
            eval_dataset=job.evaluation,
            processing_class=job.tokenizer,
            peft_config=job.peft_config,
        )
