"""Prompt tuning: a few virtual tokens before the prompt are trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from app.tuners.base import ADAPTER, FrozenBaseParams, Shapes, Tuner, hidden_of


class PromptParams(FrozenBaseParams):
    """Settings of prompt tuning."""

    num_virtual_tokens: int = Field(20, ge=1, le=1024, title="Virtual tokens", json_schema_extra={"group": ADAPTER})
    """Length of the soft prompt. Beyond 20 little is gained (arXiv 2104.08691)."""
    init: Literal["random", "text"] = Field("random", title="Begin with", json_schema_extra={"group": ADAPTER})
    """`random` draws embeddings of the model's own tokens; `text` begins with the words below, which learns faster where they describe
    the task."""
    init_text: str = Field("", max_length=2000, title="Words to begin with", json_schema_extra={"group": ADAPTER})
    """Such as “Answer like a pirate.”; repeated or cut to the number of virtual tokens."""

    @model_validator(mode="after")
    def _text_is_given(self) -> PromptParams:
        if self.init == "text" and not self.init_text.strip():
            raise ValueError("Beginning with text needs the words: fill in init_text, or take random")
        return self


class Prompt(Tuner):
    """Trains the embeddings of a few virtual tokens that stand before every prompt (Lester et al. 2021, arXiv 2104.08691): some ten
    thousand numbers, whatever the size of the model.

    Take it to pack a style or a fixed instruction into a checkpoint of some kilobytes, best with large models; small ones learn little
    from it. The virtual tokens take room in the context and cannot be merged.
    """

    name = "prompt"
    title = "Prompt tuning"
    summary = "A few virtual tokens before the prompt are trained: kilobytes instead of megabytes. Best with large models."
    family: ClassVar[Literal["full", "adapter"]] = "adapter"
    params = PromptParams
    peft_type = "PROMPT_TUNING"
    mergeable = False
    engine = "worker.engines.soft:SoftPrompt"
    traits = frozenset({"soft"})
    rate = 150.0

    def trainable(self, shapes: Shapes, config: Mapping[str, Any], params: PromptParams) -> int:
        """Virtual tokens × width of the model."""
        return params.num_virtual_tokens * hidden_of(config)

    def problems(self, params: PromptParams, method_params: Any) -> Iterator[tuple[str, str]]:
        """In a pack only the first row would have the virtual tokens before it."""
        yield from no_packing(self.title, method_params)

    def build(self, model: Any, params: PromptParams, attachment: Any = None) -> tuple[Any, Any]:
        """The frozen model and the configuration of a new soft prompt."""
        from peft import PromptTuningConfig

        begun = params.init == "text"
        return model, PromptTuningConfig(
            num_virtual_tokens=params.num_virtual_tokens,
            prompt_tuning_init="TEXT" if begun else "SAMPLE_VOCAB",
            prompt_tuning_init_text=params.init_text if begun else None,
            tokenizer_name_or_path=model.config.name_or_path if begun else None,
            task_type="CAUSAL_LM",
        )


def no_packing(title: str, method_params: Any) -> Iterator[tuple[str, str]]:
    """Refuses packed rows: virtual tokens would stand before the first row of a pack only."""
    if getattr(method_params, "packing", False):
        yield "params.packing", f"{title} puts its virtual tokens before each row, and packed rows share one beginning. Switch packing off."
