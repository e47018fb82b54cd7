"""Child process that measures a dataset with a model's tokenizer, token for token as trl's trainers see it. Touches no database."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from app.datasets.tokens import SHOWN_TOKENS
from app.storage import fsync_file
from worker.reporting import Failed, Report
from worker.rows import read, to_trl

_BROKEN = "\ufffd"


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

    def text(self, token: int) -> tuple[str, str | None]:
        """A token as text; where it is only a part of a letter, also its bytes in hex."""
        text = str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))
        if _BROKEN not in text:
            return text, None
        raw = _raw(str(self._tokenizer.convert_ids_to_tokens(token)))
        return text, raw.hex() if raw is not None else None


def _raw(name: str) -> bytes | None:
    """The bytes of a token: named by them (`<0xE2>`), or written in the letters that byte-level vocabularies use for bytes."""
    if len(name) == 6 and name.startswith("<0x"):
        return bytes.fromhex(name[3:5])
    try:
        return bytes(_LETTERS[letter] for letter in name)
    except KeyError:
        return None


def _byte_letters() -> dict[str, int]:
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


_LETTERS = _byte_letters()


class _Kept:
    """Writes the tokens of the first rows, until there are enough of them."""

    def __init__(self, file: Path, most: int) -> None:
        self._file, self._most = file, most
        self._temporary = file.with_name(f".{file.name}.{os.getpid()}")
        self._stream = open(self._temporary, "wb", buffering=1024 * 1024)  # noqa: SIM115  # closed in finish
        self._tokens = 0
        self.rows = 0
        self.ids: set[int] = set()
        self._open = True

    def add(self, sequences: list[list[int]]) -> None:
        """Keep a row, if there is room for it and was for all before it."""
        cut = [ids[:SHOWN_TOKENS] for ids in sequences]
        size = sum(map(len, cut))
        self._open = self._open and self._tokens + size <= self._most
        if self._open:
            for ids in cut:
                self._stream.write(np.asarray(ids, dtype="<u4").tobytes())
                self.ids.update(ids)
            self._tokens += size
            self.rows += 1

    def finish(self) -> None:
        """Put the file in place."""
        self._stream.close()
        fsync_file(self._temporary)
        self._temporary.rename(self._file)

    def discard(self) -> None:
        """Leave nothing behind."""
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


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
        spec: rows (file), count (of rows), shape, tokenizer (folder), out (`.npy` to write), kept_tokens (how many are kept
            one by one, row after row).

    Returns:
        tokens and trained_tokens of all rows, and how many rows are kept token by token.

    Raises:
        Failed: tokenizer or chat template do not work with these rows.
    """
    report.progress(0, spec["count"], "Loading the tokenizer")
    counter = Counter(load_tokenizer(spec["tokenizer"]), spec["shape"])
    lengths = np.zeros((spec["count"], 3 if spec["shape"] == "preference" else 2), dtype=np.uint32)
    held = np.zeros(spec["count"], dtype=bool)
    out = Path(spec["out"])
    kept = _Kept(out.with_suffix(".ids"), spec["kept_tokens"])
    try:
        _count(spec, counter, lengths, held, kept, report)
        words: dict[str, dict[str, str]] = {"texts": {}, "bytes": {}}
        for token in sorted(kept.ids):
            words["texts"][str(token)], raw = counter.text(token)
            if raw is not None:
                words["bytes"][str(token)] = raw
        kept.finish()
    except BaseException:
        kept.discard()
        raise
    _replace(out.with_suffix(".json"), json.dumps(words).encode())
    for file, values in ((out.with_suffix(".eval.npy"), held), (out, lengths)):
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        with open(temporary, "wb") as stream:
            np.save(stream, values, allow_pickle=False)
        fsync_file(temporary)
        temporary.rename(file)
    full = lengths[:, 1:].astype(np.int64)
    return {"tokens": int(full.sum()), "trained_tokens": int((full - lengths[:, :1]).sum()), "shown_rows": kept.rows}


def _count(spec: dict[str, Any], counter: Counter, lengths: Any, held: Any, kept: _Kept, report: Report) -> None:
    """Measure every row."""
    said = time.monotonic()
    for number, record in enumerate(read(spec["rows"])):
        try:
            prompt, sequences = counter.sequences(record["row"])
        except Exception as error:  # boundary: a chat template may raise anything, TemplateError above all
            words = f"The tokenizer's chat template does not take the row of line {record['line']:,}: {str(error)[:300]}"
            raise Failed(words, "data") from error
        lengths[number] = [prompt, *map(len, sequences)]
        held[number] = record["split"] == "eval"
        kept.add(sequences)
        if time.monotonic() - said > 0.5:
            said = time.monotonic()
            report.progress(number, spec["count"], f"{number:,} rows counted")


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_bytes(content)
    fsync_file(temporary)
    temporary.rename(file)
