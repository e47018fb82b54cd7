"""`luthier run`, for runs that are there: cancel, pause, resume, duplicate, edit, delete, compare. Over REST."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from app.commands import output
from app.commands.runs import AsJson, RunId, _follow, _studio, find_run
from app.commands.runs import commands as commands
from app.errors import Invalid

RunIds = Annotated[list[str], typer.Argument(help="Names of runs, their ids, or the beginnings of those.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def order(kind: str, wanted: str, what: str, *, as_json: bool) -> None:
    """Give an order to a run or a chain (`kind` is the plural in its path), and print its status."""
    studio = _studio()
    answer = studio.post(f"/{kind}/{studio.find(kind, wanted)['id']}/{what}")
    if as_json:
        output.as_json(answer)
    else:
        print(f"{answer['id']} is {answer['status']}.")


@commands.command("cancel")
def cancel(run: RunId, as_json: AsJson = False) -> None:
    """Stop a run for good; its checkpoints stay."""
    order("runs", run, "cancel", as_json=as_json)


@commands.command("pause")
def pause(run: RunId, as_json: AsJson = False) -> None:
    """Have a run write a checkpoint and free its device."""
    order("runs", run, "pause", as_json=as_json)


@commands.command("resume")
def resume(run: RunId, as_json: AsJson = False) -> None:
    """Let a run go on from its last checkpoint."""
    order("runs", run, "resume", as_json=as_json)


@commands.command("duplicate")
def duplicate(
    run: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show progress and loss until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a new run with the same settings."""
    studio = _studio()
    made = studio.post(f"/runs/{find_run(studio, run)}/duplicate")
    if follow:
        _follow(studio, made["id"], as_json=as_json)
    elif as_json:
        output.as_json(made)
    else:
        print(made["id"])
        output.note(f"Queued “{output.plain(made['name'])}”: {studio.address}/runs/{made['id']}")


@commands.command("edit")
def edit(
    run: RunId,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tags in place of those it has; may be repeated, empty for none.")] = None,
    notes: Annotated[str | None, typer.Option(help="New notes.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher ones start first.", min=-100, max=100)] = None,
    as_json: AsJson = False,
) -> None:
    """Change name, tags, notes or priority; refused when somebody else changed the run meanwhile."""
    given = {"name": name, "tags": [each for each in tag if each] if tag is not None else None, "notes": notes, "priority": priority}
    change: dict[str, Any] = {field: value for field, value in given.items() if value is not None}
    if not change:
        raise Invalid("Say what to change: --name, --tag, --notes or --priority.")
    studio = _studio()
    found = studio.find("runs", run)
    answer = studio.patch(f"/runs/{found['id']}", {**change, "version": found["version"]})
    if as_json:
        output.as_json(answer)
    else:
        print(f"{answer['id']} is changed.")


@commands.command("delete")
def delete(run: RunIds, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove runs that have ended, with their curves, logs and checkpoints."""
    studio = _studio()
    found = [studio.find("runs", each) for each in run]
    names = ", ".join(f"“{output.plain(each['name'])}”" for each in found)
    output.confirm(f"Delete {names} with all checkpoints? This cannot be undone.", yes=yes)
    for each in found:
        studio.delete(f"/runs/{each['id']}")
        if not as_json:
            print(f"{each['id']} is deleted.")
    if as_json:
        output.as_json({"deleted": [each["id"] for each in found]})


@commands.command("compare")
def compare(
    run: RunIds,
    everything: Annotated[bool, typer.Option("--all", help="Settings that are the same too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put two to eight runs side by side: settings that differ, and final metrics with the best marked."""
    studio = _studio()
    ids = list(dict.fromkeys(find_run(studio, each) for each in run))
    if len(ids) < 2:
        raise Invalid("Name at least two runs to compare.", field="run")
    found = studio.get("/runs/compare", runs=",".join(ids))
    if as_json:
        output.as_json(found)
        return
    titles = ["", *(each["name"] for each in found["runs"])]
    rows: list[list[object]] = [["status", *(each["status"] for each in found["runs"])]]
    rows += [[row["name"], *map(_shown, row["values"])] for row in found["config"] if row["differs"] or everything]
    output.table(titles, rows, "", upper=False)
    print()
    rows = [[f"{row['name']}{_arrow(row['direction'])}", *_marked(row)] for row in found["metrics"]]
    output.table(titles, rows, "There are no metrics yet.", upper=False)


def _shown(value: Any) -> str:
    return "–" if value is None else output.number(value) if isinstance(value, float) else str(value)


def _arrow(direction: str | None) -> str:
    return {"down": " ↓", "up": " ↑"}.get(direction or "", "")


def _marked(row: dict[str, Any]) -> list[str]:
    """The values of one metric; the best has a star."""
    best = row["best"]
    return [
        f"{_shown(float(value) if isinstance(value, int) else value)}{' *' if place == best else ''}"
        for place, value in enumerate(row["values"])
    ]
