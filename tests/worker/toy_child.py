"""A child for tests of the supervisor: does what its spec says, quickly and without torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from app.checkpoints.manifest import write_manifest
from worker.reporting import Failed, Report


def main(spec: dict[str, Any], report: Report) -> dict[str, Any]:
    """Steps with a loss each, a checkpoint every `save` steps, and the accident asked for at one step of one attempt."""
    total, save = spec["total"], spec["save"]
    report.send("total", steps=total)
    Path(spec["work"], "environment").write_text("\n".join(sorted(os.environ)))
    for step in range(spec["resume_step"] + 1, total + 1):
        time.sleep(spec.get("pause", 0.0))
        report.send("metrics", step=step, values={"loss": 1.0 / step})
        report.send("step", step=step)
        accident = spec.get("accident") or {}
        if accident.get("step") == step and spec["attempt"] <= accident.get("attempts", 1):
            _happen(accident["what"])
        if step % save == 0 or step == total or report.pause_asked.is_set():
            folder = Path(spec["work"]) / f"checkpoint-{step}"
            folder.mkdir()
            (folder / "adapter_model.safetensors").write_bytes(str(step).encode())
            write_manifest(folder, run_id=spec["run_id"], step=step, attempt=spec["attempt"], config_hash="x")
            report.send("checkpoint", step=step, folder=str(folder), tuner_kind="adapter")
        if report.pause_asked.is_set():
            return {"outcome": "paused", "step": step}
    return {"outcome": "finished", "step": total}


def _happen(what: str) -> None:
    if what == "kill":
        time.sleep(0.6)  # let the messages be written first
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "exit":
        os._exit(3)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "config":
        raise Failed("The learning rate is wrong.", "config")
    elif what == "oom":
        raise Failed("The device ran out of memory.", "oom")
    elif what == "disk":
        raise OSError(28, "No space left on device")
    elif what == "crash":
        raise RuntimeError("boom")
