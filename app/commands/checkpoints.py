"""`luthier checkpoint`: list, import, fetch and delete models of a studio, over REST."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands import output
from app.errors import Invalid

if TYPE_CHECKING:
    from app.commands.client import Studio

commands = typer.Typer(help="Checkpoints: list, import, pull, delete.", no_args_is_help=True)

Named = Annotated[str, typer.Argument(help="Name of the checkpoint, its id, or the beginning of that.")]
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


@commands.command("show")
def show(checkpoint: Named, as_json: AsJson = False) -> None:
    """Show one checkpoint."""
    found = _studio().find("checkpoints", checkpoint)
    if as_json:
        output.as_json(found)
        return
    metrics = found.get("metrics") or {}
    flat = {name: value for name, value in found.items() if name not in ("metrics", "progress", "shapes", "config")}
    output.fields(
        [
            *flat.items(),
            *((f"metrics.{name}", value if isinstance(value, str) else output.number(value)) for name, value in sorted(metrics.items())),
        ]
    )


@commands.command("pull")
def pull(
    checkpoint: Named,
    to: Annotated[Path | None, typer.Option(help="Folder to make; one with the checkpoint's name here, unless given.")] = None,
    format: Annotated[str | None, typer.Option(help="adapter, or merged: a whole model. Adapters come as they are, unless given.")] = None,
    dtype: Annotated[str, typer.Option(help="Of merged weights: stored, float32, bfloat16 or float16.")] = "stored",
    as_json: AsJson = False,
) -> None:
    """Fetch a checkpoint into a folder; one that broke off goes on where it stopped."""
    from app.commands import pull as pulling

    folder, files = pulling.pull(_studio(), checkpoint, to, format, dtype)
    if as_json:
        output.as_json({"folder": str(folder), "files": files})
    else:
        print(folder)
        output.note(f"{len(files)} files are in {folder}.")


@commands.command("delete")
def delete(
    checkpoint: Named,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a checkpoint that nothing else needs."""
    studio = _studio()
    found = studio.find("checkpoints", checkpoint)
    output.confirm(f"Delete “{output.plain(found['name'])}” with its files? This cannot be undone.", yes=yes)
    studio.delete(f"/checkpoints/{found['id']}")
    if as_json:
        output.as_json({"deleted": [found["id"]]})
    else:
        print(f"{found['id']} is deleted.")
