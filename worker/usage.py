"""What a trainer and its machine use: processor, memory, GPU, free disk. Measured in a thread of its own, so that no step waits for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import psutil

EVERY_SECONDS = 10.0
FIRST_SECONDS = 1.0
_GPU = {
    "gpu_percent": "utilization.gpu",
    "gpu_memory_bytes": "memory.used",
    "gpu_power_watts": "power.draw",
    "gpu_celsius": "temperature.gpu",
}
_MIB = 1024**2


class Usage:
    """Measures every ten seconds; whoever reports takes what is new. Knows no torch: the GPU is asked through `nvidia-smi`."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._cores = psutil.cpu_count() or 1
        self._tool = shutil.which("nvidia-smi") if os.environ.get("CUDA_VISIBLE_DEVICES", "0") else None
        self._folder = Path()
        self._newest: dict[str, float] | None = None
        self._taken = False
        self._lock = threading.Lock()

    def start(self, folder: Path) -> None:
        """Begin to measure; `folder` lies on the disk that checkpoints are written to."""
        self._folder = folder
        self._process.cpu_percent()  # from here on
        psutil.cpu_percent()
        threading.Thread(target=self._work, name="usage", daemon=True).start()

    def _work(self) -> None:
        never = threading.Event()
        wait = FIRST_SECONDS
        while not never.wait(wait):
            found = self.measure()
            with self._lock:
                self._newest = found
            wait = EVERY_SECONDS

    def take(self, *, last: bool = False) -> dict[str, float] | None:
        """What was measured since the last call; None when there is nothing new. With `last` a short run gets its one measure."""
        with self._lock:
            found, self._newest = self._newest, None
        if found is None and last and not self._taken:
            found = self.measure()
        self._taken = self._taken or found is not None
        return found

    def measure(self) -> dict[str, float]:
        """The use of this moment, by metric; what cannot be measured here is left out."""
        memory = psutil.virtual_memory()
        found = {
            "cpu_percent": self._process.cpu_percent() / self._cores,
            "rss_bytes": float(self._process.memory_info().rss),
            "host_cpu_percent": psutil.cpu_percent(),
            "host_memory_bytes": float(memory.total - memory.available),
        }
        with suppress(OSError):  # the folder is being moved; the next measure has it
            found["disk_free_bytes"] = float(shutil.disk_usage(self._folder).free)
        return {f"system/{name}": value for name, value in {**found, **self._gpu()}.items()}

    def _gpu(self) -> dict[str, float]:
        if self._tool is None:
            return {}
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0] or "0"
        asked = [self._tool, f"--query-gpu={','.join(_GPU.values())}", "--format=csv,noheader,nounits", f"--id={device}"]
        try:
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            self._tool = None  # it will not do better in ten seconds
            return {}
        return parse_gpu(answer)


def parse_gpu(answer: str) -> dict[str, float]:
    """The first line `nvidia-smi` printed; what it does not know (`[N/A]`) is left out."""
    line = answer.strip().partition("\n")[0]
    found = {}
    for name, text in zip(_GPU, line.split(","), strict=False):
        try:
            value = float(text)
        except ValueError:
            continue
        found[name] = value * _MIB if name.endswith("_bytes") else value
    return found
