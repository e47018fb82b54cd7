"""`luthier chain`: start, watch and steer runs that follow one another, over REST."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.commands import output
from app.commands.orders import Yes, order
from app.commands.runs import AsJson, _studio, read_file, resolved
from app.errors import Invalid

if TYPE_CHECKING:
    from app.commands.client import Studio

commands = typer.Typer(help="Chains of runs: start, follow, continue, cancel.", no_args_is_help=True)

ChainId = Annotated[str, typer.Argument(help="Name of the chain, its id, or the beginning of that.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show progress and loss of each run until the chain ends or pauses.")]
_STEP = re.compile(r"\$\d+")


@commands.command("create")
def create(
    file: Annotated[str, typer.Option(help="YAML or JSON with `steps`, each as a run; `-` is standard input.")],
    name: Annotated[str | None, typer.Option(help="Name for people; wins over the file's.")] = None,
    follow: Follow = False,
    as_json: AsJson = False,
) -> None:
    """Start runs one after the other. All steps are checked before the first begins. With --follow the exit code is 0 only when all
    succeed."""
    body = read_file(file)
    steps = body.get("steps")
    if not isinstance(steps, list) or not steps:
        raise Invalid(f"{file} needs `steps`: a list of runs, such as `- {{method: sft, checkpoint: …, dataset: …}}`.", field="steps")
    studio = _studio()
    body["steps"] = [_step(studio, number, each) for number, each in enumerate(steps, 1)]
    if name is not None:
        body["name"] = name
    chain = studio.post("/chains", body)
    if not follow:
        output.note(f"Started “{output.plain(chain['name'])}”: {studio.address}/chains/{chain['id']}")
    _end(studio, chain, follow=follow, as_json=as_json)


def _step(studio: Studio, number: int, step: Any) -> dict[str, Any]:
    """A step with ids in place of names; `$1` stays, which the studio knows.

    Raises:
        Invalid: it is no run.
    """
    if not isinstance(step, dict):
        raise Invalid(f"Step {number} must hold names and values, such as `method: sft`.", field=f"steps.{number - 1}")
    for needed in ("method", "checkpoint", "dataset"):
        if not step.get(needed):
            raise Invalid(f"Step {number} needs `{needed}`.", field=f"steps.{number - 1}.{needed}")
    if _STEP.fullmatch(str(step["checkpoint"])):
        return {**resolved(studio, step, ("dataset", "eval_dataset")), "checkpoint": str(step["checkpoint"])}
    return resolved(studio, step)


def _end(studio: Studio, chain: dict[str, Any], *, follow: bool, as_json: bool) -> None:
    """Print a chain, or follow it first; then the exit code says how it ended."""
    if follow:
        chain = _followed(studio, chain["id"])
    if as_json:
        output.as_json(chain)
    else:
        print(chain["id"])
    if follow:
        words = {"succeeded": "All runs succeeded.", "cancelled": "The chain was cancelled."}
        paused = f"Paused at step {chain['step']}: {output.plain(chain['reason'] or '')} `luthier chain continue {chain['id']}` goes on."
        output.note(words.get(chain["status"], paused))
        raise typer.Exit(0 if chain["status"] == "succeeded" else 1)


def _followed(studio: Studio, chain_id: str) -> dict[str, Any]:
    """Show the runs of a chain, each until it ends, until none is to come; the chain as it is then."""
    from app.commands.follow import asked, follow, screen, verdict

    again = f"The chain may still go on; `luthier chain follow {chain_id}` shows it again."
    seen: set[str] = set()
    try:
        while True:
            chain = asked(studio, f"/chains/{chain_id}", again)
            if chain["status"] != "running":
                return chain
            new = next((each for each in chain["steps"] if each["run"] and each["run"] not in seen and each["status"] != "deleted"), None)
            if new is None:
                _wait()
                continue
            seen.add(new["run"])
            output.note(f"Step {new['number']} of {len(chain['steps'])}: {output.plain(new['request']['method'])}")
            with screen() as show:
                run = follow(studio, new["run"], show)
            verdict(run)
    except KeyboardInterrupt:
        output.note(f"The chain goes on without you; `luthier chain follow {chain_id}` shows it again.")
        raise


def _wait() -> None:
    import time

    time.sleep(0.5)


@commands.command("list")
def list_chains(
    q: Annotated[str | None, typer.Option("--search", "-q", help="Only chains with this in their name.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1, max=10_000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List chains, newest first."""
    chains = list(_studio().all("/chains", limit=limit, q=q))
    if as_json:
        output.as_json(chains)
        return
    rows = [
        [
            each["id"],
            each["name"],
            each["status"],
            f"{each['step']}/{len(each['steps'])}",
            " → ".join(step["request"]["method"] for step in each["steps"]),
            each["created_at"],
        ]
        for each in chains
    ]
    empty = "There are no chains yet. `luthier chain create --file chain.yaml` starts one."
    output.table(["id", "name", "status", "step", "methods", "created"], rows, empty)


@commands.command("show")
def show(chain: ChainId, as_json: AsJson = False) -> None:
    """Show one chain with its steps."""
    found = _studio().find("chains", chain)
    if as_json:
        output.as_json(found)
        return
    output.fields((name, found[name]) for name in ("id", "name", "status", "reason", "reason_code", "created_at", "finished_at"))
    print()
    rows = [[each["number"], each["status"], each["request"]["method"], each["run"]] for each in found["steps"]]
    output.table(["step", "status", "method", "run"], rows, "")


@commands.command("follow")
def follow_chain(chain: ChainId, as_json: AsJson = False) -> None:
    """Show progress and loss of each run until a chain ends or pauses; exit code 0 only when all runs succeed."""
    studio = _studio()
    _end(studio, studio.find("chains", chain), follow=True, as_json=as_json)


@commands.command("cancel")
def cancel(chain: ChainId, as_json: AsJson = False) -> None:
    """Stop a chain for good, and the run it is at."""
    order("chains", chain, "cancel", as_json=as_json)


@commands.command("continue")
def go_on(
    chain: ChainId,
    file: Annotated[
        str | None, typer.Option(help="YAML or JSON with other settings for the step it stopped at; `-` is standard input.")
    ] = None,
    follow: Follow = False,
    as_json: AsJson = False,
) -> None:
    """Have a paused chain go on: resume the run it stopped at, or start that step anew with other settings."""
    studio = _studio()
    found = studio.find("chains", chain)
    body = {"step": _step(studio, found["step"], read_file(file))} if file else None
    answer = studio.post(f"/chains/{found['id']}/continue", body)
    if follow or as_json:
        _end(studio, answer, follow=follow, as_json=as_json)
    else:
        print(f"{answer['id']} is {answer['status']}.")


@commands.command("delete")
def delete(chain: ChainId, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove a chain that is over; its runs and what they made stay."""
    studio = _studio()
    found = studio.find("chains", chain)
    output.confirm(f"Delete the chain “{output.plain(found['name'])}”? Its runs stay.", yes=yes)
    studio.delete(f"/chains/{found['id']}")
    if as_json:
        output.as_json({"deleted": [found["id"]]})
    else:
        print(f"{found['id']} is deleted.")
