"""Entry of every child process: `python -m worker.child SPEC.json`. Sets limits, fences itself, runs one module's `main`."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from worker.reporting import Failed, Report, watch

FAILED = 42


def _limit(spec: dict[str, Any]) -> None:
    memory = spec.get("memory_bytes")
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


def leave_out(spec: dict[str, Any]) -> list[str]:
    """Hide libraries that peft and transformers would import just because they are there, unless this job needs them: they take
    four seconds of processor time, at the beginning of every answer and every run. Returns what was hidden."""
    quantised = (spec.get("tuner_params") or {}).get("quantization", "none") != "none"
    needed = {"bitsandbytes": quantised, "sklearn": spec.get("method") == "features"}
    hidden = [name for name, wanted in needed.items() if not wanted and name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python marks what must not be imported
    return hidden


def main() -> int:
    """Run the module named by the spec; its failure becomes one message in words."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    report = Report()
    watch(report, spec.get("lease_seconds", 30.0))
    _limit(spec)
    leave_out(spec)
    try:
        result = importlib.import_module(spec["module"]).main(spec, report)
    except Failed as failure:
        report.send("fatal", code=failure.code, reason=failure.reason)
        return FAILED
    except MemoryError:
        report.send("fatal", code="memory", reason="This needed more memory than the limit allows.")
        return FAILED
    except Exception as error:  # boundary: the trace goes to the log, a sentence to the user
        traceback.print_exc()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            report.send(
                "fatal", code="disk_full", reason="The disk is full. Free some space and start this again; nothing half-written was kept."
            )
        else:
            report.send(
                "fatal", code="crash", reason=f"The program failed: {type(error).__name__}: {str(error)[:500]}. The log says where."
            )
        return FAILED
    report.send("result", result=result)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # no library's exit handlers: nothing may hang here
