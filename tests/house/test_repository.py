"""What holds for the repository as a whole: sizes, names, licence, pins, scripts. Runs no part of the studio."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CODE = ("app", "worker", "migrations", "benchmarks", "docs", "templates", "static", "tests")
LARGEST = 400


def listed(*patterns: str) -> list[Path]:
    """Files of the repository (tracked or new, not ignored) that match a pattern of git."""
    answer = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return sorted({ROOT / name for name in answer.split("\0") if name and (ROOT / name).is_file()})


def project() -> dict:  # type: ignore[type-arg]
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, str]:
    """Package -> version of constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def test_no_file_is_over_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in listed("*.py", "*.html", "*.css", "*.js", "*.mako", "Makefile", ".ci/*", "*.yml")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LARGEST
    }
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in listed("app/*.py", "worker/*.py", "migrations/*.py", "benchmarks/*.py", "docs/*.py", "hatch_build.py", "tests/*.py")
        if path.read_text(encoding="utf-8").strip() and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not silent


def test_names_are_those_of_the_field() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "managers", "handler", "handlers", "misc", "common"}
    named = [
        path for path in listed("app/*.py", "worker/*.py", "tests/*.py") if vague & set(re.split(r"[_/.]", str(path.relative_to(ROOT))))
    ]
    assert not named


def test_libraries_for_training_are_never_imported_at_the_top_of_the_app() -> None:
    heavy = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "gguf", "safetensors", "tokenizers"}
    found = []
    for path in listed("app/*.py"):
        for node in top_level_imports(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if getattr(node, "level", 0) == 0 and heavy & {name.split(".")[0] for name in names}:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found


def top_level_imports(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported; those under `if TYPE_CHECKING` do not."""
    waiting: list[ast.AST] = list(tree.body)
    found: list[ast.Import | ast.ImportFrom] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return found


def test_templates_hold_no_habits_of_htmx_2_and_nothing_unescaped() -> None:
    old = re.compile(r"hx-ext|sse-swap|sse-connect|hx-disabled-elt|htmx:after[A-Z]|hx-on|\|\s*safe\b|<script>")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in listed("templates/*.html", "static/js/*.js")
        for match in old.finditer(path.read_text(encoding="utf-8"))
    ]
    assert not found


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert project()["project"]["license"] == "Apache-2.0"


def test_every_dependency_is_pinned_to_a_version_that_it_allows() -> None:
    declared = project()["project"]
    wanted = [*declared["dependencies"], *(one for extra in declared["optional-dependencies"].values() for one in extra)]
    pinned = pins()
    for requirement in map(Requirement, wanted):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert version in requirement.specifier, f"{requirement} does not allow the pinned {version}"


def test_constraints_name_what_is_installed_and_no_place_to_get_it_from() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text and "--" not in text
    assert re.search(r"^torch==[0-9.]+$", text, re.MULTILINE), "torch needs a version without a local part, so that a CPU build can match"
    installed = {canonicalize_name(each.metadata["Name"]): each.version.partition("+")[0] for each in metadata.distributions()}
    installed.pop("setuptools", None)  # `python -m venv` brings its own, which only torch replaces
    other = {name: (version, installed[name]) for name, version in pins().items() if name in installed and installed[name] != version}
    assert not other, "constraints.txt is not what was tested"


def test_no_machine_and_no_registry_is_named() -> None:
    told = re.compile(r"/(?:root|home/\w+|work/(?:main|shared))/|pypi\.org|pythonhosted|registry\.npmjs|download\.pytorch")
    found = [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in listed()
        if path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".yml", ".html", ".js", ".css", "") and path != Path(__file__)
        for match in told.finditer(path.read_text(encoding="utf-8", errors="ignore"))
    ]
    assert not found


def test_the_lock_of_the_browser_assets_names_hashes_and_no_addresses() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert lock["packages"][""]["dependencies"] == json.loads((ROOT / "package.json").read_text())["dependencies"]
    assert all(each["integrity"].startswith("sha512-") and "resolved" not in each for each in packages.values())
    assert "ignore-scripts=true" in (ROOT / ".npmrc").read_text()


def test_the_browser_assets_are_those_of_the_lock_and_not_in_the_repository() -> None:
    vendor = ROOT / "static" / "vendor"
    stamp = hashlib.sha256((ROOT / "package-lock.json").read_bytes() + (ROOT / "hatch_build.py").read_bytes()).hexdigest()
    assert (vendor / ".stamp").read_text() == stamp, "run `make setup`"
    assert {"htmx.js", "hx-sse.js", "uplot.js", "uplot.css", "geist.woff2", "geist-mono.woff2", "LICENSES.txt"} <= {
        path.name for path in vendor.iterdir()
    }
    assert not listed("static/vendor")


def test_the_compose_file_is_valid_and_has_no_password(tmp_path: Path) -> None:
    compose = ROOT / "docker-compose.yml"
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run([checker, "--builtin-schema", "vendor.compose-spec", compose], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = compose.read_text()
    for name in ("POSTGRES_PASSWORD", "REDIS_PASSWORD"):
        values = re.findall(r"\$\{" + name + r"([^}]*)\}", text)
        assert values and all(value.startswith(":?") for value in values), f"{name} must be asked for, never made up"
    for dockerfile in re.findall(r"dockerfile: (\S+?)\}", text):
        lines = (ROOT / dockerfile).read_text().splitlines()
        assert "USER luthier" in lines and not any("torch" in line for line in lines if "web" in dockerfile and line.startswith("RUN"))


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("target", ["setup", "demo", "up", "test", "lint", "soak", "bench", "docs", "test-methods"])
def test_make_names_its_targets(target: str) -> None:
    done = subprocess.run(["make", "--no-print-directory", "help"], capture_output=True, text=True, cwd=ROOT, stdin=subprocess.DEVNULL)
    assert re.search(rf"^  make {target} ", done.stdout, re.MULTILINE)


def test_scripts_have_no_fault_of_syntax() -> None:
    subprocess.run(["bash", "-n", ROOT / ".ci" / "run"], check=True)
    subprocess.run(["make", "-n", "--no-print-directory", "setup"], cwd=ROOT, check=True, capture_output=True, stdin=subprocess.DEVNULL)
