"""The web process is light: it imports nothing that trains and takes little memory."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import Stack

PROGRAM = """
import sys
import app.main
app.main.create_app().openapi()
too_heavy = ("torch", "transformers", "peft", "trl", "datasets", "celery", "pyarrow", "pandas", "accelerate")
heavy = [name for name in too_heavy if name in sys.modules]
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024
print(",".join(heavy), peak, sep=";")
"""


def test_the_web_application_imports_nothing_heavy(stack: Stack) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    heavy, megabytes = done.stdout.strip().split(";")
    assert heavy == ""
    assert float(megabytes) < 150
