"""Nothing without documentation: settings, methods, routes, commands; and no page of the reference that the code has left behind."""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@cache
def reference() -> ModuleType:
    """The script that writes `docs/reference`."""
    spec = importlib.util.spec_from_file_location("docs_reference", DOCS / "reference.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def made() -> dict[str, str]:
    return dict(reference().generate())


@cache
def served() -> list[Any]:
    """Path, method and route of everything that is served."""
    from app.main import create_app
    from app.settings import Settings

    return list(reference().routes(create_app(Settings())))


def test_the_reference_is_what_the_code_says() -> None:
    folder = DOCS / "reference"
    written = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.md")}
    assert set(written) == set(made()), "run `make docs`"
    assert not [name for name, text in made().items() if written[name] != text], "run `make docs`"


def test_every_setting_is_documented() -> None:
    from app.settings import Settings

    for name, field in Settings.model_fields.items():
        assert field.description and len(field.description) > 20, f"{name} has no docstring in app/settings.py"
        assert f"`LUTHIER_{name.upper()}`" in made()["settings.md"]


def test_every_method_tuner_and_recipe_is_documented() -> None:
    from app import methods, recipes, tuners

    for registry in (methods.registry(), tuners.registry(), recipes.registry()):
        for name, each in registry.items():
            assert each.title and each.summary and (each.__doc__ or type(each).__doc__), f"{name} has no docstring"
            assert f"`{name}`" in made()["methods.md"]
            kind = type(each).__module__.split(".")[1]
            assert made()[f"{kind}/{name}.md"].count("\n# ") == 1
            params: type[BaseModel] = each.params
            for field, info in params.model_fields.items():
                assert info.description, f"{name}: its parameter {field} has no help text"


def test_every_route_is_documented() -> None:
    for path, method, route in served():
        assert (route.endpoint.__doc__ or "").strip(), f"{method} {path}: {route.endpoint.__qualname__} has no docstring"
        page = "rest.md" if reference().is_rest(path) else "pages.md"
        assert f"`{path}`" in made()[page]


def test_every_command_is_documented() -> None:
    import typer

    from app import cli

    def undocumented(command: Any, name: str) -> list[str]:
        below = getattr(command, "commands", {})
        missing = [] if (command.help or "").strip() else [name]
        return missing + [each for child in below for each in undocumented(below[child], f"{name} {child}")]

    assert not undocumented(typer.main.get_command(cli.app), "luthier")


def test_every_link_between_pages_leads_somewhere() -> None:
    lost = []
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                lost.append(f"{page.relative_to(ROOT)}: {target}")
    assert not lost


def test_every_decision_is_in_the_list() -> None:
    decisions = DOCS / "decisions"
    listed = (decisions / "README.md").read_text()
    files = sorted(path.name for path in decisions.glob("0*.md"))
    assert files and all(f"({name})" in listed for name in files)
    assert [int(name[:4]) for name in files] == list(range(1, len(files) + 1))


def test_every_picture_is_shown() -> None:
    pages = "".join(page.read_text() for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
    unused = {path.name for path in (DOCS / "images").glob("*.[pj][np]g") if f"images/{path.name}" not in pages}
    assert not unused, "a picture that no page shows"
