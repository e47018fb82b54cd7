"""Load a checkpoint and let it answer greedily, in batches. Keeps nothing, samples nothing, streams nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.loading import load_model, load_tokenizer

Message = dict[str, str]


@dataclass(frozen=True)
class Speaker:
    """A model ready to answer, with its tokenizer."""

    model: Any
    tokenizer: Any


def load(path: Path, *, adapter: Path | None = None, device: str = "cpu", dtype: str | None = None) -> Speaker:
    """Load a checkpoint for answering: a base or a full fine-tune by its folder, an adapter by its base's folder and its own.

    Args:
        dtype: such as `float32` or `bfloat16`; None: as the weights are stored.

    Raises:
        Failed: the folder holds no model that can be read.
    """
    tokenizer = load_tokenizer(str(path))
    model = load_model(str(path), str(adapter) if adapter else None, dtype or stored_dtype(path), head=False)
    return Speaker(model.to(device).eval(), tokenizer)


def stored_dtype(path: Path) -> str:
    """Type of the weights in a checkpoint's folder, as its config says."""
    from transformers import AutoConfig

    dtype = AutoConfig.from_pretrained(str(path), trust_remote_code=False, local_files_only=True).dtype
    return str(dtype).removeprefix("torch.") if dtype is not None else "float32"


def prompt_text(tokenizer: Any, prompt: str | Sequence[Message]) -> str:
    """The text a model reads for a prompt: messages through its chat template, a plain string as it is."""
    if isinstance(prompt, str):
        return prompt
    return str(tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True))


@contextmanager
def _whole_rows(model: Any) -> Iterator[None]:
    """Hand the output layer whole rows of memory.

    The last position of each prompt is a slice with gaps. With a frozen output layer torch then copies its weights once a prompt, which
    takes gigabytes and most of the time of short answers.
    """
    config = model.config.get_text_config()
    balances = getattr(config, "output_router_logits", None)
    if balances:  # a mixture of experts would balance them over the prompt's tokens, while only the latest token is there
        config.output_router_logits = False
    output = model.get_output_embeddings()
    hook = output.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:])) if output is not None else None
    try:
        yield
    finally:
        if balances:
            config.output_router_logits = balances
        if hook is not None:
            hook.remove()


def answer(
    speaker: Speaker, prompts: Sequence[str | Sequence[Message]], *, max_new_tokens: int = 64, batch_size: int = 16
) -> Iterator[str]:
    """Greedy answers, one for each prompt, in order.

    A prompt in the form of messages goes through the chat template; a string is continued as it stands.
    """
    import torch

    model, tokenizer = speaker.model, speaker.tokenizer
    for start in range(0, len(prompts), batch_size):
        texts = [prompt_text(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
        # Padding goes to the left, so that every answer begins right after its prompt; the template has put the special tokens in.
        inputs = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=isinstance(prompts[start], str)
        )
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items() if name in ("input_ids", "attention_mask")}
        # Not inference_mode: what a model caches meanwhile may be needed for gradients, when it is in training.
        with _whole_rows(model), torch.no_grad():
            tokens = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                use_cache=True,  # trainers switch it off in the model's config
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
            )
        yield from tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
