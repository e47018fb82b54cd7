"""`luthier doctor`: looks at everything Luthier needs on this machine and says what to do about it. Changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands import checks, output
from app.commands.checks import Finding, version_of
from app.errors import StudioError

if TYPE_CHECKING:
    from app.settings import Settings

OLDEST_SQLITE = (3, 35, 0)  # UPDATE … RETURNING


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine and say what to do. Exit code 1 when something must be mended."""
    found = list(examine())
    if as_json:
        output.as_json([asdict(each) for each in found])
    else:
        width = max(len(each.check) for each in found)
        for each in found:
            do = f" → {each.do}" if each.do else ""
            print(output.plain(f"{each.status:<4}  {each.check.ljust(width)}  {each.message}{do}"))
        worst = sum(each.status == "fail" for each in found)
        print(f"{worst} to mend." if worst else "Luthier can run here.")
    if any(each.status == "fail" for each in found):
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """All checks, in order; a wrong setting ends them, since the others depend on it."""
    yield python()
    try:
        from app.settings import get_settings

        settings = get_settings()
        yield named_settings(settings)
    except StudioError as error:
        yield Finding("settings", "fail", error.message, "Correct or unset that variable.")
        return
    order: tuple[Callable[[Settings], Finding], ...] = (
        checks.home,
        checks.database,
        checks.audit_log,
        checks.file_system,
        checks.queue,
        checks.storage,
        checks.port,
        checks.assets,
        checks.training,
        checks.device,
        checks.memory,
        checks.allocator,
        checks.demo_model,
        checks.workers,
    )
    for check in order:
        try:
            yield check(settings)
        except StudioError as error:
            yield Finding(check.__name__.replace("_", " "), "fail", error.message)


def python() -> Finding:
    """Python and the SQLite inside it."""
    import sqlite3

    version = ".".join(str(part) for part in sys.version_info[:3])
    found = f"Python {version}, SQLite {sqlite3.sqlite_version}, Luthier {version_of('luthier') or 'not installed as a package'}"
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        return Finding("python", "fail", found, "Use a Python with SQLite 3.35 or newer, or PostgreSQL (LUTHIER_DATABASE_URL).")
    return Finding("python", "ok", found)


def named_settings(settings: Settings) -> Finding:
    """Variables that look like settings and are none."""
    from difflib import get_close_matches

    known = {f"LUTHIER_{name.upper()}" for name in type(settings).model_fields}
    strange = [name for name in os.environ if name.startswith("LUTHIER_") and not name.startswith("LUTHIER_TEST_") and name not in known]
    if not strange:
        given = sum(name in known and bool(text) for name, text in os.environ.items())
        return Finding("settings", "ok", f"{given} from the environment, the others by default")
    near = get_close_matches(strange[0], sorted(known), 1)
    return Finding(
        "settings",
        "warn",
        f"{', '.join(sorted(strange))} is no setting",
        f"Did you mean {near[0]}?" if near else "`luthier settings` lists them all.",
    )
