"""`luthier run`: create, watch and steer runs of a studio, over REST."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import output
from app.errors import Invalid

if TYPE_CHECKING:
    from app.commands.client import Studio

commands = typer.Typer(help="Runs: create, follow, compare, pause, resume, cancel.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunId = Annotated[str, typer.Argument(help="Name of the run, its id, or the beginning of that.")]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def _studio() -> Studio:
    from app.commands.client import Studio

    return Studio()


def find_run(studio: Studio, wanted: str) -> str:
    """Id of a run, from its name, its id, or the beginning of that.

    Raises:
        NotFound: no run is meant.
        Refused: several are.
    """
    return str(studio.find("runs", wanted)["id"])


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


def read_file(file: str | Path) -> dict[str, Any]:
    """The settings of a run, or the steps of a chain, from a YAML or JSON file (`-`: standard input), named as in REST.

    Raises:
        Invalid: the file cannot be read as such.
    """
    import yaml

    try:
        text = sys.stdin.read() if str(file) == "-" else Path(file).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
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
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        return float(value)
    return value


Method = Annotated[str | None, typer.Option(help="Objective, such as sft.")]
Tuner = Annotated[str | None, typer.Option(help="Which weights may change, such as lora.")]
Model = Annotated[str | None, typer.Option("--checkpoint", help="Model to start from: name or id.")]
Data = Annotated[str | None, typer.Option(help="Dataset: name (its newest version), name@version or id.")]
EvalData = Annotated[str | None, typer.Option(help="Dataset to evaluate on.")]
Params = Annotated[list[str] | None, typer.Option("-p", "--param", metavar="KEY=VALUE", help="Setting of the method; may be repeated.")]
TunerParams = Annotated[
    list[str] | None, typer.Option("-t", "--tuner-param", metavar="KEY=VALUE", help="Setting of the tuner; may be repeated.")
]
File = Annotated[
    str | None, typer.Option("--file", help="YAML or JSON with the same names as in REST; `-` is standard input. Options win over it.")
]


@commands.command("create")
def create(
    method: Method = None,
    tuner: Tuner = None,
    checkpoint: Model = None,
    dataset: Data = None,
    eval_dataset: EvalData = None,
    param: Params = None,
    tuner_param: TunerParams = None,
    file: File = None,
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of shuffling, dropout and new weights.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher ones start first.", min=-100, max=100)] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Tag; may be repeated.")] = None,
    notes: Annotated[str | None, typer.Option(help="Text to keep with it.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show progress and loss until it ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a run. With --follow the exit code is 0 only when it succeeds."""
    given = {"name": name, "seed": seed, "priority": priority, "tags": tag, "notes": notes}
    given |= {"method": method, "tuner": tuner, "checkpoint": checkpoint, "dataset": dataset, "eval_dataset": eval_dataset}
    body = _body(file, given, param, tuner_param)
    studio = _studio()
    run = studio.post("/runs", resolved(studio, body))
    if not follow:
        if as_json:
            output.as_json(run)
        else:
            print(run["id"])
            output.note(f"Queued “{output.plain(run['name'])}”: {studio.address}/runs/{run['id']}")
        return
    _follow(studio, run["id"], as_json=as_json)


@commands.command("plan")
def plan(
    method: Method = None,
    tuner: Tuner = None,
    checkpoint: Model = None,
    dataset: Data = None,
    eval_dataset: EvalData = None,
    param: Params = None,
    tuner_param: TunerParams = None,
    file: File = None,
    as_json: AsJson = False,
) -> None:
    """Reckon what a run would do and take, without starting it."""
    given = {"method": method, "tuner": tuner, "checkpoint": checkpoint, "dataset": dataset, "eval_dataset": eval_dataset}
    body = _body(file, given, param, tuner_param)
    studio = _studio()
    found = studio.post("/runs/plan", resolved(studio, body))
    if as_json:
        output.as_json(found)
        return
    memory = found.get("memory") or {}
    parameters, total = found["trainable_parameters"], found["total_parameters"]
    output.fields(
        [
            ("trainable", f"{parameters:,} of {total:,} weights" if parameters is not None and total else None),
            ("steps", found["steps"]),
            ("epochs", output.number(found["epochs"], "")),
            ("rows", found["rows"]),
            ("tokens", f"{found['tokens']:,}" if found["tokens"] is not None else None),
            ("learning_rate", found["learning_rate"]),
            ("memory", output.size(memory["total"]) if memory else None),
            ("fits", {True: "yes", False: "no", None: None}[memory.get("fits")] if memory else None),
            ("time", output.duration(found["seconds"]) if found["seconds"] is not None else None),
            ("device", found["device"]),
        ]
    )
    for note in [*found["notes"], *found["suggestions"]]:
        output.note(output.plain(note))


def _body(file: str | None, given: dict[str, Any], param: list[str] | None, tuner_param: list[str] | None) -> dict[str, Any]:
    """The run as it is sent, with names where ids will be.

    Raises:
        Invalid: the file or an option cannot be read, or something is missing.
    """
    body = read_file(file) if file else {}
    body |= {key: value for key, value in given.items() if value is not None}
    for field, option, values in (("params", "-p", param), ("tuner_params", "-t", tuner_param)):
        if values:
            body[field] = {**(body.get(field) or {}), **pairs(values, option)}
    for needed in ("method", "checkpoint", "dataset"):
        if not body.get(needed):
            raise Invalid(f"A run needs --{needed}. `luthier run create --help` lists the options.", field=needed)
    return body


_NAMED = {"checkpoint": "checkpoints", "dataset": "datasets", "eval_dataset": "datasets"}


def resolved(studio: Studio, body: dict[str, Any], fields: Iterable[str] = _NAMED) -> dict[str, Any]:
    """The run with ids in place of the names in these fields."""
    return {**body, **{field: studio.find(_NAMED[field], str(body[field]))["id"] for field in fields if body.get(field)}}


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
    q: Annotated[str | None, typer.Option("--search", "-q", help="Only runs with this in their name, method, model or dataset.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only runs with this tag.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    runs = list(_studio().all("/runs", limit=limit, status=status, q=q, tag=tag))
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
