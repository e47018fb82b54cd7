"""One answer of a loaded model, token by token: sampled or greedy, cut off when asked. Loads nothing, writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from worker.generate import Message, Speaker, prompt_text
from worker.reporting import Failed


@dataclass(frozen=True)
class Said:
    """A whole answer."""

    text: str
    tokens: int
    prompt_tokens: int
    seconds: float
    finish: str
    """stop, length or stopped."""

    def as_dict(self) -> dict[str, Any]:
        """The answer as a message to the supervisor."""
        return asdict(self)


class Text:
    """Turns tokens into text as they come. What may still change (half a character) is held back."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._from = self._read = 0

    def _decoded(self, start: int, end: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:end], skip_special_tokens=True))

    def add(self, token: int) -> str:
        """The text that one more token brings; empty while it is not whole."""
        self._ids.append(token)
        # Decoded from a few tokens back, since some tokenizers treat the first of a text in another way.
        before, with_it = self._decoded(self._from, self._read), self._decoded(self._from, len(self._ids))
        if with_it.endswith("\ufffd") or len(with_it) <= len(before):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return with_it[len(before) :]

    def whole(self) -> str:
        """All of the text."""
        return str(self._tokenizer.batch_decode([self._ids], skip_special_tokens=True)[0])


def prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, bool]:
    """The text a model reads, and whether the tokenizer still has to put its first token before it.

    Raises:
        Failed: the model's template refuses the messages.
    """
    if not tokenizer.chat_template:  # a base model goes on with what was said
        return "\n\n".join(message["content"] for message in messages), True
    try:
        return prompt_text(tokenizer, messages), False
    except Exception as error:  # boundary: templates of models raise what they like
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise Failed(
            f"The model's chat template refuses this conversation: {first}. Leave the system prompt out, or take another."
        ) from error


def context_of(model: Any) -> int | None:
    """How many tokens a model reads at most, where its config says so."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    found = getattr(config, "max_position_embeddings", None)
    return int(found) if isinstance(found, int) and found > 0 else None


def say(
    speaker: Speaker,
    messages: Sequence[Message],
    sampling: dict[str, Any],
    *,
    heard: Callable[[str, int], None],
    stop: Callable[[], bool],
) -> Said:
    """Answer messages.

    Args:
        sampling: `{temperature, top_p, max_new_tokens, seed}`; temperature 0 is greedy.
        heard: gets each new piece of text with the number of tokens so far.
        stop: asked before each token; True ends the answer.

    Raises:
        Failed: the messages are longer than the model reads, or its template refuses them.
    """
    import torch

    model, tokenizer = speaker.model, speaker.tokenizer
    asked, special = prompt(tokenizer, messages)
    inputs = tokenizer([asked], return_tensors="pt", add_special_tokens=special)
    inputs = {name: tensor.to(model.device) for name, tensor in inputs.items() if name in ("input_ids", "attention_mask")}
    length = int(inputs["input_ids"].shape[1])
    limit, most = context_of(model), int(sampling["max_new_tokens"])
    if limit is not None and length >= limit:
        raise Failed(
            f"The conversation has {length:,} tokens, and this model reads at most {limit:,}. Start a new one, or say less.", "too_long"
        )
    most = most if limit is None else min(most, limit - length)
    text, count, stopped, newest = Text(tokenizer), 0, False, -1

    class Listener:
        """Gets the prompt first, then each token, from `generate`."""

        def __init__(self) -> None:
            self.first = True

        def put(self, value: Any) -> None:
            nonlocal count, newest
            if self.first:
                self.first = False
                return
            for token in value.flatten().tolist():
                count, newest = count + 1, token
                piece = text.add(token)
                if piece:
                    heard(piece, count)

        def end(self) -> None:
            """Nothing is held back that `whole` does not give."""

    def ended(ids: Any, _scores: Any, **_: Any) -> Any:
        nonlocal stopped
        stopped = stopped or stop()
        return torch.full((ids.shape[0],), stopped, dtype=torch.bool, device=ids.device)

    greedy = float(sampling["temperature"]) == 0
    chosen = {"temperature": None, "top_p": None} if greedy else {name: float(sampling[name]) for name in ("temperature", "top_p")}
    if not greedy:
        seed = sampling.get("seed")
        torch.manual_seed(seed if seed is not None else torch.seed() % 2**31)
    started = time.monotonic()
    with torch.no_grad():
        model.generate(
            **inputs,
            **chosen,
            max_new_tokens=most,
            do_sample=not greedy,
            use_cache=True,
            top_k=None if greedy else 0,
            pad_token_id=tokenizer.pad_token_id,
            streamer=Listener(),
            stopping_criteria=[ended],
        )
    ends = model.generation_config.eos_token_id
    is_end = newest in (ends if isinstance(ends, list) else [ends, tokenizer.eos_token_id])
    finish = "stopped" if stopped and not is_end else "stop" if is_end or count < most else "length"
    return Said(text.whole(), count, length, time.monotonic() - started, finish)
