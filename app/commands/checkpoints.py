"""`luthier checkpoint`: list and import models of a studio, over REST."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands import output
from app.errors import Invalid

if TYPE_CHECKING:
    from app.commands.client import Studio

commands = typer.Typer(help="Checkpoints: list, import.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _studio() -> Studio:
    from app.commands.client import Studio

    return Studio()


@commands.command("list")
def list_checkpoints(
    kind: Annotated[str | None, typer.Option(help="Only base, adapter, full, reward or classifier.")] = None,
    as_json: AsJson = False,
) -> None:
    """List models and what was trained from them, newest first."""
    found = list(_studio().all("/checkpoints", kind=kind))
    if as_json:
        output.as_json(found)
        return
    rows = [
        [each["id"], each["name"], each["kind"], each["status"], each["step"], output.size(each["size_bytes"]), each["created_at"]]
        for each in found
    ]
    output.table(
        ["id", "name", "kind", "status", "step", "size", "created"],
        rows,
        "There are no checkpoints yet. `luthier checkpoint import` adds a model.",
    )


@commands.command("import")
def import_checkpoint(
    ref: Annotated[str, typer.Argument(help="Folder with safetensors, GGUF file, or id on the model hub (owner/name).")],
    source: Annotated[str | None, typer.Option(help="folder, gguf or hub; told from REF, unless given.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch on the hub.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call it; the last part of REF, unless given.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is imported; exit code 1 when that fails.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import a model."""
    from app.commands.datasets import wait_until_ready

    kind = source or guess_source(ref)
    place = str(Path(ref).expanduser().absolute()) if kind in ("folder", "gguf") else ref
    body = {"source": kind, "ref": place, "name": name or Path(ref.rstrip("/")).name.removesuffix(".gguf"), "revision": revision}
    studio = _studio()
    found = studio.post("/checkpoints", {field: value for field, value in body.items() if value is not None})
    if wait:
        found = wait_until_ready(studio, f"/checkpoints/{found['id']}", found)
    if as_json:
        output.as_json(found)
    else:
        print(found["id"])
        reason = f": {output.plain(found['reason'])}" if found["reason"] else "."
        output.note(f"“{output.plain(found['name'])}” is {found['status']}{reason}")
    if wait and found["status"] != "ready":
        raise typer.Exit(1)


def guess_source(ref: str) -> str:
    """Where a model is, by what its name looks like and what lies on this disk.

    Raises:
        Invalid: it looks like a path, and nothing is there.
    """
    place = Path(ref).expanduser()
    if ref.lower().endswith(".gguf"):
        return "gguf"
    if place.is_dir():
        return "folder"
    if ref.startswith(("/", "./", "../", "~")) or ref.count("/") > 1:
        raise Invalid(f"There is no folder {ref} on this machine. For one on the worker's machine add --source folder.", field="ref")
    return "hub"
