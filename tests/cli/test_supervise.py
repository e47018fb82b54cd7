"""The supervisor's own rules: back-off, killing what does not end, one per HOME."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from app.commands import supervise
from app.commands.supervise import Child, Log
from app.errors import Conflict
from app.settings import Settings
from tests.cli.studio import gone, until


def ended(child: Child) -> int:
    return until(lambda: None if (code := child.look()) is None else code + 1000, 20, "the child does not end") - 1000


def test_a_child_that_dies_waits_longer_each_time_up_to_half_a_minute() -> None:
    said = io.StringIO()
    child = Child("web", [sys.executable, "-c", "print('hello'); raise SystemExit(3)"], {}, Log(said))
    waits = []
    for _ in range(7):
        child.due = 0.0
        assert child.look() is None
        assert ended(child) == 3
        waits.append(round(child.due - time.monotonic()))
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    until(lambda: said.getvalue().count("web    | hello") == 7, 5, said.getvalue())
    assert "web ended (exit code 3); starting it again in 16 s." in said.getvalue()


def test_a_child_that_lived_a_minute_starts_its_back_off_anew() -> None:
    child = Child("web", [sys.executable, "-c", ""], {}, Log(None))
    child.delay = 30.0
    child.look()
    child.started -= 61
    ended(child)
    assert round(child.due - time.monotonic()) == 1


def test_what_ignores_the_order_to_end_is_killed_with_all_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "GRACE_SECONDS", 0.5)
    stubborn = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn += "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
    stubborn += "print('up', flush=True); time.sleep(60)"
    said = io.StringIO()
    child = Child("worker", [sys.executable, "-c", stubborn], {}, Log(said))
    child.start()
    until(lambda: "up" in said.getvalue(), 10, said.getvalue())
    assert child.process is not None
    whole = [psutil.Process(child.process.pid), *psutil.Process(child.process.pid).children()]
    assert len(whole) == 2
    began = time.monotonic()
    supervise.end([child], threading.Event())
    assert time.monotonic() - began < 5
    until(lambda: all(gone(process) for process in whole), 5, "something is left")


def test_one_supervisor_per_home_and_a_crash_is_remembered(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    with supervise.only_one(settings) as untidy:
        assert not untidy
        with pytest.raises(Conflict, match="already runs"), supervise.only_one(settings):
            pass
    with pytest.raises(RuntimeError), supervise.only_one(settings):
        raise RuntimeError("a crash")
    with supervise.only_one(settings) as untidy:
        assert untidy
    with supervise.only_one(settings) as untidy:
        assert not untidy


def test_a_browser_is_opened_only_for_somebody_at_a_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    assert not supervise.has_desktop()
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert supervise.has_desktop()
    monkeypatch.setenv("SSH_CONNECTION", "somewhere")
    assert not supervise.has_desktop()
