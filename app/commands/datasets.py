"""`luthier dataset`: upload data to a studio and look at it, over REST."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import output
from app.errors import Invalid

if TYPE_CHECKING:
    from app.commands.client import Studio

commands = typer.Typer(help="Datasets: add, look at, map, export, delete.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is read; exit code 1 when it cannot be used.")]
Named = Annotated[str, typer.Argument(help="Name (its newest version), name@version, id, or the beginning of that.")]


def _studio() -> Studio:
    from app.commands.client import Studio

    return Studio()


def wait_until_ready(studio: Studio, path: str, first: dict[str, Any], busy: str = "importing") -> dict[str, Any]:
    """Wait until a worker has done what a row waits for, showing how far it is; the row as it is then."""
    from app.commands import bars

    found = first
    with bars.waiting() as show:
        while found["status"] == busy:
            progress = found.get("progress") or {}
            share = progress["done"] / progress["total"] if progress.get("total") else None
            show(str(progress.get("text") or "Waiting for a worker"), share)
            time.sleep(0.5)
            found = studio.get(path)
    return found


def columns_of(mapping: list[str] | None) -> dict[str, str]:
    """`FIELD=COLUMN` options as a mapping.

    Raises:
        Invalid: one has not that form.
    """
    columns = {}
    for each in mapping or []:
        field, equals, column = each.partition("=")
        if not equals or not field or not column:
            raise Invalid(f"--map takes FIELD=COLUMN, such as --map prompt=question, and got “{each}”.", field="map")
        columns[field] = column
    return columns


@commands.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="JSONL, JSON, CSV or Parquet.")],
    name: Annotated[str | None, typer.Option(help="Name; an existing one gets a new version. The file's, unless given.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN", help="Which column holds a field, such as prompt=question; may be repeated."),
    ] = None,
    split: Annotated[
        float | None, typer.Option(help="Share of the prompts kept for evaluation, such as 0.1; none, unless given.", min=0.0, max=0.9)
    ] = None,
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Upload a file as a dataset."""
    from app.commands import bars

    fields: dict[str, str] = {"name": name or file.stem}
    columns = columns_of(mapping)
    if columns:
        fields["mapping"] = json.dumps(columns)
    if split:
        fields["split"] = str(split)
    if not file.is_file():
        raise Invalid(f"There is no file {file}.", field="file")
    studio = _studio()
    with open(file, "rb") as stream, bars.transfer(f"Uploading {file.name}", file.stat().st_size) as advance:
        given = (file.name, bars.Watched(stream, advance), "application/octet-stream")
        dataset = studio.post("/datasets", data=fields, files={"file": given}, timeout=None)
    _made(studio, dataset, wait=wait, as_json=as_json)


