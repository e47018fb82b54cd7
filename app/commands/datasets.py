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

commands = typer.Typer(help="Datasets: add, list, show, problems.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Named = Annotated[str, typer.Argument(help="Name (its newest version), name@version or id.")]


def _studio() -> Studio:
    from app.commands.client import Studio

    return Studio()


def wait_until_ready(studio: Studio, path: str, first: dict[str, Any]) -> dict[str, Any]:
    """Wait until an import has ended, saying how far it is; the row as it is then."""
    found, said = first, ""
    while found["status"] == "importing":
        progress = found.get("progress") or {}
        share = f" {progress['done'] / progress['total']:.0%}" if progress.get("total") else ""
        words = output.plain(f"{progress.get('text') or 'Waiting for a worker'}{share}")
        if words != said:
            output.note(words)
            said = words
        time.sleep(0.5)
        found = studio.get(path)
    return found


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
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is read; exit code 1 when it cannot be used.")] = False,
    as_json: AsJson = False,
) -> None:
    """Upload a file as a dataset."""
    fields: dict[str, str] = {"name": name or file.stem}
    columns = {}
    for each in mapping or []:
        field, equals, column = each.partition("=")
        if not equals or not field or not column:
            raise Invalid(f"--map takes FIELD=COLUMN, such as --map prompt=question, and got “{each}”.", field="map")
        columns[field] = column
    if columns:
        fields["mapping"] = json.dumps(columns)
    if split:
        fields["split"] = str(split)
    if not file.is_file():
        raise Invalid(f"There is no file {file}.", field="file")
    studio = _studio()
    with open(file, "rb") as stream:
        dataset = studio.post("/datasets", data=fields, files={"file": (file.name, stream, "application/octet-stream")}, timeout=None)
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
