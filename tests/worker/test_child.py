"""A child imports no library that its job does not need: that would take seconds from every answer and every run."""

from __future__ import annotations

import shutil
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


HIDDEN = """
import sys
from pathlib import Path
from worker.child import leave_out
hidden = leave_out({})
from worker import loading
base, held = sys.argv[1:]
loading.load_model(base, None, "float32")
assert sys.modules["bitsandbytes"] is None, "the first model needs nothing of it"
model = loading.load_model(base, held, "float32")
whole = loading.load_model(base, None, "float32")
rounded = model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight
assert 1e-3 < (rounded - whole.model.layers[0].mlp.up_proj.weight).abs().max() < 1
print(",".join(hidden))
"""


def test_what_was_left_out_is_there_when_an_adapter_turns_out_to_need_it(tmp_path: Path) -> None:
    """The child that answers in the playground lives long, and does not know at its start which models it will be asked."""
    pytest.importorskip("bitsandbytes")
    from tests.methods.child import tiny_lora_folder
    from tests.models import tiny_llama_folder

    held = tmp_path / "held"
    shutil.copytree(tiny_lora_folder(1), held)
    Bits("nf4").keep(held)
    command = [sys.executable, "-c", HIDDEN, str(tiny_llama_folder()), str(held)]
    done: Any = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0 and "bitsandbytes" in done.stdout, done.stderr[-2000:]


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
