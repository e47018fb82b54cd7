"""Child process that runs a recipe: its rows become sources, which are imported like uploads. Touches no database."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from app import recipes
from app.recipes.base import Row, WrittenRecipe
from worker import parse
from worker.reporting import Failed, Report


class _Source:
    """The source of one dataset: written beside, and put in place when it is whole."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._folder, self._name = Path(spec["folder"]), spec["source"]
        self._folder.mkdir(parents=True, exist_ok=True)
        self._temporary = self._folder / f".source-{os.getpid()}"
        self._stream = open(self._temporary, "wb")  # noqa: SIM115  # closed by close
        self._digest = sha256()
        self.rows = 0

    def add(self, row: Row) -> None:
        line = orjson.dumps(row) + b"\n"
        self._stream.write(line)
        self._digest.update(line)
        self.rows += 1

    def finish(self) -> None:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._temporary.rename(self._folder / self._name)

    def close(self) -> None:
        self._stream.close()
        self._temporary.unlink(missing_ok=True)

    def facts(self) -> dict[str, Any]:
        return {"source_bytes": (self._folder / self._name).stat().st_size, "source_sha256": self._digest.hexdigest()}


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Make one dataset, or all parts of one recipe whose rows a model writes.

    Args:
        spec: that of `worker.parse`, with recipe, params and part; where a model writes, `others` (part -> spec of `worker.parse` with
            the id of its dataset), `writing` (see `worker.writing`), and device and threads where checkpoints are asked.

    Returns:
        What `worker.parse` returns, with size and hash of the source; where a model writes, the same for the other datasets by id
        (`others`) and what came of it (`made`).

    Raises:
        Failed: the rows cannot be made or read.
    """
    recipe, params = recipes.check(spec["recipe"], spec["params"])
    if isinstance(recipe, WrittenRecipe):
        return _written(recipe, params, spec, report)

    def told() -> Iterator[tuple[str, Row]]:
        said = time.monotonic()
        for count, row in enumerate(recipe.generate(params, spec["part"]), 1):
            yield spec["part"], row
            if time.monotonic() - said > 0.25:
                said = time.monotonic()
                report.progress(count, None, f"{count:,} rows made")

    sources = _sources({spec["part"]: spec}, told())
    return {**parse.main(spec, report), **sources[spec["part"]].facts()}


def _sources(specs: dict[str, dict[str, Any]], rows: Iterable[tuple[str, Row]]) -> dict[str, _Source]:
    with ExitStack() as stack:
        sources = {}
        for part, spec in specs.items():
            sources[part] = _Source(spec)
            stack.callback(sources[part].close)
        for part, row in rows:
            if part in sources:  # its dataset may have been deleted
                sources[part].add(row)
        for source in sources.values():
            source.finish()
    return sources


def _written(recipe: WrittenRecipe, params: Any, spec: dict[str, Any], report: Report) -> dict[str, Any]:
    from worker.writing import Writing, journal_in

    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    journal = journal_in(folder)
    maker = Writing(spec["writing"], journal, report, device=spec.get("device", "cpu"), threads=spec.get("threads", 0))
    try:
        sources = _sources({spec["part"]: spec, **spec["others"]}, recipe.make(params, maker))
    except ValueError as error:
        raise Failed(f"The recipe cannot go on: {error}", "data") from error
    finally:
        journal.close()
    found: dict[str, dict[str, Any]] = {}
    made = maker.report()
    for part, told in {spec["part"]: spec, **spec["others"]}.items():
        found[part] = {**parse.main(told, report), **sources[part].facts()}
        if sources[part].rows == 0:
            found[part]["failed"] = " ".join(["The recipe made no row.", *made["words"]])
    first = found.pop(spec["part"])
    return {**first, "others": {spec["others"][part]["dataset"]: each for part, each in found.items()}, "made": made}
