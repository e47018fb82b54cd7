"""Shows a run while it works: a bar on a terminal, plain lines elsewhere. Follows the live events; without them it asks every second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

import httpx

from app.commands import output
from app.commands.client import Refused, Studio
from app.errors import Unavailable

ENDED = ("succeeded", "failed", "cancelled", "paused")
"""Statuses after which a run does not go on by itself."""
PATIENCE_SECONDS = 120.0
"""How long a studio may be away, as when it is restarted, before following is given up."""
ASK_SECONDS = 1.0


class Screen(Protocol):
    """Where progress is shown."""

    def __enter__(self) -> Screen: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def status(self, run: dict[str, Any]) -> None:
        """Show what the run does and how far it is."""

    def points(self, step: int, values: dict[str, float | str], total: int | None = None) -> None:
        """Show the metrics of one step."""

    def say(self, text: str) -> None:
        """Show a line of the run's history."""


class Lines:
    """Progress as lines on standard error, for logs and pipes."""

    def __init__(self) -> None:
        self._said = ""
        self._total: int | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def status(self, run: dict[str, Any]) -> None:
        """Print what the run does when that has changed."""
        self._total = run["total_steps"]
        words = describe(run)
        if words != self._said:
            self._said = words
            output.note(words)

    def points(self, step: int, values: dict[str, float | str], total: int | None = None) -> None:
        """Print the metrics of a step in one line."""
        shown = [f"{name} {_value(values[name])}" for name in ("loss", "eval_loss", "exact_match") if name in values]
        if not shown:
            return
        self._total = total or self._total
        left = time_left(step, self._total, values.get("elapsed_seconds"))
        of = f"/{self._total}" if self._total else ""
        output.note(f"step {step}{of}  {'  '.join(shown)}{f'  {output.duration(left)} left' if left is not None else ''}")

    def say(self, text: str) -> None:
        """Print a line of the history."""
        output.note(output.plain(text))


class Bar:
    """Progress as a bar on a terminal, with what happened above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task("", total=None, loss="", left="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def status(self, run: dict[str, Any]) -> None:
        """Move the bar."""
        seen = {name: run["nonfinite"].get(name, value) for name, value in run["metrics"].items()}
        left = time_left(run["step"], run["total_steps"], seen.get("elapsed_seconds"))
        loss = f"loss {_value(seen['loss'])}" if seen.get("loss") is not None else ""
        words = f"{output.duration(left)} left" if left is not None and run["status"] not in ENDED else ""
        self._progress.update(self._task, description=describe(run), completed=run["step"], total=run["total_steps"], loss=loss, left=words)

    def points(self, step: int, values: dict[str, float | str], total: int | None = None) -> None:
        """Print evaluations above the bar; the loss is in it."""
        shown = [f"{name} {_value(values[name])}" for name in ("eval_loss", "exact_match") if name in values]
        if shown:
            self.say(f"step {step}  {'  '.join(shown)}")

    def say(self, text: str) -> None:
        """Print a line of the history above the bar."""
        self._progress.console.print(output.plain(text), markup=False, highlight=False)


def screen() -> Screen:
    """A bar where somebody watches a terminal, lines otherwise."""
    return Bar() if sys.stderr is not None and sys.stderr.isatty() else Lines()


def _value(value: float | str | None) -> str:
    return value if isinstance(value, str) else output.number(value)


def time_left(step: int, total: int | None, elapsed: float | str | None) -> float | None:
    """Seconds until the last step, by the training time so far; None while that is unknown."""
    if not total or not step or not isinstance(elapsed, int | float) or step >= total:
        return None
    return (total - step) * elapsed / step


def describe(run: dict[str, Any]) -> str:
    """What a run does, in words."""
    status = str(run["status"])
    if status == "queued":
        place = f", {run['queue_place']} in line" if run["queue_place"] else ""
        return output.plain(f"queued{place}{': ' + run['reason'] if run['reason'] else ''}")
    if status == "preparing" and run["phase"]:
        return output.plain(f"preparing: {run['phase']}")
    return status


def asked(studio: Studio, path: str, again: str, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """What the studio answers, also when it is away for a while, as when it is restarted.

    Args:
        again: a sentence that says how to go on, for when it stays away.

    Raises:
        Unavailable: it has been away for too long.
    """
    away_since: float | None = None
    while True:
        try:
            return dict(studio.get(path))
        except (Unavailable, Refused) as error:
            if isinstance(error, Refused) and error.status < 500:
                raise
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > PATIENCE_SECONDS:
                raise Unavailable(f"{error.message} {again}") from None
            sleep(ASK_SECONDS)


def follow(studio: Studio, run_id: str, show: Screen, sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Show a run until it has ended or is paused; the run as it is then.

    Raises:
        Unavailable: the studio has been away for too long.
    """
    topic, cursor = f"run:{run_id}", -1
    while True:
        run = asked(studio, f"/runs/{run_id}", f"The run may still go on; `luthier run follow {run_id}` shows it again.", sleep)
        show.status(run)
        if run["status"] in ENDED:
            return run
        # The first time from here on; later from where the stream broke, so that no point is missed.
        cursor = run["seq"] if cursor < 0 else cursor
        try:
            for event in studio.events(topic, cursor):
                if event.kind == "status":
                    run = dict(event.data["run"])
                    cursor = int(run["seq"])
                    show.status(run)
                    if run["status"] in ENDED:
                        return run
                else:
                    _show(show, event.kind, event.data)
        except (httpx.HTTPError, Refused):
            pass  # asked again below, so that a studio without a stream is followed too
        sleep(ASK_SECONDS)


def _show(show: Screen, kind: str, data: dict[str, Any]) -> None:
    if kind == "metrics":
        by_step: dict[int, dict[str, float | str]] = {}
        for name, step, value, *kind_of_nonfinite in data["points"]:
            by_step.setdefault(int(step), {})[str(name)] = kind_of_nonfinite[0] if kind_of_nonfinite else value
        for step, values in sorted(by_step.items()):
            show.points(step, values, data.get("total_steps"))
    elif kind in ("event", "checkpoint") and data.get("kind") not in ("created", "succeeded", "failed"):
        show.say(str(data["message"]))


def watch(studio: Studio, run_id: str) -> dict[str, Any]:
    """Follow a run on whatever is there; Ctrl-C leaves the run alone."""
    try:
        with screen() as show:
            return follow(studio, run_id, show)
    except KeyboardInterrupt:
        output.note(f"The run goes on without you; `luthier run follow {run_id}` shows it again, `luthier run cancel {run_id}` stops it.")
        raise


def verdict(run: dict[str, Any]) -> int:
    """Say how a run ended; the exit code: 0 only when it succeeded."""
    loss = run["nonfinite"].get("loss", run["metrics"].get("loss"))
    if run["status"] == "succeeded":
        output.note(f"Succeeded after {run['step']} steps{f' with a loss of {_value(loss)}' if loss is not None else ''}.")
        return 0
    reason = output.plain(run["reason"]) if run["reason"] else ""
    if run["status"] == "paused":
        output.note(f"Paused at step {run['step']}. {reason} `luthier run resume {run['id']}` goes on.".replace("  ", " "))
    else:
        output.note(f"{run['status'].capitalize()} at step {run['step']}{': ' + reason if reason else '.'}")
    return 1
