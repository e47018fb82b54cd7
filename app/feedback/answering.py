"""A trained checkpoint joins the models of a project: it answers the project's prompts beside others. Asks for it; a worker generates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.checkpoints.heads import must_write
from app.checkpoints.tables import Checkpoint
from app.datasets import service as datasets
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, StudioError
from app.feedback import generation
from app.feedback.schemas import Candidate
from app.feedback.tables import Item, Project, Response, Snapshot
from app.jobs.tables import Job
from app.runs.graded import origin
from app.runs.tables import Run

Which = Literal["held_out", "all"]
WHICH: dict[str, str] = {"held_out": "Held-out prompts", "all": "All prompts"}
MOST_OTHERS = 8
_PIECE = 500
_GOOD = ("open", "filtered")
"""Items whose prompts are asked again: an answer that was put aside says nothing against its prompt."""


@dataclass(frozen=True)
class Member:
    """A checkpoint that answered in a project, or may answer beside the new one."""

    id: str
    name: str
    answers: int
    ready: bool


def members(session: Session, project: Project) -> list[Member]:
    """The checkpoints that ever answered in a project, the busiest first; deleted ones are left out."""
    counted = (
        select(Response.checkpoint_id, func.count().label("answers"))
        .join(Item, Item.id == Response.item_id)
        .where(Item.project_id == project.id, Response.checkpoint_id.is_not(None))
        .group_by(Response.checkpoint_id)
        .subquery()
    )
    query = select(Checkpoint.id, Checkpoint.name, counted.c.answers, Checkpoint.status).join(
        counted, counted.c.checkpoint_id == Checkpoint.id
    )
    rows = session.execute(query.order_by(counted.c.answers.desc(), Checkpoint.id))
    return [Member(row.id, row.name, row.answers, row.status == "ready") for row in rows]


def start_of(session: Session, checkpoint: Checkpoint) -> Checkpoint | None:
    """What a trained checkpoint was trained from, where that can still answer."""
    run = session.get(Run, checkpoint.run_id) if checkpoint.run_id else None
    start = session.get(Checkpoint, run.checkpoint_id) if run is not None else None
    return start if start is not None and start.status == "ready" else None


def others_by_default(session: Session, project: Project, checkpoint: Checkpoint) -> list[str]:
    """Whom a checkpoint is set beside where nobody says so: what it was trained from, else who answered most."""
    start = start_of(session, checkpoint)
    if start is not None:
        return [start.id]
    return [each.id for each in members(session, project) if each.ready and each.id != checkpoint.id][:1]


def held_out(session: Session, project: Project, checkpoint: Checkpoint | None) -> set[str]:
    """Hashes of the prompts that were kept for evaluation when a checkpoint was trained; else in the newest snapshot that keeps some."""
    run = session.get(Run, checkpoint.run_id) if checkpoint is not None and checkpoint.run_id else None
    dataset = session.get(Dataset, run.dataset_id) if run is not None else None
    made_of = origin(session, dataset)
    if dataset is None or made_of is None or made_of.project != project.id:
        query = (
            select(Dataset)
            .join(Snapshot, Snapshot.dataset_id == Dataset.id)
            .where(Snapshot.project_id == project.id, Dataset.eval_rows > 0)
        )
        dataset = session.scalars(query.order_by(Snapshot.id.desc()).limit(1)).first()
    if dataset is None or not dataset.eval_rows:
        return set()
    found = set()
    try:
        with open(datasets.rows_file(dataset), "rb") as lines:
            for line in lines:
                if line.startswith(b'{"split":"eval"'):
                    found.add(orjson.loads(line)["source"]["meta"]["prompt_hash"])
    except (StudioError, OSError, KeyError, TypeError):
        return set()  # its files are gone, or it was made anew of other rows
    return found


def open_prompts(session: Session, project: Project, checkpoint: Checkpoint | None) -> dict[str, list[str]]:
    """Hashes of the prompts a checkpoint has not answered yet: all, and among them the held-out ones."""
    query = select(Item.prompt_hash).where(Item.project_id == project.id, Item.role == "normal", Item.status.in_(_GOOD)).distinct()
    there = set(session.scalars(query))
    if checkpoint is not None:
        answered = select(Item.prompt_hash).join(Response, Response.item_id == Item.id)
        there -= set(session.scalars(answered.where(Item.project_id == project.id, Response.checkpoint_id == checkpoint.id).distinct()))
    return {"all": sorted(there), "held_out": sorted(there & held_out(session, project, checkpoint))}


def sampling_of(project: Project, checkpoint_ids: Sequence[str]) -> dict[str, Any]:
    """How the models of a project answered so far: like the first of these that did, else like its first candidate."""
    known = {each["checkpoint_id"]: each["sampling"] for each in reversed(project.candidates)}
    told = next((known[each] for each in checkpoint_ids if each in known), None)
    told = told or (project.candidates[0]["sampling"] if project.candidates else {})
    return {name: value for name, value in told.items() if name != "seed"}


def ask(
    session: Session,
    project: Project,
    checkpoint_id: str,
    *,
    prompts: Which | None = None,
    against: Sequence[str] | None = None,
    limit: int = 200,
    sampling: dict[str, Any] | None = None,
    created_by: str | None = None,
) -> Job:
    """Have a checkpoint answer prompts of a project it has not answered yet, beside others: new items, which people then rate.

    Of pairs every item shows an answer of the checkpoint and one of the others, who take turns; of rankings all answers; of single answers
    that of the checkpoint alone. All answer in the same way (`sampling`).

    Args:
        prompts: held_out or all. None: the held-out ones, or all where nothing was held out.
        against: ids of the others. None: what the checkpoint was trained from.
        limit: prompts at most, drawn with the seed of the project.
        sampling: as a candidate's. None: as the others answered before.

    Raises:
        NotFound: there is no such checkpoint.
        Invalid: it writes no text, or nobody is set beside it.
        Conflict: no prompt is left, or answers are being generated already.
    """
    if not 1 <= limit <= 10_000:
        raise Invalid("The limit is a number of prompts from 1 to 10,000.", field="limit")
    checkpoint = generation.named(session, project.workspace_id, checkpoint_id, "checkpoint")
    must_write(checkpoint, "checkpoint")
    others: list[str] = []
    if project.kind != "single":
        given = others_by_default(session, project, checkpoint) if against is None else list(dict.fromkeys(against))
        others = [generation.named(session, project.workspace_id, each, "against").id for each in given if each != checkpoint.id]
        if not others:
            raise Invalid("Choose at least one other model that answers too; people compare the answers.", field="against")
        if len(others) > MOST_OTHERS:
            raise Invalid(f"At most {MOST_OTHERS} other models answer beside it; these are {len(others)}.", field="against")
        for each in others:
            must_write(session.get_one(Checkpoint, each), "against")
    left = open_prompts(session, project, checkpoint)
    which = prompts or ("held_out" if left["held_out"] or held_out(session, project, checkpoint) else "all")
    if not left[which]:
        raise Conflict(_none_left(checkpoint, which, bool(left["all"])), field="prompts")
    answering = [checkpoint.id, *others]
    how = sampling_of(project, [*others, checkpoint.id]) if sampling is None else sampling
    asked = _prompts(session, project, _drawn(left[which], limit, project.seed))
    if sum(len(message["content"]) for prompt in asked for message in prompt) > generation.MAX_CHARACTERS:
        words = f"These {len(asked):,} prompts have more than {generation.MAX_CHARACTERS:,} characters together. Take fewer at a time."
        raise Invalid(words, field="limit")
    return generation.start(
        session,
        project,
        prompts=asked,
        candidates=[Candidate(checkpoint=each, sampling=how) for each in answering],
        limit=limit,
        created_by=created_by,
        pairs="first",
    )


def _none_left(checkpoint: Checkpoint, which: str, are_others: bool) -> str:
    if are_others:
        return f"“{checkpoint.name}” has answered every held-out prompt, or there is none. Choose all prompts."
    return f"“{checkpoint.name}” has answered every prompt of this project. Add items with other prompts."


def _drawn(hashes: Sequence[str], limit: int, seed: int) -> list[str]:
    """At most so many of the hashes, drawn with a seed."""
    return sorted(hashes, key=lambda each: hashlib.sha256(f"{seed}:{each}".encode()).digest())[:limit]


def _prompts(session: Session, project: Project, hashes: Sequence[str]) -> list[list[dict[str, str]]]:
    """The prompts with these hashes, each once."""
    found: dict[str, list[dict[str, str]]] = {}
    for start in range(0, len(hashes), _PIECE):
        query = select(Item.prompt_hash, Item.prompt).where(
            Item.project_id == project.id,
            Item.role == "normal",
            Item.status.in_(_GOOD),
            Item.prompt_hash.in_(hashes[start : start + _PIECE]),
        )
        for prompt_hash, prompt in session.execute(query):
            found.setdefault(prompt_hash, prompt)
    return [found[each] for each in hashes if each in found]
