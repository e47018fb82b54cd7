"""Run an import the way a worker does, in this process or as the real child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.checkpoints.schemas import STEPS

ROOT = Path(__file__).resolve().parents[2]


def spec_for(tmp_path: Path, source: str, ref: str | Path, **more: Any) -> dict[str, Any]:
    """What the supervisor would tell the child; everything it writes lies in `tmp_path`."""
    work = tmp_path / "storage" / "work" / "job"
    work.mkdir(parents=True, exist_ok=True)
    target = tmp_path / "storage" / "checkpoints" / "ckpt_1"
    steps = [*STEPS[source], *(["Asking the model a question"] if more.get("expect") else [])]
    return {
        "source": source,
        "ref": str(ref),
        "revision": None,
        "allowed": None,
        "steps": steps,
        "work": str(work),
        "target": str(target),
        **more,
    }


def as_child(spec: dict[str, Any], folder: Path) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, messages and log of the real child process."""
    file = folder / "spec.json"
    file.write_text(json.dumps({**spec, "module": "worker.import_checkpoint", "job_id": "job_1", "lease_seconds": 30.0}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-m", "worker.child", str(file)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr


def nothing_left(spec: dict[str, Any]) -> bool:
    """Whether a failed import has left no file anywhere."""
    return not Path(spec["target"]).exists() and not [file for file in Path(spec["work"]).rglob("*") if file.is_file()]
