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

ROWS, INDEX = "rows.jsonl", "rows.idx"
_TRAIN, _EVAL = b'{"split":"train"', b'{"split":"eval"'


def plain(value: Any) -> Any:
    """What a column of Parquet may hold and JSON cannot, as text; for `orjson.dumps(default=…)`."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


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
        self._sha = sha256()

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

    def finish(self, eval_share: float | None) -> dict[str, Any]:
        """Put the files in place.

        Returns:
            rows, train_rows, eval_rows and sha256 of the rows in order with their sides.
        """
        chosen = self._choose(eval_share) if eval_share else np.zeros(len(self), dtype=bool)
        self._stream.close()
        if chosen.any():
            self._mark(chosen)
        self._sha.update(np.packbits(chosen).tobytes() if chosen.any() else b"")
        index = self._folder / f"{self._temporary.name}.idx"
        with open(index, "wb") as stream:
            np.frombuffer(self._offsets, dtype=np.uint64).astype("<u8").tofile(stream)
        for file in (self._temporary, index):
            fsync_file(file)
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
