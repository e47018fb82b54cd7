"""What a trainer uses is measured beside its steps: every field there is, one measure of a short run, the words of a GPU's tool."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from worker import usage
from worker.usage import Usage


def test_a_measure_holds_what_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here = Usage()
    here.start(tmp_path)
    found = here.measure()
    assert set(found) == {
        f"system/{name}" for name in ("cpu_percent", "rss_bytes", "host_cpu_percent", "host_memory_bytes", "disk_free_bytes")
    }
    assert found["system/rss_bytes"] > 1e6 and found["system/disk_free_bytes"] > 0
    assert 0 <= found["system/cpu_percent"] <= 100.5 and 0 <= found["system/host_cpu_percent"] <= 100


def test_a_folder_that_is_gone_costs_only_its_number(tmp_path: Path) -> None:
    here = Usage()
    here.start(tmp_path / "gone")
    assert "system/disk_free_bytes" not in here.measure() and "system/rss_bytes" in here.measure()


def test_a_run_that_ends_before_the_first_measure_has_one(tmp_path: Path) -> None:
    here = Usage()
    here.start(tmp_path)
    assert here.take() is None
    assert here.take(last=True)
    assert here.take(last=True) is None


def test_each_measure_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "FIRST_SECONDS", 0.01)
    here = Usage()
    here.start(tmp_path)
    for _ in range(1000):
        first = here.take()
        if first:
            break
        usage.threading.Event().wait(0.01)
    assert first and here.take() is None


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("87, 1024, 312.50, 61\n", {"gpu_percent": 87.0, "gpu_memory_bytes": 2.0**30, "gpu_power_watts": 312.5, "gpu_celsius": 61.0}),
        ("[N/A], 512, [Not Supported], 40", {"gpu_memory_bytes": 2.0**29, "gpu_celsius": 40.0}),
        ("", {}),
        ("No devices were found", {}),
    ],
)
def test_what_the_tool_of_the_gpu_says(answer: str, found: dict[str, float]) -> None:
    assert usage.parse_gpu(answer) == found


def test_the_gpu_of_this_process_is_asked_and_a_tool_that_fails_only_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ncase "$*" in *--id=3*) echo "5, 1, 100, 30";; *) exit 9;; esac\n')
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert Usage().measure()["system/gpu_percent"] == 5.0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    broken = Usage()
    asked = [broken.measure() for _ in range(3)]
    assert all("system/gpu_percent" not in each for each in asked)
    assert len((tmp_path / "asked").read_text().splitlines()) == 2
