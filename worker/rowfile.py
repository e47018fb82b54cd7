"""Writes the usable rows of a dataset: `rows.jsonl`, its index, the split by prompt, doubles. Reads no source."""

from __future__ import annotations

import contextlib
import os
from array import array
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from app.storage import fsync_file, fsync_folder

ROWS, INDEX, KEYS = "rows.jsonl", "rows.idx", "rows.keys"
"""The rows; where each begins; per row a hash of it, and one of its prompt but for case and spaces (little-endian uint64 pairs)."""
_TRAIN, _EVAL = b'{"split":"train"', b'{"split":"eval"'


def plain(value: Any) -> Any:
    """What a column of Parquet may hold and JSON cannot, as text; for `orjson.dumps(default=…)`."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def folded(prompt: Any) -> bytes:
    """A prompt without what does not matter to a reader: case, and how many spaces there are."""
    text = prompt if isinstance(prompt, str) else "\n".join(f"{message['role']}: {message['content']}" for message in prompt)
    return " ".join(text.casefold().split()).encode("utf-8", errors="surrogatepass")


def _letters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(len(message["content"]) for message in value)
    return sum(_letters(each) for each in value.values()) if isinstance(value, dict) else 1


class RowFile:
    """Takes rows in order and puts both files in place at the end; until then nothing of them is seen."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed.to_bytes(8, "little", signed=True)
        for left in folder.glob(".rows-*"):  # by a child that was killed
            left.unlink(missing_ok=True)
        self._temporary = folder / f".rows-{os.getpid()}"
        self._stream = open(self._temporary, "wb", buffering=1024 * 1024)  # noqa: SIM115  # closed in finish and discard
        self._offsets = array("Q", [0])
        self._lines = array("Q")
        self._whole = array("Q")  # hash of each row
        self._prompts = array("Q")  # seeded hash of each prompt
        self._asked = array("Q")  # hash of each prompt but for case and spaces
        self._characters = array("Q")
        self._sha = sha256()
        self._chosen = np.zeros(0, dtype=bool)

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def bytes(self) -> int:
        """Size of the rows so far."""
        return self._offsets[-1]

    def add(self, line: int, row: dict[str, Any], source: dict[str, Any], prompt: Any) -> None:
        """Append one usable row in its canonical fields, as it was in the source, and what it asks."""
        content = orjson.dumps(row)
        record = b'%s,"line":%d,"row":%s,"source":%s}\n' % (
            _TRAIN,
            line,
            content,
            orjson.dumps(source, default=plain, option=orjson.OPT_NON_STR_KEYS),
        )
        self._stream.write(record)
        self._offsets.append(self._offsets[-1] + len(record))
        self._lines.append(line)
        self._whole.append(int.from_bytes(blake2b(content, digest_size=8).digest(), "little"))
        self._prompts.append(int.from_bytes(blake2b(orjson.dumps(prompt), digest_size=8, key=self._seed).digest(), "little"))
        self._asked.append(int.from_bytes(blake2b(folded(prompt), digest_size=8).digest(), "little"))
        self._characters.append(_letters(row))
        self._sha.update(content + b"\n")

    def doubles(self, limit: int) -> tuple[int, list[tuple[int, int, dict[str, Any]]]]:
        """How many rows repeat an earlier one, and the first of them: line, line of the earlier one, canonical row."""
        hashes = np.frombuffer(self._whole, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if len(ordered) else np.array([], dtype=np.int64)
        firsts = np.repeat(order[starts], np.diff(np.append(starts, len(ordered))))
        again = order != firsts
        pairs = sorted(zip(order[again].tolist(), firsts[again].tolist(), strict=True))
        self._stream.flush()
        found = []
        with open(self._temporary, "rb") as rows:
            for number, first in pairs[:limit]:
                rows.seek(self._offsets[number])
                found.append((self._lines[number], self._lines[first], orjson.loads(rows.readline())["row"]))
        return len(pairs), found

    def choose(self, eval_share: float | None) -> None:
        """Decide which rows are for evaluation."""
        self._chosen = self._choose(eval_share) if eval_share else np.zeros(len(self), dtype=bool)

    def leaks(self, limit: int) -> tuple[int, list[tuple[int, int, dict[str, Any]]]]:
        """How many rows for evaluation ask what a row for training asks too, but for case and spaces, and the first: line, other, row."""
        asked = np.frombuffer(self._asked, dtype=np.uint64)
        train, held = np.flatnonzero(~self._chosen), np.flatnonzero(self._chosen)
        order = train[np.argsort(asked[train], kind="stable")]
        places = np.searchsorted(asked[order], asked[held])
        places[places == len(order)] = 0
        both = asked[order][places] == asked[held] if len(order) else np.zeros(len(held), dtype=bool)
        pairs = list(zip(held[both].tolist(), order[places[both]].tolist(), strict=True))
        return len(pairs), [(self._lines[number], self._lines[first], self._row(number)) for number, first in pairs[:limit]]

    def _row(self, number: int) -> dict[str, Any]:
        self._stream.flush()
        with open(self._temporary, "rb") as rows:
            rows.seek(self._offsets[number])
            found: dict[str, Any] = orjson.loads(rows.readline())["row"]
        return found

    def changes(self, before: Path) -> dict[str, int] | None:
        """How many rows are new and how many are gone, compared with another version's folder; None where that cannot be told."""
        if not (before / KEYS).is_file():
            return None
        old = np.memmap(before / KEYS, dtype="<u8", mode="r").reshape(-1, 2)[:, 0]
        hashes, sides = np.unique(np.concatenate((old, np.frombuffer(self._whole, dtype=np.uint64))), return_inverse=True)
        counts = np.bincount(sides[len(old) :], minlength=len(hashes)) - np.bincount(sides[: len(old)], minlength=len(hashes))
        return {"added": int(counts[counts > 0].sum()), "removed": int(-counts[counts < 0].sum())}

    def lengths(self, bins: int = 25) -> dict[str, Any]:
        """Characters of the rows: median, 95th percentile, and a histogram whose last bin is open."""
        counted = np.frombuffer(self._characters, dtype=np.uint64).astype(np.int64)
        width = max(1, -(-int(np.percentile(counted, 99)) // bins))
        step = next(size * 10**power for power in range(12) for size in (1, 2, 4, 5, 10) if size * 10**power >= width)
        counts = np.bincount(np.minimum(counted // step, bins - 1), minlength=bins)
        return {"width": step, "counts": counts.tolist(), "median": int(np.median(counted)), "p95": int(np.percentile(counted, 95))}

    def finish(self) -> dict[str, Any]:
        """Put the files in place.

        Returns:
            rows, train_rows, eval_rows and sha256 of the rows in order with their sides.
        """
        chosen = self._chosen
        self._stream.close()
        if chosen.any():
            self._mark(chosen)
        self._sha.update(np.packbits(chosen).tobytes() if chosen.any() else b"")
        index = self._folder / f"{self._temporary.name}.idx"
        with open(index, "wb") as stream:
            np.frombuffer(self._offsets, dtype=np.uint64).astype("<u8").tofile(stream)
        keys = self._folder / f"{self._temporary.name}.keys"
        with open(keys, "wb") as stream:
            pairs = (np.frombuffer(self._whole, dtype=np.uint64), np.frombuffer(self._asked, dtype=np.uint64))
            np.stack(pairs, axis=1).astype("<u8").tofile(stream)
        for file in (self._temporary, index, keys):
            fsync_file(file)
        keys.rename(self._folder / KEYS)
        index.rename(self._folder / INDEX)
        self._temporary.rename(self._folder / ROWS)
        fsync_folder(self._folder)
        held = int(chosen.sum())
        return {"rows": len(self), "train_rows": len(self) - held, "eval_rows": held, "sha256": self._sha.hexdigest()}

    def _choose(self, share: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Rows of the eval side: whole prompts in the order of their seeded hash, until the share is reached; never all."""
        hashes = np.frombuffer(self._prompts, dtype=np.uint64)
        _, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        wanted = max(1, round(share * len(hashes)))
        before = np.cumsum(counts) - counts
        taken = before < wanted
        if taken.all():
            taken[-1] = False
        return taken[group]

    def _mark(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> None:
        marked = self._temporary.with_name(f"{self._temporary.name}.split")
        offsets = array("Q", [0])
        with open(self._temporary, "rb") as rows, open(marked, "wb", buffering=1024 * 1024) as out:
            for line, is_eval in zip(rows, chosen, strict=True):
                record = _EVAL + line[len(_TRAIN) :] if is_eval else line
                out.write(record)
                offsets.append(offsets[-1] + len(record))
        marked.rename(self._temporary)
        self._offsets = offsets

    def discard(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk refuses once more what was not written yet
            self._stream.close()
        for file in self._folder.glob(f"{self._temporary.name}*"):
            file.unlink(missing_ok=True)
