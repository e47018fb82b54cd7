"""What the pages of chains show, worked out from rows: cards of steps and lines of the list. Renders nothing, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import methods
from app.chains import check, service, written
from app.chains.schemas import OVER, requests
from app.chains.service import Standing
from app.chains.tables import Chain
from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.rendering import number as as_number
from app.runs.schemas import ENDED, RunCreate
from app.runs.tables import Run
from app.runs.views import share_of, spent

_FIGURES = (("reward", "Reward"), ("rewards/accuracies", "Accuracy"), ("eval_loss", "Eval loss"), ("loss", "Loss"))
"""What a step is judged by; the first two that its run has are shown."""


@dataclass(frozen=True)
class Card:
    """One step."""

    number: int
    request: RunCreate
    title: str
    status: str
    run: Run | None
    begins: str
    """What it starts from, in words."""
    model: str | None
    """Id of the checkpoint it starts from, where that is named or known by now."""
    dataset: str
    figures: list[tuple[str, str]]

    @property
    def share(self) -> float:
        """Done part of its steps, 0 to 1."""
        return share_of(self.run) if self.run else 0.0

    @property
    def seconds(self) -> float | None:
        """Time spent so far."""
        return spent(self.run) if self.run else None


@dataclass(frozen=True)
class Line:
    """One chain, in the list or on its page."""

    chain: Chain
    now_is: Standing
    at: int
    """Number of the step it is at."""
    cards: list[Card]

    @property
    def moves(self) -> bool:
        """Whether it may look otherwise in a moment."""
        run = self.cards[self.at - 1].run
        return self.now_is.status == "running" or (run is not None and self.now_is.status == "cancelled" and run.status not in ENDED)

    @property
    def is_over(self) -> bool:
        """Whether nothing starts any more."""
        return self.now_is.status in OVER

    @property
    def stopped_at(self) -> int:
        """Number of the step that continuing is about."""
        run = self.cards[self.at - 1].run
        return self.at + (run is not None and run.status == "succeeded")

    @property
    def stopped_step(self) -> str:
        """That step as YAML."""
        return written.step_as_yaml(self.cards[self.stopped_at - 1].request)


def lines(session: Session, chains: list[Chain]) -> list[Line]:
    """Chains with their steps, as they stand now."""
    of_chain = service.started(session, chains)
    asked = {chain.id: requests(chain) for chain in chains}
    steps = [step for some in asked.values() for step in some]
    models = _names(session, Checkpoint, {step.checkpoint for step in steps})
    sets = _names(session, Dataset, {step.dataset.partition("@")[0] for step in steps})
    found = []
    for chain in chains:
        there = of_chain[chain.id]
        cards = [_card(number, step, there, models, sets) for number, step in enumerate(asked[chain.id], 1)]
        found.append(Line(chain, service.standing(chain, there), max(1, len(there)), cards))
    return found


def _names(session: Session, table: Any, ids: set[str]) -> Mapping[str, str]:
    return {row.id: row.name for row in session.execute(select(table.id, table.name).where(table.id.in_(ids)))} if ids else {}


def _card(number: int, step: RunCreate, there: list[Run | None], models: Mapping[str, str], sets: Mapping[str, str]) -> Card:
    run = there[number - 1] if number <= len(there) else None
    status = run.status if run else "deleted" if number <= len(there) else "waiting"
    named = check.number_of(step.checkpoint)
    aim = methods.registry().get(step.method)
    latest = run.latest if run else {}
    figures = [(title, as_number(latest[name], 3)) for name, title in _FIGURES if name in latest][:2]
    plain, _, version = step.dataset.partition("@")
    return Card(
        number=number,
        request=step,
        title=aim.title if aim else step.method,
        status=status,
        run=run,
        begins=f"what step {named} makes" if named else models.get(step.checkpoint, "a model that was deleted"),
        model=run.checkpoint_id if run else None if named else step.checkpoint,
        dataset=f"{sets.get(plain, 'deleted data')}{f' v{version}' if version else ''}",
        figures=figures,
    )
