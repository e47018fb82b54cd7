"""What the playground's templates show: turns with their answers, choices of checkpoints, settings as they were posted. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.chats import progress, service
from app.chats.schemas import ACTIVE, Sampling
from app.chats.tables import Answer, Chat
from app.checkpoints.tables import Checkpoint
from app.datasets import service as datasets
from app.datasets import views as dataset_views
from app.errors import Invalid, StudioError
from app.words import plain_words

LETTERS = "ABC"
STARTERS = 4
LOOKED_THROUGH = 5
GROUPS = {"full": "Full fine-tunes", "adapter": "Adapters", "base": "Base models"}


@dataclass(frozen=True)
class AnswerView:
    """One answer as the page shows it."""

    answer: Answer
    letter: str
    text: str
    place: int | None
    """In the queue, from 1."""

    @property
    def is_going(self) -> bool:
        """Whether more is to come."""
        return self.answer.status in ACTIVE

    @property
    def speed(self) -> float | None:
        """Tokens a second."""
        seconds = self.answer.seconds
        return self.answer.tokens / seconds if seconds and self.answer.tokens else None

    @property
    def note(self) -> str:
        """What is to be said about how it stands, in words; empty when the text says it."""
        status, shown = self.answer.status, self.answer.progress
        if status == "queued":
            return "Next in line" if self.place in (1, None) else f"{self.place - 1} before this one in line"
        if status == "loading":
            return str(shown["text"]) if shown else "A worker took the question"
        if status == "stopping":
            return "Stopping"
        if status == "stopped":
            return "Stopped"
        return "Cut off at the limit of tokens" if self.answer.finish == "length" else ""


@dataclass(frozen=True)
class TurnView:
    """A message with its answers."""

    number: int
    prompt: str
    answers: list[AnswerView]
    is_last: bool

    @property
    def is_going(self) -> bool:
        """Whether an answer is still to come."""
        return any(answer.is_going for answer in self.answers)

    @property
    def can_compare(self) -> bool:
        """Whether both columns have said something that may be preferred."""
        return len(self.answers) == 2 and all(answer.text.strip() and not answer.is_going for answer in self.answers)


def turns(session: Session, chat: Chat) -> list[TurnView]:
    """All of a chat, in order."""
    found = service.answers(session, chat)
    going = [answer.id for answer in found if answer.status in ACTIVE]
    said = progress.said_so_far(session, going) if going else {}
    places = service.queue_places(session) if any(answer.status == "queued" for answer in found) else {}
    by_turn: dict[int, list[AnswerView]] = {}
    for answer in found:
        view = AnswerView(answer, LETTERS[answer.place], answer.text or said.get(answer.id, ""), places.get(answer.id))
        by_turn.setdefault(answer.turn, []).append(view)
    listed = service.turns(session, chat)
    return [TurnView(turn.number, turn.prompt, by_turn.get(turn.number, []), turn is listed[-1]) for turn in listed]


def choices(found: list[Checkpoint]) -> dict[str, list[Checkpoint]]:
    """Checkpoints by kind, under the titles a select shows."""
    grouped = {title: [each for each in found if each.kind == kind] for kind, title in GROUPS.items()}
    return {title: listed for title, listed in grouped.items() if listed}


def starters(session: Session, workspace_id: str) -> tuple[str, list[str]]:
    """Four prompts of the newest dataset that has any, and its name."""
    for dataset in datasets.list_datasets(session, workspace_id, limit=LOOKED_THROUGH, latest=True, usable=True):
        if dataset.shape in ("text", "labelled", None):
            continue
        try:
            rows = datasets.read_rows(dataset, 0, STARTERS * 4)
        except StudioError:
            continue
        prompts: list[str] = []
        for row in rows:
            asked = next((turn.text for turn in dataset_views.turns(row["row"], dataset.shape) if turn.role == "user"), "").strip()
            if asked and asked not in prompts and len(asked) <= 2000:
                prompts.append(asked)
        if prompts:
            return dataset.name, prompts[:STARTERS]
    return "", []


def read_settings(form: dict[str, str]) -> dict[str, Any]:
    """Checkpoints, system prompt and sampling from the posted form.

    Raises:
        Invalid: a field cannot be used; the message names it.
    """
    checkpoints = [each for each in (form["checkpoint"], form["with"], form["also"]) if each]
    if not form["checkpoint"]:
        raise Invalid("Choose a model to ask.", field="checkpoint")
    values: dict[str, Any] = {name: form[name].strip() for name in ("temperature", "top_p", "max_new_tokens") if form[name].strip()}
    values["seed"] = form["seed"].strip() or None
    try:
        sampling = Sampling.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise Invalid(f"{field.replace('_', ' ').capitalize()}: {plain_words(first)}", field=field) from None
    system = form["system"].replace("\r\n", "\n").replace("\x00", "").strip()
    if len(system) > 20_000:
        raise Invalid("The system prompt has at most 20,000 characters.", field="system")
    return {"checkpoints": checkpoints, "system": system, "sampling": sampling}
