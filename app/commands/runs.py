"""`luthier run`: create, watch and steer runs of a studio, over REST."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import output
from app.errors import Invalid

if TYPE_CHECKING:
    from app.commands.client import Studio

commands = typer.Typer(help="Runs: create, follow, pause, resume, cancel.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(help="Id of the run, or its name when only one of the newest bears it.")]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _studio() -> Studio:
    from app.commands.client import Studio

    return Studio()


def find_run(studio: Studio, name_or_id: str) -> str:
    """Id of a run.

    Raises:
        Invalid: no run, or more than one, bears the name.
    """
    if name_or_id.startswith("run_"):
        return name_or_id
    named = [run["id"] for run in studio.all("/runs", limit=200, q=name_or_id) if run["name"] == name_or_id]
    if len(named) != 1:
        raise Invalid(
            f"There is no run “{name_or_id}”." if not named else f"Several runs are called “{name_or_id}”; give the id: {', '.join(named)}."
        )
    return str(named[0])


def value_of(text: str) -> Any:
    """A setting's value as it was typed: number, true, false, null, JSON list or object, else text."""
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    if _NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    if text[:1] in ("[", "{", '"'):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def pairs(given: list[str], option: str) -> dict[str, Any]:
    """`key=value` options as a dictionary.

    Raises:
        Invalid: one has no `=`.
    """
    found = {}
    for each in given:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise Invalid(f"{option} takes key=value, such as {option} learning_rate=0.001, and got “{each}”.", field=option)
        found[key.strip()] = value_of(text.strip())
    return found


def read_file(file: Path) -> dict[str, Any]:
    """The settings of a run from a YAML or JSON file, named as in REST.

    Raises:
        Invalid: the file cannot be read as such.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {(error.strerror or str(error)).lower()}.", field="file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        raise Invalid(f"{file} is not valid YAML{f' (line {place.line + 1})' if place else ''}.", field="file") from None
    if not isinstance(content, dict):
        raise Invalid(f"{file} must hold names and values, such as `method: sft`.", field="file")
    return {str(key): _numbers(value) for key, value in content.items()}


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-3 as text; people mean a number."""
    if isinstance(value, dict):
        return {str(key): _numbers(each) for key, each in value.items()}
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


