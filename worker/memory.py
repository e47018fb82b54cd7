"""How much memory the devices of this machine have and how much is in use, asked of the system and the driver. Imports no torch."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it."""

    slot: str
    """Such as `cuda:0`."""
    name: str
    total: int
    used: int


def gpus() -> list[Gpu]:
    """The GPUs of this machine; none where there is no driver that answers."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    found = []
    for line in answer.stdout.splitlines():
        index, name, total, used = (part.strip() for part in line.split(",", 3))
        found.append(Gpu(f"cuda:{index}", name, int(float(total)) * 1024**2, int(float(used)) * 1024**2))
    return found


def free_bytes(slot: str) -> tuple[int, int]:
    """Free and whole memory of a device slot: `cpu` or `cuda:N`."""
    if slot == "cpu":
        memory = psutil.virtual_memory()
        return memory.available, memory.total
    gpu = next((gpu for gpu in gpus() if gpu.slot == slot), None)
    return (gpu.total - gpu.used, gpu.total) if gpu else (0, 0)