def _made(studio: Studio, dataset: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Say that a version was made; with `wait`, how reading it went."""
    if wait:
        dataset = wait_until_ready(studio, f"/datasets/{dataset['id']}", dataset)
    if as_json:
        output.as_json(dataset)
    else:
        print(dataset["id"])
        output.note(_summary(dataset))
    if wait and (dataset["status"] == "failed" or dataset["problems"]["errors"]):
        raise typer.Exit(1)


def _summary(dataset: dict[str, Any]) -> str:
    head = output.plain(f"“{dataset['name']}” version {dataset['version']}")
    if dataset["status"] == "failed":
        return f"{head} cannot be used: {output.plain(dataset.get('reason') or 'the reason is not known')}"
    if dataset["status"] != "ready":
        return f"{head} is being read; `luthier dataset show {dataset['id']}` says how far."
    errors, warnings = dataset["problems"]["errors"], dataset["problems"]["warnings"]
    found = f"{head} has {dataset['rows']} rows ({dataset['shape']}), {errors} errors, {warnings} warnings."
    return f"{found} Runs wait until the lines with errors are left out: `luthier dataset problems {dataset['id']}`." if errors else found


@commands.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """List datasets, newest first."""
    found = list(_studio().all("/datasets"))
    if as_json:
        output.as_json(found)
        return
    rows = [
        [
            each["id"],
            each["name"],
            each["version"],
            each["status"],
            each["shape"],
            each["rows"],
            each["problems"]["errors"],
            each["created_at"],
        ]
        for each in found
    ]
    output.table(
        ["id", "name", "version", "status", "shape", "rows", "errors", "created"],
        rows,
        "There are no datasets yet. `luthier dataset add FILE` uploads one.",
    )


@commands.command("show")
def show(dataset: Named, as_json: AsJson = False) -> None:
    """Show one dataset."""
    studio = _studio()
    found = studio.get(f"/datasets/{studio.find('datasets', dataset)['id']}")
    if as_json:
        output.as_json(found)
        return
    flat = {name: value for name, value in found.items() if name not in ("problems", "progress")}
    output.fields([*flat.items(), *((f"problems.{name}", value) for name, value in found["problems"].items())])


@commands.command("problems")
def problems(
    dataset: Named,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 100,
    as_json: AsJson = False,
) -> None:
    """List what is wrong in a dataset, with line and field."""
    studio = _studio()
    found = list(studio.all(f"/datasets/{studio.find('datasets', dataset)['id']}/problems", limit=limit))
    if as_json:
        output.as_json(found)
        return
    rows = [[each["line"], each["severity"], each["field"], each["message"], each["excerpt"][:60]] for each in found]
    output.table(["line", "severity", "field", "message", "excerpt"], rows, "No problems were found.")


@commands.command("rows")
def rows(
    dataset: Named,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=1_000_000)] = 20,
    after: Annotated[int | None, typer.Option(help="Only rows after this number.", min=0)] = None,
    as_json: AsJson = False,
) -> None:
    """Print rows as they are trained on; with --json one object a line."""
    studio = _studio()
    dataset_id = studio.find("datasets", dataset)["id"]
    left, seen = limit, after
    while left > 0:
        piece = studio.get(f"/datasets/{dataset_id}/rows", limit=min(200, left), after=seen)
        for row in piece["data"]:
            if as_json:
                print(json.dumps(row, ensure_ascii=False))
            else:
                shown = "  ".join(f"{output.plain(name)}: {output.plain(_short(value))}" for name, value in row["row"].items())
                print(f"{row['number']}  {shown}")
        left -= len(piece["data"])
        seen = piece["next"]
        if not piece["has_more"]:
            return


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:199]}…"


@commands.command("map")
def map_columns(
    dataset: Named,
    mapping: Annotated[list[str], typer.Argument(metavar="FIELD=COLUMN…", help="Which column holds which field, such as prompt=question.")],
    wait: Wait = False,
    as_json: AsJson = False,
) -> None:
    """Read the same file under another mapping: in place where reading it failed, else as a new version."""
    studio = _studio()
    found = studio.find("datasets", dataset)
    _made(studio, studio.post(f"/datasets/{found['id']}/map", {"mapping": columns_of(mapping)}), wait=wait, as_json=as_json)


@commands.command("leave-out")
def leave_out(dataset: Named, wait: Wait = False, as_json: AsJson = False) -> None:
    """Make a version without the lines that have errors."""
    studio = _studio()
    found = studio.find("datasets", dataset)
    _made(studio, studio.post(f"/datasets/{found['id']}/leave-out"), wait=wait, as_json=as_json)


@commands.command("export")
def export(
    dataset: Named,
    to: Annotated[Path, typer.Argument(help="File to write; its ending says the format. `-` prints JSONL.")],
    format: Annotated[str | None, typer.Option(help="jsonl, csv or parquet; told from the file, unless given.")] = None,
) -> None:
    """Write the usable rows to a file."""
    import sys

    from app.commands import bars

    kind = format or (to.suffix.lstrip(".").lower() if str(to) != "-" else "jsonl")
    if kind not in ("jsonl", "csv", "parquet"):
        raise Invalid(f"{to} has none of the endings .jsonl, .csv and .parquet; say which with --format.", field="format")
    studio = _studio()
    found = studio.find("datasets", dataset)
    with studio.download(f"/datasets/{found['id']}/export", format=kind) as answer, bars.transfer(f"Writing {to}", None) as advance:
        if str(to) == "-":
            for piece in answer.iter_bytes():
                sys.stdout.buffer.write(piece)
            return
        partial = to.with_name(f".{to.name}.part")
        try:
            with open(partial, "wb") as stream:
                for piece in answer.iter_bytes():
                    stream.write(piece)
                    advance(len(piece))
            partial.replace(to)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    output.note(f"{found['rows']} rows are in {to}.")


@commands.command("delete")
def delete(
    dataset: Named,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a version that no run uses."""
    studio = _studio()
    found = studio.find("datasets", dataset)
    output.confirm(f"Delete “{output.plain(found['name'])}” version {found['version']}? This cannot be undone.", yes=yes)
    studio.delete(f"/datasets/{found['id']}")
    if as_json:
        output.as_json({"deleted": [found["id"]]})
    else:
        print(f"{found['id']} is deleted.")
