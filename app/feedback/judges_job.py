"""The job that lets a judge judge: what its child is told, and how verdicts are kept, each once. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app import storage
from app.checkpoints import service as checkpoints
from app.checkpoints.tables import Checkpoint
from app.database import after_commit
from app.errors import Conflict, NotFound
from app.feedback import chunked_jobs, judge_verdicts, judges
from app.feedback.judges import GONE, folder_of
from app.feedback.tables import Item, Project, Response
from app.feedback.tables_judges import Judge, Judgement
from app.jobs import service as jobs
from app.jobs.tables import Job

READ_AT_ONCE = 500
"""Items whose texts are read at once."""
ASKED_AT_ONCE = 64
"""Questions in a chunk, about: what a worker that is killed loses at most."""
TAKEN_AT_ONCE = 20
"""Chunks whose verdicts are kept in one transaction while the job goes on."""
ANSWERS = {"pair": 2, "single": 1, "rank": 9}
CHECKPOINT_GONE = "The checkpoint of the judge “{name}” was deleted, so it cannot judge any more. Its verdicts stay."


def judge_spec(session: Session, job: Job) -> dict[str, Any]:
    """What the child that judges is told; the items are written into its folder, once.

    Raises:
        NotFound: the judge or its project was deleted meanwhile.
        Conflict: its checkpoint was, or there is nothing to judge.
    """
    judge = session.get(Judge, job.subject_id)
    project = session.get(Project, judge.project_id) if judge is not None else None
    if judge is None or project is None:
        raise NotFound(GONE)
    checkpoint = session.get(Checkpoint, judge.checkpoint_id) if judge.checkpoint_id else None
    if checkpoint is None:
        raise Conflict(CHECKPOINT_GONE.format(name=judge.name))
    model = checkpoints.training_paths(session, checkpoint)
    folder = storage.path(folder_of(judge.id, job.id))
    if not (folder / "items.jsonl").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with storage.disk_errors("what the judge is to judge"):
            storage.keep_lines(folder / "items.jsonl", _items(session, project, judge))
    each = len(judge.questions) * (2 if project.kind == "pair" else 1)
    return {
        "folder": str(folder),
        "judge": judge.kind,
        "name": judge.name,
        "model": model,
        "project_kind": project.kind,
        "questions": judge.questions,
        "chunk": max(1, ASKED_AT_ONCE // each) if judge.kind == "model" else ASKED_AT_ONCE,
    }


def _items(session: Session, project: Project, judge: Judge) -> Iterator[dict[str, Any]]:
    """Items to be judged with their answers: first those that people rated, then in the order of the queue."""
    wanted = select(Item.id).where(*judges.judgeable(project.id, judge)).order_by(judges.is_rated().desc(), Item.order_key, Item.id)
    ids = list(session.scalars(wanted.limit(max(0, judge.most - judge.done))))
    if not ids:
        raise Conflict("There is nothing left to judge.")
    for start in range(0, len(ids), READ_AT_ONCE):
        some = ids[start : start + READ_AT_ONCE]
        prompts = {item_id: prompt for item_id, prompt in session.execute(select(Item.id, Item.prompt).where(Item.id.in_(some)))}
        answers: dict[str, list[dict[str, Any]]] = {item_id: [] for item_id in some}
        columns = (Response.item_id, Response.id, Response.text, Response.checkpoint_id)
        query = select(*columns).where(Response.item_id.in_(some), Response.finish.is_distinct_from("edited"))
        for item_id, response_id, text, checkpoint_id in session.execute(query.order_by(Response.item_id, Response.place)):
            if len(answers[item_id]) < ANSWERS[project.kind]:
                answers[item_id].append({"id": response_id, "text": text, "own": checkpoint_id == judge.checkpoint_id})
        yield from ({"item": item_id, "prompt": prompts[item_id], "answers": answers[item_id]} for item_id in some)


def judge_progress(session: Session, job: Job, progress: dict[str, Any]) -> None:
    """Keep the verdicts that are there; end the job when the judge or its checkpoint is gone."""
    judge = _judge(session, job)
    if judge is None:
        jobs.fail(session, job, GONE, "deleted")
        _sweep(session, job)
        return
    _take(session, judge, job, TAKEN_AT_ONCE)
    if judge.checkpoint_id is None:
        jobs.fail(session, job, CHECKPOINT_GONE.format(name=judge.name), "deleted")
    chunked_jobs.went_on(job, progress)
    session.flush()


def judge_done(session: Session, job: Job, result: dict[str, Any]) -> None:
    """All is judged: the rest is kept, and what lay on disk is removed.

    Raises:
        NotFound: the judge was deleted meanwhile.
    """
    judge = _judge(session, job)
    if judge is None:
        raise NotFound(GONE)
    _take(session, judge, job, None)
    _sweep(session, job)
    session.flush()


def judge_failed(session: Session, job: Job, reason: str, code: str) -> None:
    """It cannot be done: the job's row says why. What was found stays on disk, so that it can go on, unless there is no judge any more."""
    if session.get(Judge, job.subject_id) is None:
        _sweep(session, job)


def _sweep(session: Session, job: Job) -> None:
    path = folder_of(str(job.subject_id))
    after_commit(session, lambda: storage.remove(path))


def _judge(session: Session, job: Job) -> Judge | None:
    """The judge of a job, which nobody deletes or lets go on meanwhile."""
    query = select(Judge).where(Judge.id == job.subject_id).with_for_update(key_share=True)
    return session.scalars(query.execution_options(populate_existing=True)).first()


def _take(session: Session, judge: Judge, job: Job, most: int | None) -> None:
    """Keep the verdicts of finished chunks, in order. How many chunks were taken is written in the same transaction: none comes twice."""
    state = dict(job.result or {})
    number = int(state.get("taken", 0))
    chunks = chunked_jobs.finished(storage.path(folder_of(judge.id, job.id)) / "verdicts", number, most)
    if not chunks:
        return
    said = [one for file in chunks for one in storage.lines(file)]
    for start in range(0, len(said), READ_AT_ONCE):
        _keep(session, judge, said[start : start + READ_AT_ONCE])
    job.result = {**state, "taken": number + len(chunks)}


def _keep(session: Session, judge: Judge, said: list[dict[str, Any]]) -> None:
    """Write what a judge said of items. What it said of one before, in an earlier job, stays as it is."""
    project = session.get_one(Project, judge.project_id)
    turned = project.direction == "worse" and (judge.kind == "reward" or bool(judge.principles))
    there = set(session.scalars(select(Item.id).where(Item.id.in_([one["item"] for one in said]))))
    rows = [
        {
            "judge_id": judge.id,
            "item_id": one["item"],
            "is_own": any(one["own"]),
            **judge_verdicts.verdict(
                one["said"], kind=project.kind, scale=project.scale, turned=turned, tie=judge.tie, answers=one["answers"]
            ),
        }
        for one in said
        if one["item"] in there
    ]
    if rows:
        insert: Any = postgresql.insert(Judgement) if session.get_bind().dialect.name == "postgresql" else sqlite.insert(Judgement)
        new = session.scalars(insert.values(rows).on_conflict_do_nothing().returning(Judgement.item_id)).all()
        judge.done += len(new)
