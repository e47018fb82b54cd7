"""A trained checkpoint is let answer a project's prompts: which prompts, beside whom, how; what is refused. Nothing is generated."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app import storage
from app.checkpoints.manifest import write_manifest
from app.checkpoints.tables import Checkpoint
from app.datasets.tables import Dataset
from app.errors import Conflict, Invalid, NotFound
from app.feedback import answering, snapshots
from app.feedback.rules import Rules
from app.feedback.tables import Project
from app.jobs.tables import Job
from tests.conftest import Stack
from tests.factories import add_checkpoint, add_run
from tests.feedback.rated import add_item, add_project, add_rater, rated_pairs, say


def add_model(session: Session, workspace_id: str, name: str, **fields: Any) -> Checkpoint:
    """A checkpoint with as many files as are looked at."""
    folder = storage.path(f"checkpoints/{name}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    write_manifest(folder, run_id=None, step=None, attempt=None, config_hash="")
    return add_checkpoint(session, workspace_id, name=name, path=f"checkpoints/{name}", **fields)


def loop(session: Session, stack: Stack, **rules: Any) -> tuple[Project, Checkpoint, Checkpoint, Dataset]:
    """A project, the model that answered in it, what was trained from that, and on which snapshot."""
    project = rated_pairs(session, stack.workspace_id, 20)
    start = add_model(session, stack.workspace_id, "start")
    sampling = {"temperature": 0.9, "top_p": 0.8, "max_tokens": 7, "seed": 3}
    project.candidates = [{"checkpoint_id": start.id, "name": "start", "sampling": sampling}]
    snapshot = snapshots.freeze(session, project, Rules(**{"held_out": 0.25, **rules}), None)
    dataset = session.get_one(Dataset, snapshot.dataset_id)
    run = add_run(session, stack.workspace_id, method="dpo", checkpoint_id=start.id, dataset_id=dataset.id, status="succeeded")
    trained = add_model(session, stack.workspace_id, "trained", kind="full", source="run", run_id=run.id, step=5)
    return project, start, trained, dataset


def prompts_of(job: Job) -> set[str]:
    return {prompt[-1]["content"] for prompt in job.payload["texts"]}


def test_the_usual_is_held_out_prompts_beside_the_start(stack: Stack) -> None:
    with stack.database.write() as session:
        project, start, trained, dataset = loop(session, stack)
        job = answering.ask(session, project, trained.id)
        assert [each["checkpoint_id"] for each in job.payload["candidates"]] == [trained.id, start.id]
        assert job.payload["pairs"] == "first" and len(job.payload["texts"]) == dataset.eval_rows == 5
        how = {name: job.payload["candidates"][0]["sampling"][name] for name in ("temperature", "top_p", "max_tokens")}
        assert how == {"temperature": 0.9, "top_p": 0.8, "max_tokens": 7} and "seed" not in job.payload["candidates"][0]["sampling"]
    lines = storage.path(f"{dataset.path}/rows.jsonl").read_text().splitlines()
    held = {line.split('"content":"')[1].split('"')[0] for line in lines if line.startswith('{"split":"eval"')}
    assert prompts_of(job) == held
    with stack.database.write() as session, pytest.raises(Conflict, match="generated for this project already"):
        answering.ask(session, session.get_one(Project, project.id), trained.id, prompts="all")


def test_prompts_it_has_answered_are_not_asked_again(stack: Stack) -> None:
    with stack.database.write() as session:
        project, start, trained, _ = loop(session, stack)
        mine = {"text": "mine", "checkpoint_id": trained.id}
        theirs = {"text": "theirs", "checkpoint_id": start.id}
        for number in range(18):
            add_item(session, project, f"What is {number} + {number}?", [mine, theirs])
        add_item(session, project, "flagged", ["a", "b"], status="flagged")
        add_item(session, project, "known", ["a", "b"], role="gold")
        add_item(session, project, "put aside", ["a", "a"], status="filtered", reason="identical")
        job = answering.ask(session, project, trained.id, prompts="all")
        assert prompts_of(job) == {"What is 18 + 18?", "What is 19 + 19?", "put aside"}
        assert [each.name for each in answering.members(session, project)] == ["start", "trained"]


def test_everything_may_be_chosen(api: TestClient, stack: Stack) -> None:
    with stack.database.write() as session:
        project, start, trained, _ = loop(session, stack)
        other = add_model(session, stack.workspace_id, "other")
    url = f"/api/v1/feedback/projects/{project.id}/answers"
    body = {"checkpoint": "trained", "prompts": "all", "against": ["other", start.id], "limit": 7, "sampling": {"temperature": 0}}
    answer = api.post(url, json=body, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 202 and answer.json()["prompts"] == 7
    assert [each["checkpoint_id"] for each in answer.json()["candidates"]] == [trained.id, other.id, start.id]
    assert api.post(url, json=body, headers={"Idempotency-Key": "once"}).json() == answer.json()


def test_what_makes_no_sense_is_refused(stack: Stack) -> None:
    with stack.database.write() as session:
        project, start, trained, _ = loop(session, stack)
        judge = add_model(session, stack.workspace_id, "judge", kind="full", config={"task": "reward"})
        for wrong, field in (({"against": [trained.id]}, "against"), ({"against": [judge.id]}, "against"), ({"limit": 0}, "limit")):
            with pytest.raises(Invalid) as refused:
                answering.ask(session, project, trained.id, **wrong)
            assert refused.value.field == field, wrong
        with pytest.raises(Invalid, match="writes no text"):
            answering.ask(session, project, judge.id)
        with pytest.raises(NotFound, match="no checkpoint"):
            answering.ask(session, project, "ckpt_none")
        empty = add_project(session, stack.workspace_id, name="empty")
        with pytest.raises(Conflict, match="answered every prompt"):
            answering.ask(session, empty, trained.id)
        assert session.query(Job).count() == 0 and start.id


def test_single_answers_need_nobody_beside(stack: Stack) -> None:
    with stack.database.write() as session:
        trained = add_model(session, stack.workspace_id, "trained")
        project = add_project(session, stack.workspace_id, "single")
        rater = add_rater(session, project)
        for number in range(3):
            say(session, add_item(session, project, f"prompt {number}", ["a"]), rater, score=3.0, left=None)
        job = answering.ask(session, project, trained.id)
        assert [each["checkpoint_id"] for each in job.payload["candidates"]] == [trained.id] and len(job.payload["texts"]) == 3
