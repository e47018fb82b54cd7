"""Judges of a project: adding one, looking how it stands, ending it, going on with it, deleting it. What the job does is in `judges_job`.

A judge is a model that says of items what people say of them. It has tables of its own, so nothing that counts people's ratings can
count it: not slots and progress, not agreement, leaderboard, adjudication or snapshots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from app import storage
from app.checkpoints import service as checkpoints
from app.checkpoints.heads import task_of
from app.checkpoints.tables import Checkpoint
from app.database import after_commit, iso
from app.errors import Conflict, Invalid, NotFound
from app.feedback import chunked_jobs, judge_words, projects
from app.feedback.generation import ANSWERING, must_be_there, named
from app.feedback.judge_verdicts import TIE
from app.feedback.tables import Item, Project, Rating
from app.feedback.tables_judges import Judge, Judgement
from app.jobs import service as jobs
from app.jobs.tables import Job
from app.words import clean_name

KIND = "feedback.judge"
MOST_PRINCIPLES = 10
MOST_CHARACTERS = 1000
"""Of one principle."""
MOST_ITEMS = 20_000
MOST_JUDGES = 20
JUDGED = ("normal", "gold")
"""Roles of items that are judged: ordinary ones, and those whose answer is known."""
GONE = "The judge was deleted, so it judges nothing any more."


class JudgeIn(BaseModel):
    """A judge to be added."""

    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, use_attribute_docstrings=True)

    checkpoint: str = Field(min_length=1, max_length=200)
    """Id or name. A reward or score checkpoint gives numbers; any other is asked, each pair in both orders."""
    name: str = Field("", max_length=200)
    """Default: the name of the checkpoint."""
    principles: list[str] = Field(default_factory=list, max_length=MOST_PRINCIPLES)
    """Sentences that say what is better; each is asked of every item and the results are averaged. None: the question of the project."""
    limit: int = Field(1000, ge=1, le=MOST_ITEMS)
    """How many items at most, first those that people rated."""
    tie: float = Field(TIE, ge=0, le=0.4, allow_inf_nan=False)
    """How far the probability must be from one half for the judge to take a side."""


# --- adding ---------------------------------------------------------------------------------------------------------------


def add(session: Session, project: Project, asked: JudgeIn, created_by: str | None = None) -> Judge:
    """A judge, with the job that lets it judge queued.

    Raises:
        NotFound: there is no such checkpoint.
        Conflict: it is not ready, or the project has many judges.
        Invalid: a principle cannot be used, or the checkpoint gives numbers and would not read it.
    """
    project = projects.lock(session, project)  # of two that add at once, the second counts the judge of the first
    if (session.scalar(select(func.count()).select_from(Judge).where(Judge.project_id == project.id)) or 0) >= MOST_JUDGES:
        raise Conflict(f"A project has at most {MOST_JUDGES} judges. Delete one first.")
    checkpoint = named(session, project.workspace_id, asked.checkpoint, "checkpoint")
    if checkpoint.kind not in (*ANSWERING, "reward"):
        raise Invalid(f"“{checkpoint.name}” is a {checkpoint.kind} checkpoint, which cannot judge. Take another.", field="checkpoint")
    task = task_of(checkpoint)
    if task not in ("policy", "reward", "score"):
        raise Invalid(f"“{checkpoint.name}” is {'an encoder' if task == 'encoder' else f'a {task}'} and cannot judge.", field="checkpoint")
    must_be_there(session, checkpoint, "checkpoint")
    kind = kind_of(checkpoint)
    principles = _principles(asked.principles)
    if kind == "reward" and principles:
        raise Invalid(
            f"“{checkpoint.name}” gives numbers and reads no principles: leave them out, or take a checkpoint that writes.",
            field="principles",
        )
    if not waiting(session, project, None):
        raise Conflict("There is no item to judge yet. Add items first.")
    judge = Judge(
        project_id=project.id,
        checkpoint_id=checkpoint.id,
        name=clean_name("judge", asked.name or checkpoint.name),
        kind=kind,
        principles=principles,
        questions=judge_words.questions(project.kind, project.direction, project.question, principles) if kind == "model" else [],
        tie=asked.tie,
        most=asked.limit,
        created_by=created_by,
    )
    session.add(judge)
    session.flush()
    _queue(session, project, judge, created_by)
    session.refresh(judge)
    return judge


def kind_of(checkpoint: Checkpoint) -> str:
    """How a checkpoint judges: `reward` by its numbers, `model` by what it answers."""
    return "model" if task_of(checkpoint) == "policy" and checkpoint.kind != "reward" else "reward"


def _principles(asked: Sequence[str]) -> list[str]:
    # Without what a database cannot hold.
    clean = [" ".join(each.replace("\x00", "").encode("utf-8", "replace").decode().split()) for each in asked]
    for number, each in enumerate(clean):
        field = f"principles.{number}"
        if not each:
            raise Invalid(f"Principle {number + 1} is empty.", field=field)
        if len(each) > MOST_CHARACTERS:
            raise Invalid(f"Principle {number + 1} has {len(each):,} characters; at most {MOST_CHARACTERS:,} are asked.", field=field)
        if each in clean[:number]:
            raise Invalid(f"Principle {number + 1} is there twice.", field=field)
    return clean


def _queue(session: Session, project: Project, judge: Judge, created_by: str | None) -> Job:
    job = jobs.enqueue(
        session,
        workspace_id=project.workspace_id,
        kind=KIND,
        subject_id=judge.id,
        created_by=created_by,
        lane="device",
    )
    job.progress = dict(chunked_jobs.STARTING)
    session.flush()
    return job


# --- what there is to judge -----------------------------------------------------------------------------------------------


def judgeable(project_id: str, judge: Judge | None) -> list[ColumnElement[bool]]:
    """Conditions of the items a judge has not judged yet."""
    found = [Item.project_id == project_id, Item.status == "open", Item.role.in_(JUDGED)]
    if judge is not None:
        found.append(~exists().where(Judgement.item_id == Item.id, Judgement.judge_id == judge.id))
    return found


def is_rated() -> ColumnElement[bool]:
    """Whether somebody rated an item: those are judged first, since only they tell how far judge and people agree."""
    return exists().where(Rating.item_id == Item.id, Rating.kind.in_(("rate", "adjudicate")))


def waiting(session: Session, project: Project, judge: Judge | None) -> int:
    """How many items a judge could judge now and has not."""
    return int(session.scalar(select(func.count()).select_from(Item).where(*judgeable(project.id, judge))) or 0)


# --- looking and ending ---------------------------------------------------------------------------------------------------


def get(session: Session, project: Project, judge_id: str) -> Judge:
    """A judge of the project.

    Raises:
        NotFound: there is none with that id.
    """
    found = session.scalars(select(Judge).where(Judge.id == judge_id, Judge.project_id == project.id)).first()
    if found is None:
        raise NotFound("There is no such judge; it may have been deleted.")
    return found


def listed(session: Session, project: Project) -> list[Judge]:
    """Judges of a project, the first one first."""
    return list(session.scalars(select(Judge).where(Judge.project_id == project.id).order_by(Judge.id)))


def offered(session: Session, workspace_id: str, most: int = 200) -> list[Checkpoint]:
    """Checkpoints that can judge, newest first."""
    return checkpoints.list_checkpoints(session, workspace_id, limit=most, kinds=[*ANSWERING, "reward"], status="ready")


def progress(session: Session, judge: Judge) -> dict[str, Any] | None:
    """How its newest job stands: `{job, status, reason, done, total, text}`."""
    return chunked_jobs.shown(chunked_jobs.latest(session, KIND, judge.id))


def cancel(session: Session, judge: Judge) -> bool:
    """Stop a judge; its verdicts stay. False when it was over."""
    return chunked_jobs.cancel(session, chunked_jobs.active(session, KIND, judge.id), "Stopped. Its verdicts stay; it can go on.")


def go_on(session: Session, project: Project, judge: Judge, limit: int | None = None) -> Job:
    """Let a judge go on that was stopped or failed, or judge items that came since; `limit` is how many it judges at most, of all.

    Raises:
        Conflict: it is at work, or there is nothing left to judge, or its checkpoint was deleted.
        Invalid: the limit cannot be used.
    """
    if limit is not None and not 1 <= limit <= MOST_ITEMS:
        raise Invalid(f"The limit is a number of items from 1 to {MOST_ITEMS:,}.", field="limit")
    session.refresh(judge, with_for_update=True)  # of two that press the button at once, the second sees the job of the first
    if chunked_jobs.active(session, KIND, judge.id) is not None:
        raise Conflict("This judge is at work. Wait until it is done, or stop it.")
    if judge.checkpoint_id is None:
        raise Conflict("The checkpoint of this judge was deleted, so it cannot judge any more. Its verdicts stay.")
    left = waiting(session, project, judge)
    if not left:
        raise Conflict("It has judged every item there is.")
    more = limit is not None and limit > judge.most
    if limit is not None:
        judge.most = limit
    job = None if more else chunked_jobs.again(session, chunked_jobs.latest(session, KIND, judge.id))
    if job is not None:
        return job
    if judge.done >= judge.most:
        raise Conflict(f"It has judged {judge.done:,} items, which is its limit; {left:,} more are there. Give a higher limit.")
    job = _queue(session, project, judge, judge.created_by)
    chunked_jobs.sweep(session, folder_of(judge.id), job.id)
    return job


def delete(session: Session, judge: Judge) -> None:
    """Remove a judge with all it said, and stop it where it is at work."""
    _forget(session, judge)
    session.delete(judge)
    session.flush()


def forget(session: Session, project: Project) -> None:
    """The project is being deleted: stop its judges and, after the commit, remove what they left on disk."""
    for judge in listed(session, project):
        _forget(session, judge)


def _forget(session: Session, judge: Judge) -> None:
    chunked_jobs.cancel(session, chunked_jobs.active(session, KIND, judge.id), GONE)
    path = folder_of(judge.id)
    after_commit(session, lambda: storage.remove(path))


def folder_of(judge_id: str, job_id: str = "") -> str:
    """Where a judge's work lies while it goes on, below the storage root."""
    return f"feedback/judges/{judge_id}/{job_id}".rstrip("/")


# --- as REST answers ------------------------------------------------------------------------------------------------------


def judge_out(session: Session, judge: Judge) -> dict[str, Any]:
    """A judge with how it stands."""
    return {
        "id": judge.id,
        "project": judge.project_id,
        "name": judge.name,
        "kind": judge.kind,
        "checkpoint": judge.checkpoint_id,
        "principles": judge.principles,
        "questions": judge.questions,
        "limit": judge.most,
        "tie": judge.tie,
        "done": judge.done,
        "progress": progress(session, judge),
        "created_at": iso(judge.created_at),
    }
