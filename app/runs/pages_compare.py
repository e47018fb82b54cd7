"""The page that lays two to eight runs side by side; everything it shows stands in its address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Query, Request, Response
from sqlalchemy.orm import Session

from app.rendering import NOTHING, bytes_, duration, number, percent
from app.runs import compare, listing, views
from app.runs.schemas import ENDED
from app.runs.tables import Run
from app.runs.tabs import shown as setting_shown
from app.web import Reader, ReadSession, is_partial, page, pages_router, see_other

router = pages_router()

FOUND = 8
Text = Annotated[str, Query(max_length=200)]
Ids = Annotated[str, Query(max_length=2000)]
TITLES = {
    "loss": "Train loss",
    "eval_loss": "Eval loss",
    compare.BEST_EVAL: "Best eval loss",
    "exact_match": "Exact match",
    "rewards/accuracies": "Reward accuracy",
    "rewards/margins": "Reward margin",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
    "tokens_per_second": "Tokens per second",
    "tokens": "Tokens seen",
    "memory_bytes": "Memory",
    "elapsed_seconds": "Time",
}
CONFIG_TITLES = {
    "method": "Method",
    "tuner": "Tuner",
    "checkpoint": "Model",
    "dataset": "Dataset",
    "eval_dataset": "Evaluation data",
    "seed": "Seed",
}


class Address:
    """Addresses of this page: with what it shows now, and some of it changed."""

    def __init__(self, ids: Sequence[str], asked: dict[str, str]) -> None:
        self.ids, self.asked = list(ids), asked

    def __call__(self, ids: Sequence[str] | None = None, **changes: str | None) -> str:
        wanted = {name: value for name, value in {**self.asked, **changes}.items() if value}
        runs = ",".join(self.ids if ids is None else ids)
        return f"/runs/compare?{urlencode({'runs': runs, **wanted}, safe=',')}"

    def without(self, run_id: str) -> str:
        """The page without a run."""
        kept = [each for each in self.ids if each != run_id]
        hidden = ",".join(each for each in self.asked.get("hide", "").split(",") if each and each != run_id)
        return self(kept, hide=hidden, base=None if self.asked.get("base") == run_id else self.asked.get("base"))

    def flipped(self, run_id: str) -> str:
        """The page with a run hidden, or shown again."""
        hidden = [each for each in self.asked.get("hide", "").split(",") if each]
        return self(hide=",".join([each for each in hidden if each != run_id] if run_id in hidden else [*hidden, run_id]))

    def with_run(self, run_id: str) -> str:
        """The page with one more run."""
        return self([*self.ids, run_id])


@router.get("/runs/compare")
def compare_runs(
    request: Request,
    who: Reader,
    session: ReadSession,
    runs: Ids = "",
    run: Annotated[list[str] | None, Query(max_length=50)] = None,
    base: Text = "",
    hide: Ids = "",
    every: Annotated[str, Query(alias="all", max_length=5)] = "",
    step: Annotated[str, Query(max_length=12)] = "",
    find: Text = "",
) -> Response:
    """Charts, settings, last values and answers of some runs side by side; htmx gets the runs that a search finds."""
    ids = compare.chosen(",".join([runs, *(run or [])]))
    if run:
        return see_other(Address(ids, {})())
    asked_step = int(step) if step.isdigit() else None
    asked = {"base": base if base in ids else "", "hide": ",".join(each for each in hide.split(",") if each in ids), "all": every and "1"}
    link = Address(ids, {**asked, "step": step if asked_step is not None else ""})
    found = _found(session, who.workspace_id, find, ids)
    if is_partial(request):
        return page(request, "runs/_compare_found.html", who, found=found, link=link, find=find.strip())
    there = listing.existing(session, who.workspace_id, ids)
    return page(request, "runs/compare.html", who, found=found, find=find.strip(), **context(session, there, link, asked_step))


def _found(session: Session, workspace_id: str, find: str, ids: list[str]) -> list[Run]:
    if len(ids) >= compare.MOST:
        return []
    runs = listing.list_runs(session, workspace_id, limit=FOUND + len(ids), q=find.strip() or None)
    return [run for run in runs if run.id not in ids][:FOUND]


def context(session: Session, runs: list[Run], link: Address, step: int | None) -> dict[str, Any]:
    """What the template shows of the runs that exist."""
    known = {run.id: run for run in runs}
    hidden = link.asked["hide"].split(",")
    base = next((place for place, run in enumerate(runs) if run.id == link.asked["base"]), 0)
    config = compare.config(session, runs)
    steps, at, answers = compare.samples(session, runs, step)
    live = [f"run:{run.id}" for run in runs if run.status not in ENDED]
    return {
        "runs": views.rows(session, runs),
        "slots": {each: place for place, each in enumerate(link.ids, start=1)},
        "gone": [each for each in link.ids if each not in known],
        "hidden": hidden,
        "base": base,
        "link": link,
        "room": compare.MOST - len(link.ids),
        "config": [row for row in config if link.asked["all"] or row.differs],
        "config_count": len(config),
        "everything": bool(link.asked["all"]),
        "metrics": compare.final_metrics(session, runs) if runs else [],
        "titles": TITLES,
        "config_titles": CONFIG_TITLES,
        "setting": setting_shown,
        "value": value,
        "steps": steps,
        "step": step,
        "at": at,
        "answers": answers,
        "topics": ",".join(live),
        "cursors": ",".join(f"run:{run.id}={run.seq}" for run in runs if run.status not in ENDED),
        "charted": [{"id": run.id, "name": run.name, "slot": link.ids.index(run.id) + 1} for run in runs if run.id not in hidden],
    }


def value(name: str, found: float | str | None) -> str:
    """A metric's value for people."""
    if found is None:
        return NOTHING
    if isinstance(found, str):
        return number(found)
    if name.endswith("_bytes"):
        return bytes_(found)
    if name == "elapsed_seconds":
        return duration(found)
    if name == "exact_match" or name.endswith(("accuracies", "accuracy")):
        return percent(found)
    return number(found)
