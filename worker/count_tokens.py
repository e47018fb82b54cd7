"""Child process that measures a dataset with a model's tokenizer, token for token as trl's trainers see it. Touches no database."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from app.storage import fsync_file
from worker.reporting import Failed, Report
from worker.rows import read, to_trl

_SHOWN_TOKENS = 2000


class Counter:
    """Tokenises rows the way `SFTTrainer` and `DPOTrainer` of trl 1.16 prepare them (one test compares the two)."""

    def __init__(self, tokenizer: Any, shape: str) -> None:
        self._tokenizer, self._shape = tokenizer, shape
        self._template = bool(tokenizer.chat_template)
        self._eos: str = tokenizer.eos_token or ""

    def sequences(self, row: dict[str, Any]) -> tuple[int, list[list[int]]]:
        """Length of the prompt, and the token ids of each full sequence (one; for a preference chosen and rejected)."""
        sides = to_trl(row, self._shape, self._template)
        if self._shape == "text":
            return 0, [self._ids(self._ended(sides["text"]))]
        if self._shape in ("labelled", "prompt"):
            only = self._ids(sides["text"]) if self._shape == "labelled" else self._prompt(sides["prompt"])
            return len(only), [only]
        answers = ["chosen", "rejected"] if self._shape == "preference" else ["completion"]
        prompt = self._prompt(sides["prompt"])
        full = [self._ids(sides["prompt"] + (sides[name] if self._template else self._ended(sides[name]))) for name in answers]
        # The answer begins where the two diverge, which is not always after the prompt.
        return min(_common(prompt, ids) for ids in full), full

    def _prompt(self, prompt: Any) -> list[int]:
        return self._ids(prompt, add_generation_prompt=True) if isinstance(prompt, list) else self._ids(prompt)

    def _ended(self, text: str) -> str:
        return text if not self._eos or text.endswith(self._eos) else text + self._eos

    def _ids(self, value: Any, **options: Any) -> list[int]:
        if isinstance(value, list):
            encoded = self._tokenizer.apply_chat_template(value, tokenize=True, return_dict=True, **options)
        else:
            encoded = self._tokenizer(text=value)
        return list(encoded["input_ids"])

    def shown(self, prompt: int, sequences: list[list[int]]) -> dict[str, Any]:
        """A row token by token."""
        sides = [
            [
                {"text": self._tokenizer.decode([token]), "id": token, "trained": place >= prompt}
                for place, token in enumerate(ids[:_SHOWN_TOKENS])
            ]
            for ids in sequences
        ]
        return {"tokens": sides[0], "rejected": sides[1] if len(sides) > 1 else None, "truncated": max(map(len, sequences)) > _SHOWN_TOKENS}


def _common(one: list[int], other: list[int]) -> int:
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def load_tokenizer(folder: str) -> Any:
    """The tokenizer of a checkpoint's folder; no code of the folder is run.

    Raises:
        Failed: there is none that can be read.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise Failed(f"The tokenizer of the checkpoint cannot be read: {str(error).splitlines()[0][:300]}", "model") from None


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Count one dataset.

    Args:
        spec: rows (file), count (of rows), shape, tokenizer (folder), out (`.npy` to write), shown_rows.

    Returns:
        tokens and trained_tokens of all rows.

    Raises:
        Failed: tokenizer or chat template do not work with these rows.
    """
    report.progress(0, spec["count"], "Loading the tokenizer")
    counter = Counter(load_tokenizer(spec["tokenizer"]), spec["shape"])
    lengths = np.zeros((spec["count"], 3 if spec["shape"] == "preference" else 2), dtype=np.uint32)
    held = np.zeros(spec["count"], dtype=bool)
    shown: list[dict[str, Any]] = []
    said = time.monotonic()
    for number, record in enumerate(read(spec["rows"])):
        try:
            prompt, sequences = counter.sequences(record["row"])
        except Exception as error:  # boundary: a chat template may raise anything, TemplateError above all
            words = f"The tokenizer's chat template does not take the row of line {record['line']:,}: {str(error)[:300]}"
            raise Failed(words, "data") from error
        lengths[number] = [prompt, *map(len, sequences)]
        held[number] = record["split"] == "eval"
        if number < spec["shown_rows"]:
            shown.append(counter.shown(prompt, sequences))
        if time.monotonic() - said > 0.5:
            said = time.monotonic()
            report.progress(number, spec["count"], f"{number:,} rows counted")
    out = Path(spec["out"])
    _replace(out.with_suffix(".json"), json.dumps(shown).encode())
    for file, values in ((out.with_suffix(".eval.npy"), held), (out, lengths)):
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        with open(temporary, "wb") as stream:
            np.save(stream, values, allow_pickle=False)
        fsync_file(temporary)
        temporary.rename(file)
    full = lengths[:, 1:].astype(np.int64)
    return {"tokens": int(full.sum()), "trained_tokens": int((full - lengths[:, :1]).sum())}


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    fsync_file(temporary)
    temporary.rename(file)