@commands.command("create")
def create(
    method: Annotated[str | None, typer.Option(help="Objective, such as sft.")] = None,
    tuner: Annotated[str | None, typer.Option(help="Which weights may change, such as lora.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="Model to start from: name or id.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Dataset: name (its newest version), name@version or id.")] = None,
    eval_dataset: Annotated[str | None, typer.Option(help="Dataset to evaluate on.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="Setting of the method; may be repeated.")
    ] = None,
    tuner_param: Annotated[
        list[str] | None, typer.Option("-t", "--tuner-param", metavar="KEY=VALUE", help="Setting of the tuner; may be repeated.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="YAML or JSON file with the same names as in REST; options win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of shuffling, dropout and new weights.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tag; may be repeated.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show progress and loss until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a run. With --follow the exit code is 0 only when it succeeds."""
    body = read_file(file) if file else {}
    given = {
        "method": method,
        "tuner": tuner,
        "checkpoint": checkpoint,
        "dataset": dataset,
        "eval_dataset": eval_dataset,
        "name": name,
        "seed": seed,
        "tags": tag,
    }
    body |= {key: value for key, value in given.items() if value is not None}
    for field, option, values in (("params", "-p", param), ("tuner_params", "-t", tuner_param)):
        if values:
            body[field] = {**(body.get(field) or {}), **pairs(values, option)}
    for needed in ("method", "checkpoint", "dataset"):
        if not body.get(needed):
            raise Invalid(f"A run needs --{needed}. `luthier run create --help` lists the options.", field=needed)
    studio = _studio()
    body["checkpoint"] = studio.find("checkpoints", str(body["checkpoint"]))["id"]
    for field in ("dataset", "eval_dataset"):
        if body.get(field):
            body[field] = studio.find("datasets", str(body[field]))["id"]
    run = studio.post("/runs", body)
    if not follow:
        if as_json:
            output.as_json(run)
        else:
            print(run["id"])
            output.note(f"Queued “{output.plain(run['name'])}”: {studio.address}/runs/{run['id']}")
        return
    _follow(studio, run["id"], as_json=as_json)


def _follow(studio: Studio, run_id: str, *, as_json: bool) -> None:
    from app.commands.follow import verdict, watch

    run = watch(studio, run_id)
    if as_json:
        output.as_json(run)
    else:
        print(run_id)
    raise typer.Exit(verdict(run))


@commands.command("list")
def list_runs(
    status: Annotated[str | None, typer.Option(help="Only runs with this status.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    runs = list(_studio().all("/runs", limit=limit, status=status))
    if as_json:
        output.as_json(runs)
        return
    rows = [
        [
            run["id"],
            run["name"],
            run["status"],
            f"{run['step']}/{run['total_steps'] or '?'}",
            run["nonfinite"].get("loss") or output.number(run["metrics"].get("loss")),
            run["created_at"],
        ]
        for run in runs
    ]
    output.table(["id", "name", "status", "step", "loss", "created"], rows, "There are no runs yet. `luthier run create` queues one.")


@commands.command("show")
def show(run: RunId, as_json: AsJson = False) -> None:
    """Show one run."""
    studio = _studio()
    found = studio.get(f"/runs/{find_run(studio, run)}")
    if as_json:
        output.as_json(found)
        return
    names = (
        "id",
        "name",
        "status",
        "reason",
        "reason_code",
        "queue_place",
        "phase",
        "method",
        "tuner",
        "checkpoint",
        "dataset",
        "eval_dataset",
        "seed",
        "attempt",
    )
    output.fields(
        [
            *((name, found[name]) for name in names),
            ("step", f"{found['step']}/{found['total_steps'] or '?'}"),
            *(
                (f"metrics.{name}", found["nonfinite"].get(name) or output.number(value))
                for name, value in sorted(found["metrics"].items())
            ),
            *((f"params.{name}", value) for name, value in found["params"].items()),
            *((f"tuner_params.{name}", value) for name, value in found["tuner_params"].items()),
            ("tags", ", ".join(found["tags"])),
            ("notes", found["notes"]),
            *((name, found[name]) for name in ("created_at", "started_at", "finished_at")),
        ]
    )


@commands.command("follow")
def follow_run(run: RunId, as_json: AsJson = False) -> None:
    """Show progress and loss until a run ends; exit code 0 only when it succeeds."""
    studio = _studio()
    _follow(studio, find_run(studio, run), as_json=as_json)


@commands.command("logs")
def logs(
    run: RunId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    level: Annotated[str | None, typer.Option(help="Only lines of at least this level: debug, info, warning or error.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a run's log."""
    studio = _studio()
    run_id = find_run(studio, run)
    after = None
    while True:
        ended = follow and studio.get(f"/runs/{run_id}")["status"] in ("succeeded", "failed", "cancelled", "paused")
        while True:
            piece = studio.get(f"/runs/{run_id}/logs", after=after, level=level, limit=1000)
            for line in piece["data"]:
                after = line["cursor"]
                print(
                    json.dumps(line, ensure_ascii=False) if as_json else f"{line['at']} {line['level']:<7} {output.plain(line['text'])}",
                    flush=True,
                )
            if not piece["has_more"]:
                break
        if not follow or ended:
            return
        time.sleep(1.0)


@commands.command("metrics")
def metrics(
    run: RunId,
    names: Annotated[str | None, typer.Option(help="Names separated by commas; all, unless given.")] = None,
    points: Annotated[int, typer.Option(help="Thin each curve to about this many points.", min=3, max=100_000)] = 2000,
    as_json: AsJson = False,
) -> None:
    """Print a run's curves: name, step and value, one point a line."""
    studio = _studio()
    found = studio.get(f"/runs/{find_run(studio, run)}/metrics", names=names, points=points)
    if as_json:
        output.as_json(found)
        return
    odd = {(name, step): kind for name, listed in found.get("nonfinite", {}).items() for step, kind in listed}
    rows = [[name, step, odd.get((name, step), value)] for name, series in sorted(found["data"].items()) for step, value in series]
    output.table(["name", "step", "value"], rows, "There are no points yet.")


def _order(run: str, order: str, *, as_json: bool) -> None:
    studio = _studio()
    answer = studio.post(f"/runs/{find_run(studio, run)}/{order}")
    if as_json:
        output.as_json(answer)
    else:
        print(f"{answer['id']} is {answer['status']}.")


@commands.command("cancel")
def cancel(run: RunId, as_json: AsJson = False) -> None:
    """Stop a run for good; its checkpoints stay."""
    _order(run, "cancel", as_json=as_json)


@commands.command("pause")
def pause(run: RunId, as_json: AsJson = False) -> None:
    """Have a run write a checkpoint and free its device."""
    _order(run, "pause", as_json=as_json)


@commands.command("resume")
def resume(run: RunId, as_json: AsJson = False) -> None:
    """Let a run go on from its last checkpoint."""
    _order(run, "resume", as_json=as_json)
