"""A child imports no library that its job does not need: that would take seconds from every answer and every run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.checkpoints.bits import Bits

pytest.importorskip("torch", reason="needs the train extra")
pytestmark = pytest.mark.train

PROGRAM = """
import json, sys
from worker.child import leave_out
leave_out(json.loads(sys.argv[1]))
from importlib.util import find_spec
from peft import PeftModel
print(",".join(name for name in ("bitsandbytes", "sklearn") if find_spec(name) is not None))
"""


def test_an_adapter_of_quantised_weights_needs_what_quantises(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    for adapter, imported in ((tmp_path, ""), (tmp_path / "held", "bitsandbytes")):
        adapter.mkdir(exist_ok=True)
        if imported:
            Bits("nf4").keep(adapter)
        spec = json.dumps({"candidates": [{"path": "x", "adapter": None}, {"path": "x", "adapter": str(adapter)}]})
        done: Any = subprocess.run([sys.executable, "-c", PROGRAM, spec], capture_output=True, text=True, timeout=120, check=True)
        assert done.stdout.strip().split("\n")[-1] == imported


@pytest.mark.parametrize(
    ("spec", "imported"),
    [
        ('{"method": "sft", "tuner_params": {"r": 4, "quantization": "none"}}', ""),
        ("{}", ""),
        ('{"tuner_params": {"quantization": "nf4"}}', "bitsandbytes"),
        ('{"method": "features", "tuner_params": {}}', "sklearn"),
    ],
)
def test_only_what_the_job_needs_can_be_imported(spec: str, imported: str) -> None:
    for name in filter(None, [imported]):
        pytest.importorskip(name)
    done: Any = subprocess.run([sys.executable, "-c", PROGRAM, spec], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip().split("\n")[-1] == imported
