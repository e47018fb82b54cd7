"""Child process that runs a recipe: its rows become a source, which is imported like an upload. Touches no database."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from app import recipes
from worker import parse
from worker.reporting import Report


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Make one dataset.

    Args:
        spec: that of `worker.parse`, with recipe, params and part.

    Returns:
        What `worker.parse` returns, with size and hash of the source.

    Raises:
        Failed: the rows cannot be made or read.
    """
    recipe, params = recipes.check(spec["recipe"], spec["params"])
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".source-{os.getpid()}"
    digest, count, said = sha256(), 0, time.monotonic()
    try:
        with open(temporary, "wb") as stream:
            for row in recipe.generate(params, spec["part"]):
                line = orjson.dumps(row) + b"\n"
                stream.write(line)
                digest.update(line)
                count += 1
                if time.monotonic() - said > 0.25:
                    said = time.monotonic()
                    report.progress(count, None, f"{count:,} rows made")
            stream.flush()
            os.fsync(stream.fileno())
        source = folder / spec["source"]
        temporary.rename(source)
    finally:
        temporary.unlink(missing_ok=True)
    return {**parse.main(spec, report), "source_bytes": source.stat().st_size, "source_sha256": digest.hexdigest()}
