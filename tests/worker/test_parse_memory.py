"""Imports in a real, memory-limited child: large files, a line of 200 MB, a Parquet page that unpacks to more than there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.worker.test_parse import PAIR, PAIRS, lines


def child(folder: Path, kind: str, **spec: Any) -> tuple[dict[str, Any], int]:
    """Run a real child; its last message and its peak resident memory in bytes."""
    file = folder / "spec.json"
    limits = {"max_line_bytes": 16 * 1024**2, "max_rows": 5_000_000, "max_bytes": 10**10, "memory_bytes": 1024**3}
    file.write_text(
        json.dumps({"module": "worker.parse", "folder": str(folder), "source": f"source.{kind}", "format": kind, **limits, **spec})
    )
    code = (
        "import re, sys\n"
        "import worker.child as child\n"
        f"sys.argv = ['child', {str(file)!r}]\n"
        "child.main()\n"
        "print('PEAK', int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=300)
    *messages, peak = done.stdout.strip().splitlines()
    return json.loads(messages[-1]), int(peak.split()[1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_large_file_never_sits_in_memory(tmp_path: Path, kind: str) -> None:
    """150 MB are imported within 300 MB: what grows with the file is 32 bytes a row."""
    answer = "word " * 3000
    source = tmp_path / f"source.{kind}"
    rows = ({"prompt": f"question {n}", "completion": answer} for n in range(10_000))
    if kind == "parquet":
        with pq.ParquetWriter(
            source, pa.schema([("prompt", pa.string()), ("completion", pa.string())]), compression="none", use_dictionary=False
        ) as writer:
            for start in range(0, 10_000, 500):
                part = [{"prompt": f"question {n}", "completion": answer} for n in range(start, start + 500)]
                writer.write_table(pa.Table.from_pylist(part))
    else:
        with open(source, "w") as out:
            out.write({"csv": "prompt,completion\n", "json": "[", "jsonl": ""}[kind])
            for number, row in enumerate(rows):
                if kind == "csv":
                    out.write(f"{row['prompt']},{row['completion']}\n")
                else:
                    out.write(("," if kind == "json" and number else "") + json.dumps(row) + ("\n" if kind == "jsonl" else ""))
            out.write("]" if kind == "json" else "")
    assert source.stat().st_size > 150_000_000
    message, peak = child(tmp_path, kind)
    assert message["kind"] == "result", message
    assert message["result"]["rows"] == 10_000
    assert peak < 300 * 1024**2


@pytest.mark.slow
def test_one_line_of_200_megabytes(tmp_path: Path) -> None:
    with open(tmp_path / "source.jsonl", "w") as out:
        out.write(lines(PAIR) + '{"prompt": "')
        for _ in range(200):
            out.write("x" * 1024**2)
        out.write('", "completion": "y"}\n' + lines(PAIRS[0]))
    message, peak = child(tmp_path, "jsonl")
    assert (message["result"]["rows"], message["result"]["errors"]) == (2, 1)
    assert message["result"]["problems"][0]["line"] == 2
    assert peak < 200 * 1024**2


@pytest.mark.slow
def test_parquet_that_needs_too_much_memory_says_so(tmp_path: Path) -> None:
    """One page that unpacks to more than the child may take ends it with a sentence."""
    table = pa.table({"text": pa.array(["z" * 150_000_000] * 3, pa.large_string())})
    pq.write_table(table, tmp_path / "source.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "source.parquet").stat().st_size < 1_000_000
    message, _ = child(tmp_path, "parquet", memory_bytes=512 * 1024**2)
    assert message["kind"] == "fatal" and message["code"] == "memory" and "memory" in message["reason"]
