"""A wheel, in an environment that holds it and what it declares and nothing else, migrates and serves pages. Downloads nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.servers import free_port

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built with the build backend that is installed here."""
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with the wheel and the distributions it declares, linked from this environment."""
    folder = tmp_path_factory.mktemp("clean venv")  # with a space
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for name in closure(wheel):
        link(metadata.distribution(name), packages)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", "--quiet", wheel],
        check=True,
        timeout=120,
    )
    return folder / "bin"


def closure(wheel: Path) -> set[str]:
    """Names of everything that the wheel's requirements bring, without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        requirements = re.findall(r"^Requires-Dist: (.+)$", archive.read(name).decode(), re.MULTILINE)
    found: set[str] = set()
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        found.add(canonicalize_name(requirement.name))
        for wanted in ("", *requirement.extras):
            needs = [(Requirement(each), wanted) for each in metadata.requires(requirement.name) or ()]
            waiting += [need for need in needs if canonicalize_name(need[0].name) not in found or need[0].extras]
    return found


def link(distribution: metadata.Distribution, packages: Path) -> None:
    """Show one distribution in another environment by links to its top-level names."""
    tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        target = packages / top
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(top))).resolve())


def test_the_wheel_carries_templates_static_files_and_migrations_and_nothing_of_the_workshop(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"app/_files/templates/base.html", "app/_files/migrations/env.py", "app/_files/static/vendor/htmx.js"} <= names
    assert "app/_files/static/vendor/LICENSES.txt" in names
    assert any(re.fullmatch(r"app/_files/migrations/versions/0001_\w+\.py", name) for name in names)
    assert {"app/cli.py", "worker/child.py"} <= names
    for path in ("templates", "static", "migrations"):
        expected = {
            f"app/_files/{file.relative_to(ROOT)}"
            for file in (ROOT / path).rglob("*")
            if file.is_file() and "__pycache__" not in file.parts
        }
        assert expected <= names, sorted(expected - names)
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks")) or "__pycache__" in name]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_asks_for_torch_only_as_an_extra(wheel: Path) -> None:
    assert not {"torch", "transformers", "trl", "pytest"} & closure(wheel)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a process with a HOME of its own and no word of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR", "HOME")}
    return {**kept, "LUTHIER_HOME": str(tmp_path / "home"), "LUTHIER_PORT": str(free_port())}


def test_it_runs_from_the_wheel_and_not_from_the_checkout(clean: Path, home: dict[str, str], tmp_path: Path) -> None:
    script = "\n".join(
        (
            "import app, worker.child, json, sys",
            "from app.settings import files",
            "print(json.dumps([app.__file__, str(files('templates')), sys.path]))",
        )
    )
    answer = subprocess.run([clean / "python", "-c", script], env=home, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    package, templates, path = json.loads(answer)
    assert Path(package).is_relative_to(clean.parent) and Path(templates).is_relative_to(clean.parent)
    assert str(ROOT) not in path


def test_it_migrates_and_serves_pages(clean: Path, home: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run([clean / "luthier", "migrate"], env=home, cwd=tmp_path, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    with served(clean, home, tmp_path) as address:
        assert json.loads(get(f"{address}/healthz")) == {"status": "ok"}
        assert json.loads(get(f"{address}/readyz"))["status"] == "ok"
        assert "<h1" in get(f"{address}/login")
        assert "htmx" in get(f"{address}/static/vendor/htmx.js")


class served:
    """`luthier web` of the wheel, until the block ends."""

    def __init__(self, clean: Path, environment: dict[str, str], folder: Path) -> None:
        self.address = f"http://127.0.0.1:{environment['LUTHIER_PORT']}"
        self.log = (folder / "web.log").open("w+")
        self.process = subprocess.Popen(
            [clean / "luthier", "web"], env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT
        )

    def __enter__(self) -> str:
        for _ in self.tries(30):
            try:
                get(f"{self.address}/healthz")
                return self.address
            except OSError:
                continue
        raise AssertionError(self.said())

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(15)
        self.log.close()

    def tries(self, seconds: float) -> Iterator[None]:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            yield
            time.sleep(0.1)

    def said(self) -> str:
        self.process.kill()
        self.log.seek(0)
        return self.log.read()


def get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=5) as answer:
        return str(answer.read().decode())
